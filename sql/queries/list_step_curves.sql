-- List the curves of jobs, reduced to the extremes: for each job and metric, the axis is divided into equal parts.
-- $1 source: text[], name
-- $2 id: text[], the provider's id of the job
-- $3 per_step: float8[], position on the axis for each step; null: the axis is the time
-- $4 start: timestamptz[], time at position 0 of that axis; null if it is not known
-- $5 every: int[], a step is read if its hash is divisible by this: 1 for all steps; 0: read the checkpoints instead
-- $6 name: text[], the metrics to read that have no column of their own
-- $7 parts: int, the most rows of a job and metric
--
-- A row has the least and the greatest value in its part of the axis, with their positions, and the mean of the values
-- and of their positions. The mean of values above 1e100 is null: their sum may overflow. The parts are the same for
-- all jobs. `n` is the number of the job, from 1, and `metric` that of the metric: the six columns, then the names.
with requested as (
  select job.source, job.id, job.per_step, job.start, job.every, job.n
  from unnest($1::text[], $2::text[], $3::float8[], $4::timestamptz[], $5::int[]) with ordinality
    as job (source, id, per_step, start, every, n)
),

curves as (
  select requested.n, requested.per_step, requested.start, steps.step_number, steps.created_at, steps.train_loss,
    steps.valid_loss, steps.full_valid_loss, steps.train_mean_token_accuracy, steps.valid_mean_token_accuracy,
    steps.full_valid_mean_token_accuracy, case when $6::text[] <> '{}' then steps.extra_metrics end as extra_metrics
  from requested
  join fine_tuning.steps on steps.source = requested.source and steps.fine_tuning_job_id = requested.id
  where hashint8(steps.step_number) % nullif(requested.every, 0) = 0
  union all
  select requested.n, requested.per_step, requested.start, checkpoints.step_number, checkpoints.created_at,
    checkpoints.train_loss, checkpoints.valid_loss, checkpoints.full_valid_loss, checkpoints.train_mean_token_accuracy,
    checkpoints.valid_mean_token_accuracy, checkpoints.full_valid_mean_token_accuracy,
    case when $6 <> '{}' then checkpoints.extra_metrics end
  from requested
  join fine_tuning.checkpoints
    on checkpoints.source = requested.source and checkpoints.fine_tuning_job_id = requested.id
  where requested.every = 0
),

points as materialized (
  select curves.n, metric.number as metric, curves.step_number, metric.value, placed.x
  from curves
  cross join lateral (
    select curves.extra_metrics,
      case
        when curves.per_step is not null then curves.step_number * curves.per_step
        else extract(epoch from curves.created_at - curves.start)::float8
      end as x
    offset 0
  ) as placed
  cross join lateral (
    values
    (1, curves.train_loss), (2, curves.valid_loss), (3, curves.full_valid_loss), (4, curves.train_mean_token_accuracy),
    (5, curves.valid_mean_token_accuracy), (6, curves.full_valid_mean_token_accuracy)
    union all
    select 6 + extra.number::int, (placed.extra_metrics ->> extra.name)::float8
    from unnest($6) with ordinality as extra (name, number)
    where placed.extra_metrics is not null
  ) as metric (number, value)
  where placed.x is not null
    and metric.value between '-1.7976931348623157e308' and '1.7976931348623157e308'
),

axis as (
  select min(x) as low, coalesce(nullif(max(x) - min(x), 0), 1) as width
  from points
)

select points.n, points.metric, least(floor((points.x - axis.low) / axis.width * $7::int), $7 - 1)::int as part,
  min(points.step_number) as first_step, max(points.step_number) as last_step,
  (min(array[points.value, points.x]))[1] as least, (min(array[points.value, points.x]))[2] as least_x,
  (max(array[points.value, points.x]))[1] as greatest, (max(array[points.value, points.x]))[2] as greatest_x,
  avg(points.value) filter (where abs(points.value) < 1e100) as mean, avg(points.x) as x, count(*) as count
from points
cross join axis
group by points.n, points.metric, part
order by points.n, points.metric, part
