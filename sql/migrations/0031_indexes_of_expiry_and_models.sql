-- In a file of their own, because each reads a whole table: meanwhile only writers of these tables have to wait. The
-- largest table is the last one.
--
-- Names of models can be longer than an entry of an index may be. Those in checkpointd.models have 256 characters at
-- most.
create index jobs_model on checkpointd.jobs (source, left(model, 256));
create index jobs_fine_tuned_model on checkpointd.jobs (source, left(fine_tuned_model, 256));
create index checkpoints_expires_at on checkpointd.checkpoints (expires_at) where expires_at is not null;
comment on index checkpointd.jobs_model is 'Finds the jobs with this base model.';
comment on index checkpointd.jobs_fine_tuned_model is 'Finds the job of this model.';
comment on index checkpointd.checkpoints_expires_at is 'Finds the checkpoints that expire soon.';
