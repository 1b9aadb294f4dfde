-- Count the jobs of each source, by phase and problem, and the checkpoints that expire soon, for the metrics.
--
-- The tables are read, not the views, and the jobs are first counted by phase: that takes half the time. The views use
-- the same functions.
with phases as (
  select jobs.source, checkpointd.phase(jobs, polling) as phase, count(*) as jobs,
    count(*) filter (where checkpointd.is_stale(jobs, polling)) as stale,
    count(*) filter (where polling.failures > 0) as failing,
    count(*) filter (where polling.last_complete_at > coalesce(polling.last_success_at, '-infinity')) as unreadable,
    count(*) filter (where checkpointd.has_suspected_gap(jobs, summaries)) as suspected_gap,
    count(polling.unstable_since) as unstable, min(checkpointd.known_since(jobs, polling)) as known_since
  from checkpointd.jobs
  join checkpointd.polling on polling.job = jobs.key
  left join checkpointd.summaries on summaries.job = jobs.key
  where jobs.untracked_at is null
  group by jobs.source, 2
),

expiring as (
  select jobs.source, count(*) as checkpoints
  from checkpointd.checkpoints
  join checkpointd.jobs on jobs.key = checkpoints.job and jobs.untracked_at is null
  join checkpointd.polling on polling.job = jobs.key and checkpointd.phase(jobs, polling) <> 'gone'
  where checkpoints.expires_at > now()
    and checkpoints.expires_at <= now() + interval '3 days'
    and checkpoints.missing_since is null
  group by jobs.source
),

followed as (
  select phases.*, phases.phase not in ('sealed', 'gone') as is_followed
  from phases
)

select sources.name as source, sources.state,
  coalesce(sum(followed.jobs) filter (where followed.phase = 'active'), 0)::bigint as active,
  coalesce(sum(followed.jobs) filter (where followed.phase = 'settling'), 0)::bigint as settling,
  coalesce(sum(followed.jobs) filter (where followed.phase = 'sealed'), 0)::bigint as sealed,
  coalesce(sum(followed.jobs) filter (where followed.phase = 'missing'), 0)::bigint as missing,
  coalesce(sum(followed.jobs) filter (where followed.phase = 'gone'), 0)::bigint as gone,
  coalesce(sum(followed.jobs) filter (where followed.phase = 'forbidden'), 0)::bigint as forbidden,
  coalesce(sum(followed.stale), 0)::bigint as stale,
  coalesce(sum(followed.failing), 0)::bigint as failing,
  coalesce(sum(followed.unreadable), 0)::bigint as unreadable,
  coalesce(sum(followed.suspected_gap) filter (where followed.is_followed), 0)::bigint as suspected_gap,
  coalesce(sum(followed.unstable) filter (where followed.is_followed), 0)::bigint as unstable,
  coalesce(max(expiring.checkpoints), 0) as expiring,
  coalesce(
    extract(epoch from now() - min(followed.known_since) filter (where followed.is_followed)), 0
  )::float8 as oldest_lag_seconds
from checkpointd.sources
left join followed on followed.source = sources.key
left join expiring on expiring.source = sources.key
group by sources.key
