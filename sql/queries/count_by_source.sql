-- What the metrics tell of each source: its state, its tracked jobs by phase, how many are in trouble, the oldest lag.
with tracked as (
  select f.source, j.phase, j.phase not in ('sealed', 'gone') as is_followed, f.is_stale, f.consecutive_failures > 0 as is_failing,
    f.last_complete_at > coalesce(f.last_success_at, '-infinity') as is_unreadable, j.suspected_gap, f.lag
  from fine_tuning.freshness f
  join fine_tuning.jobs j on j.source = f.source and j.id = f.fine_tuning_job_id)
select s.name as source, s.state,
  count(*) filter (where t.phase = 'active') as active, count(*) filter (where t.phase = 'settling') as settling,
  count(*) filter (where t.phase = 'sealed') as sealed, count(*) filter (where t.phase = 'missing') as missing,
  count(*) filter (where t.phase = 'gone') as gone, count(*) filter (where t.phase = 'forbidden') as forbidden,
  count(*) filter (where t.is_stale) as stale, count(*) filter (where t.is_failing) as failing,
  count(*) filter (where t.is_unreadable) as unreadable,
  count(*) filter (where t.is_followed and t.suspected_gap) as suspected_gap,
  coalesce(extract(epoch from max(t.lag) filter (where t.is_followed)), 0)::float8 as oldest_lag_seconds
from fine_tuning.sources s left join tracked t on t.source = s.name
group by s.name, s.state
