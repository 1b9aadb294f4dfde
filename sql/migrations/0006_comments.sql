-- Rewrites the comments on the private tables and columns in plain English. Changes nothing else.

comment on schema fine_tuning is 'Views for people, dashboards and programs. They only ever gain columns.';
comment on schema checkpointd is
  'Private tables of checkpointd, which may change with each version. Read the views of schema fine_tuning instead.';

comment on table checkpointd.schema_migrations is
  'Files of sql/ that were applied to this database: each migration, and all views as one.';
comment on column checkpointd.schema_migrations.name is 'Name of the migration, or views with their version.';
comment on column checkpointd.schema_migrations.checksum is 'SHA-256 of the file, in hexadecimal.';
comment on column checkpointd.schema_migrations.applied_at is 'Time when the file was applied.';

comment on table checkpointd.sources is
  'One row for each source: an account at a provider, as the settings of the daemons name it.';
comment on column checkpointd.sources.key is 'Private key.';
comment on column checkpointd.sources.name is
  'Name of the source in the settings. Its jobs belong to this name for good.';
comment on column checkpointd.sources.kind is 'openai, azure or compatible: how requests are made.';
comment on column checkpointd.sources.state is
  'ok; paused (throttled or out of quota: every daemon waits until resume_at); refused (the source rejected the key '
  'of a daemon; the key of another daemon may be accepted).';
comment on column checkpointd.sources.state_since is 'Time of the last change of the state.';
comment on column checkpointd.sources.resume_at is
  'No due job of the source is claimed before this time; null if there is no pause.';
comment on column checkpointd.sources.last_error is 'Why the source is paused or refused, or was when it last was.';
comment on column checkpointd.sources.budget_at is
  'Position of the rate limit (GCRA). Each request advances it by one request interval. Nothing is claimed while it '
  'lies in the future.';
comment on column checkpointd.sources.job_list_due_at is 'Time when the job list is to be read next.';
comment on column checkpointd.sources.job_list_lease_token is
  'Number of times that the job list was claimed. Its save is fenced by this number.';
comment on column checkpointd.sources.job_list_attempt_at is 'Time when the job list was last claimed.';
comment on column checkpointd.sources.job_list_lease_expires_at is
  'One daemon reads the job list until this time; null if none does.';
comment on column checkpointd.sources.job_list_complete_at is 'Time when the job list was last read to its end.';
comment on column checkpointd.sources.job_list_error is 'Why the job list could not be read; null if it could.';

comment on table checkpointd.jobs is
  'One row for each fine-tuning job that was ever tracked, as the job list of the provider last showed it.';
comment on index checkpointd.jobs_id is 'Finds a job by its id if the source is not given.';
comment on column checkpointd.jobs.key is 'Private key.';
comment on column checkpointd.jobs.source is 'Source of the job.';
comment on column checkpointd.jobs.id is 'The provider''s id.';
comment on column checkpointd.jobs.tracked_by is
  'operator (the command or function track) or discovery (found in the job list).';
comment on column checkpointd.jobs.tracked_at is 'Time when the job was last tracked.';
comment on column checkpointd.jobs.untracked_at is 'Time when the job was untracked; null if it is tracked.';
comment on column checkpointd.jobs.status is
  'Status, in the provider''s vocabulary; null if no job record was received yet.';
comment on column checkpointd.jobs.model is 'Base model.';
comment on column checkpointd.jobs.fine_tuned_model is
  'Model that resulted from the job; null as long as there is none.';
comment on column checkpointd.jobs.created_at is
  'Time when the job was created, in Unix seconds, according to the provider.';
comment on column checkpointd.jobs.finished_at is
  'Time when the job finished, in Unix seconds, according to the provider.';
comment on column checkpointd.jobs.estimated_finish is
  'The provider''s last estimate of when the job will finish, in Unix seconds.';
comment on column checkpointd.jobs.trained_tokens is 'Number of billable tokens, according to the provider.';
comment on column checkpointd.jobs.hyperparameters is
  'Hyperparameters as received; those of the job''s method if the job has none of its own.';
comment on column checkpointd.jobs.error is
  'Error as received. If there is none, providers send null, {} or an object of nulls.';
comment on column checkpointd.jobs.metadata is 'Metadata as received.';
comment on column checkpointd.jobs.payload is 'Whole job record as last received.';
comment on column checkpointd.jobs.received_at is 'Time when a job record that differs was last received.';

comment on table checkpointd.polling is
  'The schedule: one narrow row for each job, which every poll updates. There is no index but the primary key, so '
  'that updates stay on their page (HOT).';
comment on column checkpointd.polling.job is 'Key of the job.';
comment on column checkpointd.polling.source is 'Source of the job, so that a claim needs no join.';
comment on column checkpointd.polling.lease_token is
  'Number of times that the job was claimed. A save is fenced by this number: it is stored only if the number is '
  'still the one of its claim.';
