-- Read what the curves of jobs need: how far each training has come, when it began, and the names of its metrics.
-- $1 source: text[], name
-- $2 id: text[], the provider's id of the job
-- $3 count: bigint, the most names of a job
--
-- A job that does not exist has no row. `names` are the metrics without a column of their own of the last hundred
-- steps and the last ten checkpoints, because many are not measured at each: that of the objective first, then
-- rewards. The hundred steps are looked for where they are if all steps are equally far apart.
select requested.n, coalesce(event_lists.step_count, 0) as step_count, event_lists.last_step,
  case when last_step.total_steps >= last_step.step_number then last_step.total_steps end as total_steps,
  coalesce(first_step.created_at, comparison.created_at) as started_at,
  coalesce(
    case
      when last_step.total_steps > 0 and comparison.n_epochs between 1 and 100000
        then comparison.n_epochs::float8 / last_step.total_steps
    end,
    measured.epochs_per_step
  ) as epochs_per_step,
  comparison.metric as objective, array(
    select named.name
    from (
      select jsonb_object_keys(latest.extra_metrics) as name
      from (
        (
          select steps.extra_metrics
          from fine_tuning.steps
          where steps.source = requested.source
            and steps.fine_tuning_job_id = requested.id
            and steps.step_number between expected.first_step and event_lists.last_step
          order by steps.step_number desc
          limit 100
        )
        union all
        (
          select checkpoints.extra_metrics
          from fine_tuning.checkpoints
          where checkpoints.source = requested.source
            and checkpoints.fine_tuning_job_id = requested.id
          order by checkpoints.step_number desc nulls last, checkpoints.id
          limit 10
        )
      ) as latest
      union
      select comparison.metric
      where comparison.metric not in (
        'step', 'train_loss', 'train_mean_token_accuracy', 'valid_loss', 'valid_mean_token_accuracy',
        'full_valid_loss', 'full_valid_mean_token_accuracy'
      )
    ) as named
    order by named.name is distinct from comparison.metric, position('reward' in named.name) = 0, named.name
    limit $3::bigint
  ) as names
from unnest($1::text[], $2::text[]) with ordinality as requested (source, id, n)
join fine_tuning.comparison
  on comparison.source = requested.source and comparison.fine_tuning_job_id = requested.id
left join fine_tuning.event_lists
  on event_lists.source = requested.source and event_lists.fine_tuning_job_id = requested.id
left join fine_tuning.steps as last_step
  on last_step.source = event_lists.source and last_step.fine_tuning_job_id = event_lists.fine_tuning_job_id
  and last_step.step_number = event_lists.last_step
left join fine_tuning.steps as first_step
  on first_step.source = event_lists.source and first_step.fine_tuning_job_id = event_lists.fine_tuning_job_id
  and first_step.step_number = event_lists.first_step
cross join lateral (
  select event_lists.last_step::float8
    - 100 * (event_lists.last_step::float8 - event_lists.first_step::float8) / event_lists.step_count as first_step
) as estimated
cross join lateral (
  select greatest(-9223372036854775808, least(9e18, estimated.first_step))::bigint as first_step
) as expected
left join lateral (
  select checkpoints.epoch::float8 / checkpoints.step_number as epochs_per_step
  from fine_tuning.checkpoints
  where checkpoints.source = requested.source
    and checkpoints.fine_tuning_job_id = requested.id
    and checkpoints.epoch > 0
    and checkpoints.step_number > 0
  order by checkpoints.step_number desc
  limit 1
) as measured on true
order by requested.n
