-- What several views share: where a tracked job stands, providers' times, which may be anything, and a job's checkpoints
-- as a whole.
create or replace function checkpointd.phase(job checkpointd.jobs, polling checkpointd.polling) returns text
language sql stable return case
  when job.untracked_at is not null then 'untracked'
  when polling.sealed_at is not null then 'sealed'
  when polling.is_gone then 'gone'
  when polling.error_class in ('missing', 'forbidden') then polling.error_class
  when polling.settling_since is not null then 'settling'
  else 'active' end;
comment on function checkpointd.phase is 'active, settling (ended, still polled), sealed (ended, polling stopped), missing, gone (missing for long, polled daily), forbidden, untracked.';
create or replace function checkpointd.unix_time(seconds bigint, ahead interval) returns timestamptz
language sql stable return case when seconds >= 1420070400 and seconds <= extract(epoch from now() + ahead)
  then to_timestamp(seconds) end;
comment on function checkpointd.unix_time is 'A provider''s time; null where it cannot be: before 2015, or further ahead than given.';
create or replace function checkpointd.epoch(step_number bigint, step_distance double precision, latest_step bigint, n_epochs text, status text)
returns int
language sql immutable return case when n_epochs ~ '^[0-9]{1,6}(\.0+)?$' then case
  when round(latest_step / step_distance) <= n_epochs::numeric and round(step_number / step_distance) >= 1
    and (lower(status) is distinct from 'succeeded' or round(latest_step / step_distance) = n_epochs::numeric)
    and abs(step_number / step_distance - round(step_number / step_distance)) <= 0.1
  then round(step_number / step_distance)::int end end;
comment on function checkpointd.epoch is 'The epoch that a checkpoint ended, if a checkpoint was made at the end of each; null where the steps say otherwise, as those of a job that succeeded do if they do not end with its last epoch. Epochs may not divide evenly into steps: a tenth of one is allowed for that.';
create or replace function checkpointd.summarise(jobs bigint[], bursts boolean[]) returns void
language sql as $$
with own as (
  select c.job, c.id, c.step_number, nullif(c.full_valid_loss, 'NaN') as full_valid_loss, nullif(c.valid_loss, 'NaN') as valid_loss,
    nullif(c.step_number::float8 - lag(c.step_number) over (partition by c.job order by c.step_number), 0) as distance,
    c.missing_since is null as is_listed
  from checkpointd.checkpoints c where c.job = any (jobs)),
whole as (
  select o.job, count(*) as n, max(o.step_number) as latest, max(o.distance) as widest,
    percentile_disc(0.5) within group (order by o.distance) as median, count(*) filter (where o.is_listed) as listed
  from own o group by o.job),
rule as (   -- chosen among those still listed, or, where none is, among all
  select o.job, count(*) as candidates, count(o.full_valid_loss) as full, count(o.valid_loss) as sampled,
    case when count(o.full_valid_loss) > 0 and count(o.full_valid_loss) >= least(count(o.valid_loss), count(*) - 1) then 'full_valid_loss'
      when count(o.valid_loss) > 0 then 'valid_loss' end as metric
  from own o join whole w on w.job = o.job where o.is_listed or w.listed = 0 group by o.job),
best as (
  select distinct on (o.job) o.job, o.id
  from own o join whole w on w.job = o.job join rule r on r.job = o.job
  cross join lateral (select case r.metric when 'full_valid_loss' then o.full_valid_loss when 'valid_loss' then o.valid_loss end) v (loss)
  where (o.is_listed or w.listed = 0) and v.loss is not null
  order by o.job, v.loss, o.step_number desc, o.id)
insert into checkpointd.summaries as s (job, checkpoint_count, latest_step, step_distance, is_uneven, came_in_a_burst, candidates,
  best_rule, best_covered, best_id)
select w.job, w.n, w.latest, w.median, coalesce(w.widest > 1.5 * w.median, false), u.burst, r.candidates, r.metric,
  case r.metric when 'full_valid_loss' then r.full when 'valid_loss' then r.sampled else 0 end, b.id
from whole w
join unnest(jobs, bursts) u (job, burst) on u.job = w.job
join rule r on r.job = w.job
left join best b on b.job = w.job
on conflict (job) do update set checkpoint_count = excluded.checkpoint_count, latest_step = excluded.latest_step,
  step_distance = excluded.step_distance, is_uneven = excluded.is_uneven,
  came_in_a_burst = s.came_in_a_burst or excluded.came_in_a_burst, candidates = excluded.candidates,
  best_rule = excluded.best_rule, best_covered = excluded.best_covered, best_id = excluded.best_id $$;
comment on column checkpointd.polling.equal_listings is 'Complete listings in a row with this digest, since it is settled.';
comment on column checkpointd.summaries.best_rule is 'full_valid_loss, where all candidates but one at most have it, or as many as have valid_loss; else valid_loss; null: none has one.';
comment on function checkpointd.summarise is 'Rewrites the summaries of jobs; for each, whether more than three of its checkpoints came at once.';
select checkpointd.summarise(array_agg(j.key), array_agg(false)) from checkpointd.jobs j
where not exists (select from checkpointd.summaries s where s.job = j.key)
  and exists (select from checkpointd.checkpoints c where c.job = j.key);