comment on column checkpointd.polling.next_poll_at is
  'Time when the next poll is due; infinity if the job is sealed or untracked.';
comment on column checkpointd.polling.last_attempt_at is 'Time when the job was last claimed.';
comment on column checkpointd.polling.lease_expires_at is
  'One daemon polls the job until this time; null if none does. A save sets it to null, which consumes the lease.';
comment on column checkpointd.polling.last_complete_at is 'Time when a poll last read every page.';
comment on column checkpointd.polling.last_success_at is 'Time when a poll last read every page and every item.';
comment on column checkpointd.polling.last_change_at is 'Time when a poll last changed something.';
comment on column checkpointd.polling.quiet_polls is 'Number of polls with a complete listing that changed nothing.';
comment on column checkpointd.polling.gap_s is
  'Poll gap that the cadence chose last, in seconds, without the back-off after failures.';
comment on column checkpointd.polling.failures is
  'Number of polls in a row that failed. Failures of the source do not count.';
comment on column checkpointd.polling.equal_failures is
  'Number of polls in a row that failed with the present error_class.';
comment on column checkpointd.polling.failing_since is
  'Time of the first poll in the present run of equal failures; null if the last poll did not fail.';
comment on column checkpointd.polling.failure_poll is
  'Row of polls that counts the present run of equal failures; null if the last poll did not fail.';
comment on column checkpointd.polling.is_gone is
  'True if the provider has not known the job five times in a row over at least an hour. Such a job is polled daily.';
comment on column checkpointd.polling.equal_listings is
  'Number of complete listings in a row with the present digest, counted only while the job is settled.';
comment on column checkpointd.polling.rejected is
  'Number of items of the last compared listing that could not be read.';
comment on column checkpointd.polling.poll_again is
  'True if another poll was requested during the present one (resync, new status). The job is then due at once after '
  'it, and its next listing is compared in full.';
comment on column checkpointd.polling.digest is
  'Digest of the last complete listing; null if the next listing must be compared in full.';
comment on column checkpointd.polling.absent_ids is
  'Ids of stored checkpoints that the last complete listing lacked. If the next one lacks them too, they are missing.';
comment on column checkpointd.polling.settling_since is
  'Time since when the job is known to have ended; null if it has not ended.';
comment on column checkpointd.polling.sealed_at is
  'Time when polling stopped because the job has ended and its listing no longer changes; null if polling goes on.';
comment on column checkpointd.polling.newest_step is 'Arrival history: largest step_number seen.';
comment on column checkpointd.polling.newest_seen_at is
  'Arrival history: time of the claim whose listing first had that step.';
comment on column checkpointd.polling.spacing_s is
  'Arrival history: estimated seconds between new checkpoints; null as long as it is unknown.';
comment on column checkpointd.polling.spread_s is
  'Arrival history: estimated variation of the spacing, in seconds; null as long as it is unknown.';
comment on column checkpointd.polling.error_class is 'Class of the failure of the last poll; null if it did not fail.';
comment on column checkpointd.polling.last_error is 'Failure of the last poll in words; null if it did not fail.';

comment on table checkpointd.checkpoints is
  'One row for each checkpoint that was ever listed, with the last known value of each metric. There is no foreign '
  'key: polling has one, and a save locks that row.';
comment on column checkpointd.checkpoints.job is 'Key of the job.';
comment on column checkpointd.checkpoints.step_number is 'Training step at which the checkpoint was made.';
comment on column checkpointd.checkpoints.created_at is
  'Time when the checkpoint was made, in Unix seconds, according to the provider. It is not checked for plausibility.';
comment on column checkpointd.checkpoints.step is
  'Metric: the training step, as the provider repeats it among the metrics; null if never received.';
comment on column checkpointd.checkpoints.train_loss is 'Metric; null if never received.';
comment on column checkpointd.checkpoints.train_mean_token_accuracy is 'Metric; null if never received.';
comment on column checkpointd.checkpoints.valid_loss is 'Metric; null if never received.';
comment on column checkpointd.checkpoints.valid_mean_token_accuracy is 'Metric; null if never received.';
comment on column checkpointd.checkpoints.full_valid_loss is 'Metric; null if never received.';
comment on column checkpointd.checkpoints.full_valid_mean_token_accuracy is 'Metric; null if never received.';
comment on column checkpointd.checkpoints.first_seen_at is 'Time when checkpointd stored the checkpoint.';
comment on column checkpointd.checkpoints.last_changed_at is 'Time when a value of the checkpoint last changed.';
comment on column checkpointd.checkpoints.missing_since is
  'Time since when the provider no longer lists the checkpoint; null if it lists it.';
comment on column checkpointd.checkpoints.id is 'The provider''s id, unique within a job.';
comment on column checkpointd.checkpoints.fine_tuned_model_checkpoint is
  'Name of the model under which the checkpoint can be used.';
