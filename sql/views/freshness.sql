-- How far what is stored can be believed, a tracked job at a time.
create or replace view fine_tuning.freshness as
select s.name as source, j.id as fine_tuning_job_id, p.last_attempt_at, p.last_complete_at, p.last_success_at,
  p.last_change_at, nullif(p.next_poll_at, 'infinity') as next_poll_at,
  case when p.sealed_at is null then now() - coalesce(p.last_complete_at, j.tracked_at) end as lag,
  checkpointd.phase(j, p) not in ('sealed', 'gone') and coalesce(p.last_complete_at, j.tracked_at)
    < now() - (2 * p.gap_s + 60) * interval '1 s' as is_stale,
  p.failures as consecutive_failures, p.error_class, p.last_error, p.quiet_polls
from checkpointd.polling p
join checkpointd.jobs j on j.key = p.job
join checkpointd.sources s on s.key = j.source
where j.untracked_at is null;
comment on view fine_tuning.freshness is 'One row a tracked job: when it was last tried, read completely, read without fault and changed.';
comment on column fine_tuning.freshness.source is 'The source of the job.';
comment on column fine_tuning.freshness.fine_tuning_job_id is 'The job.';
comment on column fine_tuning.freshness.last_attempt_at is 'When a poll last began, whatever came of it.';
comment on column fine_tuning.freshness.last_complete_at is 'When a poll last read every page.';
comment on column fine_tuning.freshness.last_success_at is 'When a poll last read every page and every item.';
comment on column fine_tuning.freshness.last_change_at is 'When a poll last changed something.';
comment on column fine_tuning.freshness.next_poll_at is 'When the next poll is due; null: never, the job is sealed.';
comment on column fine_tuning.freshness.lag is 'How long ago the last complete listing was (or the tracking, before the first); null: sealed.';
comment on column fine_tuning.freshness.is_stale is 'The last complete listing is older than two of the job''s own gaps and a minute. Never of a job that is sealed or gone.';
comment on column fine_tuning.freshness.consecutive_failures is 'Failed polls in a row.';
comment on column fine_tuning.freshness.error_class is 'The class of the last failure; null: the last poll did not fail.';
comment on column fine_tuning.freshness.last_error is 'The last failure in words; null: the last poll did not fail.';
comment on column fine_tuning.freshness.quiet_polls is 'How many complete listings changed nothing.';
