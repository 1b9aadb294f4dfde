-- Items are read value by value. A checkpoint whose time or model name is odd is stored without it, and so is a job
-- record. A reject of a job record belongs to its source if the job is not known.

alter table checkpointd.checkpoints
  alter column created_at drop not null,
  alter column fine_tuned_model_checkpoint drop not null;
comment on column checkpointd.checkpoints.created_at is
  'Time when the checkpoint was made, in Unix seconds, according to the provider; null if never received. It is not '
  'checked for plausibility.';
comment on column checkpointd.checkpoints.fine_tuned_model_checkpoint is
  'Name of the model under which the checkpoint can be used; null if never received.';
comment on column checkpointd.checkpoints.payload is
  'Item as last received, with null for what the type json does not accept, such as NaN. The type is json because '
  'jsonb drops duplicate keys and rejects some text.';

alter table checkpointd.rejects
  drop constraint rejects_pkey,
  alter column job drop not null,
  add column source int constraint rejects_source_exists references checkpointd.sources,
  add column owner bigint generated always as (coalesce(job, -source)) stored,
  add column is_stored boolean not null default false,
  add constraint rejects_pkey primary key (owner, digest),
  add constraint rejects_job_digest_unique unique (job, digest),  -- used by daemons of version 0.1.0
  add constraint rejects_have_one_owner check (num_nonnulls(job, source) = 1);
comment on table checkpointd.rejects is
  'One row for each item that could not be read, wholly or in part, with its bytes, so that nothing that a provider '
  'sent is lost. Items are checkpoints and job records.';
comment on column checkpointd.rejects.job is 'Key of the job; null for a job record whose job is not known.';
comment on column checkpointd.rejects.source is 'Key of the source of a job record whose job is not known; else null.';
comment on column checkpointd.rejects.owner is
  'Key of the job, or the negative key of the source. At most 1000 rejects are stored for each.';
comment on column checkpointd.rejects.digest is
  'SHA-256 of the item''s id and the reason or, if it has no id that can be read, of its bytes; empty for the row '
  'that counts the rejects which are too many to be stored.';
comment on column checkpointd.rejects.reason is 'Why the item cannot be read, or which of its values are odd.';
comment on column checkpointd.rejects.is_stored is
  'True if the item is stored without the values that the reason names, false if nothing of it is.';
comment on column checkpointd.rejects.raw is
  'Bytes of the item when it was first read, at most the first 64 KiB; null if they contain a secret.';
comment on column checkpointd.rejects.last_seen_at is
  'Time when the item was last counted.';
comment on column checkpointd.rejects.count is
  'Number of compared listings that had the item. A listing that equals the one before is not compared. A job record '
  'is counted when it differs from the last one.';

comment on column checkpointd.jobs.hyperparameters is
  'Hyperparameters as received, with null for odd values in them; those of the job''s method if the job has none of '
  'its own.';
comment on column checkpointd.jobs.metadata is 'Metadata as received, with null for odd values in them.';
comment on column checkpointd.jobs.payload is
  'Whole job record as last received, with null for what the type json does not accept, such as NaN.';
comment on column checkpointd.polling.last_success_at is
  'Time when a poll last read every page and at least the important values of every item.';
comment on column checkpointd.polling.rejected is
  'Number of items of the last compared listing of which nothing could be stored.';
