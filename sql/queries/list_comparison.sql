-- List jobs side by side: what each was given, and what came of it. A job that does not exist has no row.
-- $1 source: text[], name
-- $2 id: text[], the provider's id of the job
--
-- Hyperparameters of more than 64 kB are not read, and texts are cut off after 300 characters, so that a page stays
-- small whatever providers send.
select now() as at, comparison.source, comparison.fine_tuning_job_id as id, left(comparison.status, 300) as status,
  left(comparison.model, 300) as model, left(comparison.fine_tuned_model, 300) as fine_tuned_model,
  left(comparison.method, 300) as method,
  case
    when octet_length(comparison.hyperparameters_jsonb::text) <= 65536 then comparison.hyperparameters_jsonb::text
  end as hyperparameters,
  left(comparison.training_file, 300) as training_file, left(comparison.validation_file, 300) as validation_file,
  comparison.seed::text as seed, comparison.trained_tokens, comparison.created_at, comparison.finished_at,
  comparison.duration_seconds, left(comparison.metric, 300) as best_rule, comparison.direction as best_direction,
  comparison.covered as best_covered, comparison.checkpoints as best_candidates, comparison.best_step,
  comparison.best_value, comparison.last_step,
  comparison.last_train_loss, comparison.last_valid_loss, comparison.last_full_valid_loss, comparison.valid_gap,
  comparison.full_valid_gap
from unnest($1::text[], $2::text[]) with ordinality as requested (source, id, n)
join fine_tuning.comparison
  on comparison.source = requested.source and comparison.fine_tuning_job_id = requested.id
order by requested.n
