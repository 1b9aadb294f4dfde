-- What was known at a time: today's values, with every later change undone.
create or replace function fine_tuning.metrics_as_of(job text, at timestamptz)
returns table (checkpoint_id text, source text, fine_tuning_job_id text, step_number bigint, metric text, value double precision)
language sql stable as $$
with seen as (
  select c.source, c.checkpoint_id from fine_tuning.changes c
  where c.fine_tuning_job_id = metrics_as_of.job and c.kind = 'new' and c.at <= metrics_as_of.at),
told as (   -- of a field that ever changed: what its last change until then said, else what its first one after it replaced
  select c.source, c.checkpoint_id, c.field, case when bool_or(c.at <= metrics_as_of.at)
    then (array_agg(coalesce(c.new_value, c.old_value) order by c.seq desc) filter (where c.at <= metrics_as_of.at))[1]
    else (array_agg(c.old_value order by c.seq))[1] end as known
  from fine_tuning.changes c
  where c.fine_tuning_job_id = metrics_as_of.job and c.kind in ('changed', 'regressed')
  group by c.source, c.checkpoint_id, c.field)
select m.checkpoint_id, m.source, m.fine_tuning_job_id, coalesce(step.known::bigint, m.step_number), m.metric,
  case when t.field is null then m.value else t.known::double precision end
from fine_tuning.checkpoint_metrics m
join seen on seen.source = m.source and seen.checkpoint_id = m.checkpoint_id
left join told t on t.source = m.source and t.checkpoint_id = m.checkpoint_id
  and t.field = case when m.metric in ('step', 'train_loss', 'train_mean_token_accuracy', 'valid_loss', 'valid_mean_token_accuracy',
    'full_valid_loss', 'full_valid_mean_token_accuracy') then m.metric else 'extra_metrics.' || m.metric end
left join told step on step.source = m.source and step.checkpoint_id = m.checkpoint_id and step.field = 'step_number'
where m.fine_tuning_job_id = metrics_as_of.job and (t.field is null or t.known is not null) $$;
comment on function fine_tuning.metrics_as_of is 'The metrics of a job''s checkpoints as they were known at a time, a row each, as in checkpoint_metrics. What the provider had but had not shown by then is not among them. The time of a change is changes.at.';
