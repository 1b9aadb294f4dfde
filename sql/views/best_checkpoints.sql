-- The checkpoint to deploy by validation loss.
create or replace view fine_tuning.best_checkpoints as
select s.name as source, j.id as fine_tuning_job_id, best.id as checkpoint_id, best.step_number,
  best.fine_tuned_model_checkpoint, rule.metric as rule, best.value, rule.covered, rule.checkpoints, best.missing_since
from checkpointd.jobs j
join checkpointd.sources s on s.key = j.source
cross join lateral (
  select case when count(c.full_valid_loss) >= count(c.valid_loss) and count(c.full_valid_loss) > 0 then 'full_valid_loss'
      when count(c.valid_loss) > 0 then 'valid_loss' end as metric,
    greatest(count(c.full_valid_loss), count(c.valid_loss)) as covered, count(*) as checkpoints
  from checkpointd.checkpoints c where c.job = j.key) rule
left join lateral (
  select c.id, c.step_number, c.fine_tuned_model_checkpoint, c.missing_since, v.value
  from checkpointd.checkpoints c
  cross join lateral (select case rule.metric when 'full_valid_loss' then c.full_valid_loss else c.valid_loss end) v (value)
  where c.job = j.key and rule.metric is not null and v.value <> 'NaN'
  order by v.value, c.step_number desc, c.id limit 1) best on true
where rule.checkpoints > 0;
comment on view fine_tuning.best_checkpoints is 'One row a job with checkpoints: the one with the smallest validation loss, by the metric that more of them have; by full_valid_loss where both have as many; of equals the later step.';
comment on column fine_tuning.best_checkpoints.source is 'The source of the job.';
comment on column fine_tuning.best_checkpoints.fine_tuning_job_id is 'The job.';
comment on column fine_tuning.best_checkpoints.checkpoint_id is 'The best checkpoint; null: no validation loss is known.';
comment on column fine_tuning.best_checkpoints.step_number is 'Its step.';
comment on column fine_tuning.best_checkpoints.fine_tuned_model_checkpoint is 'The model name to deploy.';
comment on column fine_tuning.best_checkpoints.rule is 'The metric it was chosen by: full_valid_loss or valid_loss; null: neither is known.';
comment on column fine_tuning.best_checkpoints.value is 'The value of that metric.';
comment on column fine_tuning.best_checkpoints.covered is 'How many of the job''s checkpoints have that metric: only they were compared.';
comment on column fine_tuning.best_checkpoints.checkpoints is 'How many checkpoints of the job are known.';
comment on column fine_tuning.best_checkpoints.missing_since is 'Since when the provider no longer lists it; null: it does.';
