-- List one page of the jobs that match every search word, the newest first, with totals over all pages.
-- $1 word: text[], in lower case; each occurs in the id, source, status, phase or models of a job, or in the words
--   stale and failing for a job in that state
-- $2 page_size: bigint, the most jobs to return
-- $3 page: int, from 1; a number after the last page means the last page
-- $4 status_count: bigint, the most statuses to return, the most frequent first
--
-- Each row has the totals. If no job matches, there is one row with the totals only. Texts are cut off after 300
-- characters, and of the hyperparameters only n_epochs is read, so that a page stays small whatever providers send.
with troubled as (
  select source, fine_tuning_job_id, is_stale, consecutive_failures > 0 as is_failing
  from fine_tuning.freshness
  where is_stale or consecutive_failures > 0
),

found as materialized (
  select jobs.source, jobs.id, left(jobs.status, 300) as status,
    coalesce(jobs.created_at, jobs.tracked_at) as since, troubled.is_stale, troubled.is_failing
  from fine_tuning.jobs
  left join troubled on troubled.source = jobs.source and troubled.fine_tuning_job_id = jobs.id
  where not exists (
    select from unnest($1::text[]) as wanted (word)
    where position(wanted.word in lower(concat_ws(
      ' ', jobs.id, jobs.source, left(jobs.status, 300), jobs.phase, left(jobs.model, 300),
      left(jobs.fine_tuned_model, 300),
      case when troubled.is_stale then 'stale' end, case when troubled.is_failing then 'failing' end
    ))) = 0
  )
),

totals as (
  select count(*) as total, count(*) filter (where is_stale) as stale, count(*) filter (where is_failing) as failing
  from found
),

statuses as (
  select array_agg(frequent.status order by frequent.count desc, frequent.status) as statuses,
    array_agg(frequent.count order by frequent.count desc, frequent.status) as status_counts
  from (
    select status, count(*) as count
    from found
    group by status
    order by count(*) desc, status
    limit $4
  ) as frequent
),

page as (
  select source, id, since
  from found
  order by since desc, source, id
  limit $2::bigint
  offset (select least($3::int - 1, greatest(total - 1, 0) / $2) * $2 from totals)
)

select now() as at, totals.total, totals.stale, totals.failing, statuses.statuses, statuses.status_counts,
  jobs.source, jobs.id, left(jobs.status, 300) as status, jobs.phase, left(jobs.model, 300) as model,
  left(jobs.fine_tuned_model, 300) as fine_tuned_model, jobs.estimated_finish, jobs.finished_at,
  case
    when pg_column_size(jobs.hyperparameters) <= 8192
      then json_build_object('n_epochs', jobs.hyperparameters ->> 'n_epochs')
  end as hyperparameters,
  jobs.checkpoint_count, greatest(jobs.latest_step, last_step.step_number) as latest_step,
  case when last_step.total_steps >= greatest(jobs.latest_step, last_step.step_number) then last_step.total_steps end
    as total_steps,
  jobs.suspected_gap,
  jobs.unstable_since, freshness.last_complete_at, freshness.last_success_at, freshness.is_stale,
  freshness.consecutive_failures, left(freshness.last_error, 300) as last_error
from totals
cross join statuses
left join page on true
left join fine_tuning.jobs on jobs.source = page.source and jobs.id = page.id
left join fine_tuning.freshness on freshness.source = page.source and freshness.fine_tuning_job_id = page.id
left join fine_tuning.event_lists on event_lists.source = page.source and event_lists.fine_tuning_job_id = page.id
left join fine_tuning.steps as last_step
  on last_step.source = event_lists.source and last_step.fine_tuning_job_id = event_lists.fine_tuning_job_id
  and last_step.step_number = event_lists.last_step
order by page.since desc, page.source, page.id
