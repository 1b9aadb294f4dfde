-- The feed of changes. A reader that stores the last seq that it has read, and continues after it, misses no change.
--
-- The initial value of a column is the old value of its first change or, if it never changed, the present value. It is
-- calculated when it is read, and only if a query uses initial_values.
create or replace view fine_tuning.changes as
select changes.seq, changes.at, changes.poll as poll_id, changes.kind, sources.name as source,
  jobs.id as fine_tuning_job_id, changes.checkpoint_id, changes.field, changes.old_value, changes.new_value,
  case
    when changes.kind = 'new' then (
      select jsonb_strip_nulls(
        jsonb_build_object(
          'step_number', checkpoints.step_number::text,
          'created_at', checkpoints.created_at::text,
          'fine_tuned_model_checkpoint', checkpoints.fine_tuned_model_checkpoint,
          'step', checkpoints.step::text,
          'train_loss', checkpoints.train_loss::text,
          'train_mean_token_accuracy', checkpoints.train_mean_token_accuracy::text,
          'valid_loss', checkpoints.valid_loss::text,
          'valid_mean_token_accuracy', checkpoints.valid_mean_token_accuracy::text,
          'full_valid_loss', checkpoints.full_valid_loss::text,
          'full_valid_mean_token_accuracy', checkpoints.full_valid_mean_token_accuracy::text
        )
        || coalesce((
          select jsonb_object_agg('extra_metrics.' || extra.key, extra.value::double precision::text)
          from jsonb_each_text(checkpoints.extra_metrics) as extra
        ), '{}')
        || coalesce((
          select jsonb_object_agg(detail.key, detail.value)
          from jsonb_each_text(checkpoints.details) as detail
        ), '{}')
        -- With the other kinds it is one of the details, or fine_tuned_model_checkpoint.
        || case sources.kind
          when 'nebius' then jsonb_build_object(
            'deploy_as', checkpointd.deploy_as(sources.kind, jobs.id, checkpoints)
          )
          else '{}'
        end
        || coalesce((
          select jsonb_object_agg(first.field, first.old_value)
          from (
            select distinct on (later.field) later.field,
              case
                when later.field in (
                  'step_number', 'created_at', 'fine_tuned_model_checkpoint', 'checkpoint_type', 'deploy_as',
                  'expires_at', 'size_bytes'
                )
                  then later.old_value
                else later.old_value::double precision::text
              end as old_value
            from checkpointd.changes as later
            where later.job = changes.job
              and later.checkpoint_id = changes.checkpoint_id
              and later.kind in ('changed', 'regressed')
            order by later.field, later.seq
          ) as first
        ), '{}')
      )
      from checkpointd.checkpoints
      where checkpoints.job = changes.job
        and checkpoints.id = changes.checkpoint_id
    )
  end as initial_values,
  checkpointd.as_number(changes.old_value) as old_number, checkpointd.as_number(changes.new_value) as new_number,
  changes.finding as finding_id
from checkpointd.changes
left join checkpointd.findings on findings.id = changes.finding
left join checkpointd.jobs on jobs.key = changes.job
join checkpointd.sources on sources.key = coalesce(jobs.source, findings.source);

comment on view fine_tuning.changes is
  'One row for each change, append-only, in the order of commits: each new checkpoint, each changed value, each '
  'checkpoint that disappears or returns, each new status of a job, each finding that fires or is resolved.';
comment on column fine_tuning.changes.seq is
  'Increases in the order of commits. Gaps between the numbers have no meaning.';
comment on column fine_tuning.changes.at is 'Time when checkpointd stored the change.';
comment on column fine_tuning.changes.poll_id is
  'Poll that found the change (polls.id); null for a status, which is found in the job list, and for a finding.';
comment on column fine_tuning.changes.kind is
  'new; changed; regressed (the provider sent null after a value, and the value is kept); missing; expired (no longer '
  'listed, as missing, but after its expires_at); returned; status. Of a finding: fired; resolved.';
comment on column fine_tuning.changes.source is 'Source of the job, or source that the finding is about.';
comment on column fine_tuning.changes.fine_tuning_job_id is
  'The provider''s id of the job; null for a finding about a source.';
comment on column fine_tuning.changes.checkpoint_id is
  'Id of the checkpoint; null for a status, and for a finding that names none.';
comment on column fine_tuning.changes.field is
  'Column of the view checkpoints, or extra_metrics.NAME for another metric; null if the whole checkpoint is meant. '
  'For a finding, its kind (findings.kind).';
comment on column fine_tuning.changes.old_value is
  'Value before the change, as text (times in Unix seconds); null if there was none. For resolved, the message of the '
  'finding.';
comment on column fine_tuning.changes.new_value is
  'Value after the change, as text (times in Unix seconds); null if there is none. For fired, the message of the '
  'finding.';
comment on column fine_tuning.changes.initial_values is
  'For a new checkpoint: the values that it was stored with, an object with the names of field and with texts as in '
  'new_value, without nulls. Null for other kinds. The later changes, applied in the order of seq, lead to the '
  'present values.';
comment on column fine_tuning.changes.old_number is
  'old_value as a number; null if it is none.';
comment on column fine_tuning.changes.new_number is
  'new_value as a number; null if it is none.';
comment on column fine_tuning.changes.finding_id is
  'Finding that fired or was resolved (findings.id); null for all other kinds.';
