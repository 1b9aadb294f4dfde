-- The checkpoints of a job, the last step first. $1 source, $2 id, $3 how many, $4 after how many.
select c.id, c.step_number, c.epoch, c.fine_tuned_model_checkpoint, c.train_loss, c.valid_loss, c.full_valid_loss,
  c.train_mean_token_accuracy, c.valid_mean_token_accuracy, c.full_valid_mean_token_accuracy, c.extra_metrics, c.is_final,
  c.first_seen_at, c.missing_since
from fine_tuning.checkpoints c where c.source = $1::text and c.fine_tuning_job_id = $2::text
order by c.step_number desc, c.id limit $3 offset $4
