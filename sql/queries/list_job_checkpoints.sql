-- List a part of the checkpoints of a job, the last step first.
-- $1 source: text, name
-- $2 id: text, the provider's id of the job
-- $3 count: bigint, the most rows to return
-- $4 skipped: bigint, the number of rows to leave out at the beginning
--
-- Texts are cut off after 1000 characters, so that a page stays small whatever providers send.
select id, step_number, epoch, left(deploy_as, 1000) as deploy_as, train_loss, valid_loss, full_valid_loss,
  train_mean_token_accuracy, valid_mean_token_accuracy, full_valid_mean_token_accuracy,
  left(extra_metrics::text, 1000) as extra_metrics, is_final, first_seen_at, missing_since,
  is_expired
from fine_tuning.checkpoints
where source = $1::text
  and fine_tuning_job_id = $2::text
order by step_number desc, created_at desc, id
limit $3
offset $4