comment on column checkpointd.checkpoints.extra_metrics is
  'All other numeric metrics, as an object of numbers by name; null if there are none.';
comment on column checkpointd.checkpoints.payload is
  'Item as last received. The type is json because jsonb drops duplicate keys and rejects some text.';

comment on table checkpointd.polls is
  'One row for each poll that changed something, and for each run of equal failures.';
comment on index checkpointd.polls_job is 'Finds the polls of a job.';
comment on index checkpointd.polls_first_at is 'Finds the polls between two times.';
comment on column checkpointd.polls.id is 'Private key.';
comment on column checkpointd.polls.job is 'Key of the job.';
comment on column checkpointd.polls.first_at is 'Time of the first poll of the row.';
comment on column checkpointd.polls.last_at is 'Time of the last poll of the row.';
comment on column checkpointd.polls.count is 'Number of polls that the row stands for.';
comment on column checkpointd.polls.outcome is
  'changed; partial (the listing is incomplete, and what was read is stored); failed.';
comment on column checkpointd.polls.error_class is 'Class of the failure; null if the listing is complete.';
comment on column checkpointd.polls.items is 'Number of checkpoints that the last poll of the row read.';
comment on column checkpointd.polls.new is 'Number of checkpoints that were stored.';
comment on column checkpointd.polls.changed is 'Number of checkpoints that changed, went missing or returned.';

comment on table checkpointd.feed_gate is
  'One row. A transaction locks it before it inserts into changes, so that seq follows the order of commits.';
comment on column checkpointd.feed_gate.one is 'Always true.';

comment on table checkpointd.changes is 'One row for each change, append-only: history, audit and feed in one.';
comment on index checkpointd.changes_job is 'Finds the changes of a job.';
comment on index checkpointd.changes_at is 'Finds the changes between two times.';
comment on column checkpointd.changes.seq is
  'Increases in the order of commits, because it is assigned under the lock on feed_gate.';
comment on column checkpointd.changes.at is 'Time when the change was stored.';
comment on column checkpointd.changes.job is 'Key of the job.';
comment on column checkpointd.changes.poll is
  'Row of polls that found the change; null for a status, which the job list shows.';
comment on column checkpointd.changes.kind is
  'new; changed; regressed (null after a value, and the value is kept); missing; returned; status.';
comment on column checkpointd.changes.checkpoint_id is 'Id of the checkpoint; null for a status.';
comment on column checkpointd.changes.field is
  'Column of the view checkpoints, or extra_metrics.NAME for another metric; null if the whole checkpoint is meant.';
comment on column checkpointd.changes.old_value is 'Value before the change, as text; null if there was none.';
comment on column checkpointd.changes.new_value is 'Value after the change, as text; null if there is none.';

comment on table checkpointd.rejects is
  'One row for each item that could not be read, with its bytes, so that nothing that a provider sent is lost.';
comment on column checkpointd.rejects.job is 'Key of the job.';
comment on column checkpointd.rejects.digest is
  'SHA-256 of the item''s bytes; empty for the row that counts the rejects which are too many to be stored.';
comment on column checkpointd.rejects.reason is 'Why the item cannot be read.';
comment on column checkpointd.rejects.raw is
  'Bytes of the item, at most the first 64 KiB; null if they contain a secret.';
comment on column checkpointd.rejects.first_seen_at is 'Time when the item was first read.';
comment on column checkpointd.rejects.last_seen_at is
  'Time when a listing with the item was last compared. A listing that equals the one before is not compared.';
comment on column checkpointd.rejects.count is 'Number of compared listings that had the item.';

comment on table checkpointd.summaries is
  'One row for each job that has checkpoints: what the views need to know of all of them, as of the last save that '
  'changed one.';
comment on column checkpointd.summaries.job is 'Key of the job.';
comment on column checkpointd.summaries.checkpoint_count is 'Number of stored checkpoints.';
comment on column checkpointd.summaries.latest_step is 'Largest training step of the stored checkpoints.';
comment on column checkpointd.summaries.step_distance is
  'Median distance between neighbouring steps, or the smaller of the two middle ones; null if there are no two steps.';
comment on column checkpointd.summaries.is_uneven is
  'True if two neighbouring steps are more than 1.5 times the median distance apart.';
comment on column checkpointd.summaries.came_in_a_burst is
  'True if more than three checkpoints ever came at once in a poll that was not the first complete one.';
comment on column checkpointd.summaries.candidates is
  'Number of candidates for the best checkpoint: those that the provider still lists, or all if it lists none.';
comment on column checkpointd.summaries.best_rule is
  'Metric by which the candidates are compared. full_valid_loss if all candidates but one at most have it, or at '
  'least as many as have valid_loss; otherwise valid_loss; null if no candidate has either.';
comment on column checkpointd.summaries.best_covered is 'Number of candidates that have that metric.';
comment on column checkpointd.summaries.best_id is
  'Id of the candidate with the smallest value, the latest one if there are several; null if none has a value.';
