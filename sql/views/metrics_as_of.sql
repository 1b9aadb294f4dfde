-- The metrics of a job as they were stored at an earlier time: the present values, with later changes undone.
create or replace function fine_tuning.metrics_as_of(job text, at timestamptz)
returns table (
  checkpoint_id text, source text, fine_tuning_job_id text, step_number bigint, metric text, value double precision
)
language sql stable as $$
with seen as (
  select changes.source, changes.checkpoint_id
  from fine_tuning.changes
  where changes.fine_tuning_job_id = metrics_as_of.job
    and changes.kind = 'new'
    and changes.at <= metrics_as_of.at
),

-- The value at that time of each field that ever changed: the new value of its last change before, or else the old
-- value of its first change after.
known as (
  select changes.source, changes.checkpoint_id, changes.field,
    case
      when bool_or(changes.at <= metrics_as_of.at) then (
        array_agg(coalesce(changes.new_value, changes.old_value) order by changes.seq desc)
          filter (where changes.at <= metrics_as_of.at)
      )[1]
      else (array_agg(changes.old_value order by changes.seq))[1]
    end as value
  from fine_tuning.changes
  where changes.fine_tuning_job_id = metrics_as_of.job
    and changes.kind in ('changed', 'regressed')
  group by changes.source, changes.checkpoint_id, changes.field
)

select metrics.checkpoint_id, metrics.source, metrics.fine_tuning_job_id,
  coalesce(step.value::bigint, metrics.step_number), metrics.metric,
  case when known.field is null then metrics.value else known.value::double precision end
from fine_tuning.checkpoint_metrics as metrics
join seen on seen.source = metrics.source and seen.checkpoint_id = metrics.checkpoint_id
left join known
  on known.source = metrics.source
  and known.checkpoint_id = metrics.checkpoint_id
  and known.field = case
    when metrics.metric in (
      'step', 'train_loss', 'train_mean_token_accuracy', 'valid_loss', 'valid_mean_token_accuracy', 'full_valid_loss',
      'full_valid_mean_token_accuracy'
    ) then metrics.metric
    else 'extra_metrics.' || metrics.metric
  end
left join known as step
  on step.source = metrics.source and step.checkpoint_id = metrics.checkpoint_id and step.field = 'step_number'
where metrics.fine_tuning_job_id = metrics_as_of.job
  and (known.field is null or known.value is not null)
$$;

comment on function fine_tuning.metrics_as_of is
  'Returns the metrics of a job''s checkpoints as they were stored at the given time, one per row as in '
  'checkpoint_metrics. A value that was received later is not included. Times are those of changes.at.';
