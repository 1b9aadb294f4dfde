-- List the messages of a job, the newest first.
-- $1 source: text, name
-- $2 id: text, the provider's id of the job
-- $3 count: bigint, the most rows to return
--
-- Texts are cut off after 1000 characters, so that a page stays small whatever providers send.
select id, created_at, first_seen_at, left(level, 1000) as level, left(message, 1000) as message
from fine_tuning.events
where source = $1::text
  and fine_tuning_job_id = $2::text
order by coalesce(created_at, first_seen_at) desc, first_seen_at desc, id desc
limit $3
