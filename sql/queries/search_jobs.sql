-- A page of the jobs that have every word in what people know them by, newest first. Each row (without jobs there is one, too)
-- has the totals. $1 words, in lower case, $2 how many a page, $3 the page, from 1, $4 how many statuses.
with found as materialized (
  select j.source, j.id, j.status, coalesce(j.created_at, j.tracked_at) as since, f.is_stale, f.consecutive_failures > 0 as is_failing
  from fine_tuning.jobs j
  left join fine_tuning.freshness f on f.source = j.source and f.fine_tuning_job_id = j.id
  where not exists (
    select from unnest($1::text[]) w (word) where position(w.word in lower(concat_ws(' ', j.id, j.source, j.status, j.phase, j.model,
      j.fine_tuned_model, case when f.is_stale then 'stale' end, case when f.consecutive_failures > 0 then 'failing' end))) = 0)),
totals as (
  select count(*) as total, count(*) filter (where is_stale) as stale, count(*) filter (where is_failing) as failing from found),
statuses as (
  select array_agg(s.status order by s.n desc, s.status) as statuses, array_agg(s.n order by s.n desc, s.status) as status_counts
  from (select status, count(*) as n from found group by status order by n desc, status limit $4) s),
page as (
  select p.source, p.id, p.since from found p order by p.since desc, p.source, p.id
  limit $2::int offset (select least($3::int - 1, greatest(t.total - 1, 0) / $2) * $2 from totals t))
select now() as at, t.total, t.stale, t.failing, s.statuses, s.status_counts, j.source, j.id, j.status, j.phase, j.model,
  j.fine_tuned_model, j.estimated_finish, j.finished_at, j.hyperparameters, j.checkpoint_count, j.latest_step, j.suspected_gap,
  f.last_complete_at, f.last_success_at, f.is_stale, f.consecutive_failures, f.last_error
from totals t
cross join statuses s
left join page p on true
left join fine_tuning.jobs j on j.source = p.source and j.id = p.id
left join fine_tuning.freshness f on f.source = p.source and f.fine_tuning_job_id = p.id
order by p.since desc, p.source, p.id
