-- Count the jobs of each source, by phase and problem, and the checkpoints that expire soon, for the metrics.
with tracked as (
  select freshness.source, jobs.phase, jobs.phase not in ('sealed', 'gone') as is_followed, freshness.is_stale,
    freshness.consecutive_failures > 0 as is_failing,
    freshness.last_complete_at > coalesce(freshness.last_success_at, '-infinity') as is_unreadable,
    jobs.suspected_gap, jobs.unstable_since is not null as is_unstable, freshness.lag
  from fine_tuning.freshness
  join fine_tuning.jobs on jobs.source = freshness.source and jobs.id = freshness.fine_tuning_job_id
),

expiring as (
  select checkpoints.source, count(*) as checkpoints
  from fine_tuning.checkpoints
  join fine_tuning.jobs on jobs.source = checkpoints.source and jobs.id = checkpoints.fine_tuning_job_id
  where checkpoints.expires_at > now()
    and checkpoints.expires_at <= now() + interval '3 days'
    and checkpoints.missing_since is null
    and jobs.phase not in ('untracked', 'gone')
  group by checkpoints.source
)

select sources.name as source, sources.state,
  count(*) filter (where tracked.phase = 'active') as active,
  count(*) filter (where tracked.phase = 'settling') as settling,
  count(*) filter (where tracked.phase = 'sealed') as sealed,
  count(*) filter (where tracked.phase = 'missing') as missing,
  count(*) filter (where tracked.phase = 'gone') as gone,
  count(*) filter (where tracked.phase = 'forbidden') as forbidden,
  count(*) filter (where tracked.is_stale) as stale,
  count(*) filter (where tracked.is_failing) as failing,
  count(*) filter (where tracked.is_unreadable) as unreadable,
  count(*) filter (where tracked.is_followed and tracked.suspected_gap) as suspected_gap,
  count(*) filter (where tracked.is_followed and tracked.is_unstable) as unstable,
  coalesce(max(expiring.checkpoints), 0) as expiring,
  coalesce(extract(epoch from max(tracked.lag) filter (where tracked.is_followed)), 0)::float8 as oldest_lag_seconds
from fine_tuning.sources
left join tracked on tracked.source = sources.name
left join expiring on expiring.source = sources.name
group by sources.name, sources.state
