-- checkpointd's own tables. Readers use the views of schema fine_tuning; everything here may change.
--
-- A source is one account at one provider. A job is (source, id) with a private key. Each tracked job has one row in
-- polling, which is its whole schedule: a daemon claims due rows for a few seconds (a lease in columns, never a held
-- transaction), lists the job's checkpoints over HTTP and saves what it found together with the end of the lease.
-- A row whose daemon died is due again when its lease has run out. Every comparison of times is made by this server's
-- clock.
--
-- A save that changes something is one transaction: it locks the polling rows that still hold their lease, then
-- sources, then feed_gate, always in this order and by key; it writes checkpoints, polls and rejects, and at last
-- changes. Because changes.seq is drawn under feed_gate, its order is the order of commits, and a reader that
-- remembers the last seq it saw misses nothing.
--
-- Nothing is deleted here, ever. What a provider sends stays text, json and nullable numbers: its vocabulary is its own.

create schema fine_tuning;
comment on schema fine_tuning is 'The contract: views for people, dashboards and programs. They only ever gain columns.';
comment on schema checkpointd is 'Private tables of checkpointd. Read the views of schema fine_tuning instead.';

create table checkpointd.sources (
  key int generated always as identity primary key,
  name text not null constraint sources_name_unique unique,
  kind text not null,
  state text not null default 'ok' constraint sources_state_known check (state in ('ok', 'paused', 'refused')),
  state_since timestamptz not null default clock_timestamp(),
  resume_at timestamptz,
  last_error text,
  budget_at timestamptz not null default '-infinity',
  job_list_due_at timestamptz not null default '-infinity',
  job_list_lease_token bigint not null default 0,
  job_list_attempt_at timestamptz,
  job_list_lease_expires_at timestamptz,
  job_list_complete_at timestamptz,
  job_list_error text
) with (fillfactor = 20);
comment on table checkpointd.sources is 'One account at one provider, as the daemons'' settings name it.';
comment on column checkpointd.sources.key is 'Private key.';
comment on column checkpointd.sources.name is 'The name in the settings; jobs belong to it for good.';
comment on column checkpointd.sources.kind is 'openai, azure or compatible: how requests are made.';
comment on column checkpointd.sources.state is 'ok; paused (throttled or out of quota, for every daemon, until resume_at); refused (a daemon''s key was refused; another daemon''s may be good).';
comment on column checkpointd.sources.state_since is 'When the state last became another one.';
comment on column checkpointd.sources.resume_at is 'No job of the source is claimed before this time; null: at once.';
comment on column checkpointd.sources.last_error is 'Why it is not ok, or was not last time.';
comment on column checkpointd.sources.budget_at is 'The request budget (GCRA): each request moves it on by one emission interval, claims stop while it lies ahead.';
comment on column checkpointd.sources.job_list_due_at is 'When the job list is to be read next.';
comment on column checkpointd.sources.job_list_lease_token is 'Counts the readings of the job list; the fence of its save.';
comment on column checkpointd.sources.job_list_attempt_at is 'When the job list was last claimed.';
comment on column checkpointd.sources.job_list_lease_expires_at is 'Until then one daemon reads the job list; null: nobody does.';
comment on column checkpointd.sources.job_list_complete_at is 'When the job list was last read to its end.';
comment on column checkpointd.sources.job_list_error is 'Why the job list could not be read; null: it could.';

create table checkpointd.jobs (
  key bigint generated always as identity primary key,
  source int not null constraint jobs_source_exists references checkpointd.sources,
  id text not null constraint jobs_id_sane check (id ~ '^[!-~]+$' and length(id) <= 256),
  tracked_by text not null,
  tracked_at timestamptz not null default clock_timestamp(),
  untracked_at timestamptz,
  status text,
  model text,
  fine_tuned_model text,
  created_at bigint,
  finished_at bigint,
  estimated_finish bigint,
  trained_tokens bigint,
  hyperparameters json,
  error json,
  metadata json,
  payload json,
  received_at timestamptz,
  constraint jobs_source_id_unique unique (source, id)
);
create index jobs_id on checkpointd.jobs (id);
comment on table checkpointd.jobs is 'Every fine-tuning job that was ever tracked, as the provider''s job list last gave it.';
comment on index checkpointd.jobs_id is 'People name a job without its source.';
comment on column checkpointd.jobs.key is 'Private key.';
comment on column checkpointd.jobs.source is 'The source it belongs to.';
comment on column checkpointd.jobs.id is 'The provider''s id.';
comment on column checkpointd.jobs.tracked_by is 'operator (track) or discovery (found in the job list).';
comment on column checkpointd.jobs.tracked_at is 'When it was last chosen.';
comment on column checkpointd.jobs.untracked_at is 'When it was untracked; null: it is tracked.';
comment on column checkpointd.jobs.status is 'The provider''s word; null: no job record was received yet.';
comment on column checkpointd.jobs.model is 'The base model.';
comment on column checkpointd.jobs.fine_tuned_model is 'The resulting model; null until there is one.';
comment on column checkpointd.jobs.created_at is 'Unix seconds, by the provider.';
comment on column checkpointd.jobs.finished_at is 'Unix seconds, by the provider.';
comment on column checkpointd.jobs.estimated_finish is 'Unix seconds, by the provider: its last estimate.';
comment on column checkpointd.jobs.trained_tokens is 'Billable tokens, by the provider.';
comment on column checkpointd.jobs.hyperparameters is 'As received.';
comment on column checkpointd.jobs.error is 'As received; providers send null, {} and objects of nulls for none.';
comment on column checkpointd.jobs.metadata is 'As received.';
comment on column checkpointd.jobs.payload is 'The whole record as last received.';
comment on column checkpointd.jobs.received_at is 'When a differing record was last received.';

create table checkpointd.polling (
  job bigint primary key constraint polling_job_exists references checkpointd.jobs,
  source int not null,
  lease_token bigint not null default 0,
  next_poll_at timestamptz not null default clock_timestamp(),
  last_attempt_at timestamptz,
  lease_expires_at timestamptz,
  last_complete_at timestamptz,
  last_success_at timestamptz,
  last_change_at timestamptz,
  quiet_polls bigint not null default 0,
  gap_s double precision not null default 0,
  failures int not null default 0,
  failing_since timestamptz,
  failure_poll bigint,
  equal_listings int not null default 0,
  rejected int not null default 0,
  poll_again boolean not null default false,
  digest bytea,
  absent_ids text[],
  settling_since timestamptz,
  sealed_at timestamptz,
  newest_step bigint,
  newest_seen_at timestamptz,
  spacing_s double precision,
  spread_s double precision,
  error_class text,
  last_error text
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
  autovacuum_vacuum_cost_delay = 0);
comment on table checkpointd.polling is 'The schedule: one hot, narrow row a job. No index but the key, so that updates stay in their page (HOT).';
comment on column checkpointd.polling.job is 'The job.';
comment on column checkpointd.polling.source is 'Its source, so that a claim needs no join.';
comment on column checkpointd.polling.lease_token is 'Counts the claims; a save must name it, which fences off late writers.';
comment on column checkpointd.polling.next_poll_at is 'When to poll next; infinity: never (sealed or untracked).';
comment on column checkpointd.polling.last_attempt_at is 'When it was last claimed.';
comment on column checkpointd.polling.lease_expires_at is 'Until then one daemon polls it; null: nobody does. A save sets null, which consumes the lease.';
comment on column checkpointd.polling.last_complete_at is 'When every page of a listing was last read.';
comment on column checkpointd.polling.last_success_at is 'When a listing was last complete with nothing rejected.';
comment on column checkpointd.polling.last_change_at is 'When a poll last changed something.';
comment on column checkpointd.polling.quiet_polls is 'How many complete listings changed nothing.';
comment on column checkpointd.polling.gap_s is 'The gap in seconds that the cadence chose last.';
comment on column checkpointd.polling.failures is 'Failed polls in a row.';
comment on column checkpointd.polling.failing_since is 'The first of the present run of equal failures.';
comment on column checkpointd.polling.failure_poll is 'The row of polls that counts the present run of equal failures.';
comment on column checkpointd.polling.equal_listings is 'Complete listings in a row with this digest.';
comment on column checkpointd.polling.rejected is 'How many items of the last compared listing could not be read.';
comment on column checkpointd.polling.poll_again is 'Asked for during a poll (resync, status change): due at once after it, compared in full.';
comment on column checkpointd.polling.digest is 'Of the last complete listing with nothing pending; null: the next one is compared in full.';
comment on column checkpointd.polling.absent_ids is 'Known checkpoints that the last complete listing lacked; lacked once more they are missing.';
comment on column checkpointd.polling.settling_since is 'When the job was first seen to have ended; null: it has not.';
comment on column checkpointd.polling.sealed_at is 'When polling of an ended, unchanging job stopped; null: it goes on.';
comment on column checkpointd.polling.newest_step is 'The largest step_number seen.';
comment on column checkpointd.polling.newest_seen_at is 'When that step was first seen.';
comment on column checkpointd.polling.spacing_s is 'Learnt: seconds between new checkpoints.';
comment on column checkpointd.polling.spread_s is 'Learnt: how much that varies, in seconds.';
comment on column checkpointd.polling.error_class is 'The class of the last failure; null: the last poll did not fail.';
comment on column checkpointd.polling.last_error is 'The last failure in words; null: the last poll did not fail.';

create table checkpointd.checkpoints (
  job bigint not null,
  step_number bigint not null,
  created_at bigint not null,
  step double precision,
  train_loss double precision,
  train_mean_token_accuracy double precision,
  valid_loss double precision,
  valid_mean_token_accuracy double precision,
  full_valid_loss double precision,
  full_valid_mean_token_accuracy double precision,
  first_seen_at timestamptz not null default clock_timestamp(),
  last_changed_at timestamptz not null default clock_timestamp(),
  missing_since timestamptz,
  id text not null constraint checkpoints_id_sane check (length(id) between 1 and 256),
  fine_tuned_model_checkpoint text not null,
  extra_metrics jsonb,
  payload json not null,
  constraint checkpoints_pkey primary key (job, id)
);
comment on table checkpointd.checkpoints is 'Every checkpoint that was ever listed, with the last known value of each metric. No foreign key: polling has it, and a save holds that row.';
comment on column checkpointd.checkpoints.job is 'The job.';
comment on column checkpointd.checkpoints.step_number is 'The training step, by the provider.';
comment on column checkpointd.checkpoints.created_at is 'Unix seconds, by the provider, unchecked.';
comment on column checkpointd.checkpoints.step is 'Metric, by the provider.';
comment on column checkpointd.checkpoints.train_loss is 'Metric, by the provider.';
comment on column checkpointd.checkpoints.train_mean_token_accuracy is 'Metric, by the provider.';
comment on column checkpointd.checkpoints.valid_loss is 'Metric, by the provider.';
comment on column checkpointd.checkpoints.valid_mean_token_accuracy is 'Metric, by the provider.';
comment on column checkpointd.checkpoints.full_valid_loss is 'Metric, by the provider.';
comment on column checkpointd.checkpoints.full_valid_mean_token_accuracy is 'Metric, by the provider.';
comment on column checkpointd.checkpoints.first_seen_at is 'When it was stored.';
comment on column checkpointd.checkpoints.last_changed_at is 'When one of its values last changed.';
comment on column checkpointd.checkpoints.missing_since is 'Since when complete listings lack it; null: it is listed.';
comment on column checkpointd.checkpoints.id is 'The provider''s id.';
comment on column checkpointd.checkpoints.fine_tuned_model_checkpoint is 'The name under which the checkpoint can be used.';
comment on column checkpointd.checkpoints.extra_metrics is 'Any other numeric metric by name; null: none.';
comment on column checkpointd.checkpoints.payload is 'The item as last received: json, not jsonb, which drops doubled keys and refuses some text.';

create table checkpointd.polls (
  id bigint generated always as identity primary key,
  job bigint not null,
  first_at timestamptz not null default clock_timestamp(),
  last_at timestamptz not null default clock_timestamp(),
  count bigint not null default 1,
  outcome text not null constraint polls_outcome_known check (outcome in ('changed', 'partial', 'failed')),
  error_class text,
  items int not null,
  new int not null,
  changed int not null
);
create index polls_job on checkpointd.polls (job, id);
comment on table checkpointd.polls is 'One row for each poll that changed something and for each run of equal failures.';
comment on index checkpointd.polls_job is 'The history of one job.';
comment on column checkpointd.polls.id is 'Private key.';
comment on column checkpointd.polls.job is 'The job.';
comment on column checkpointd.polls.first_at is 'The first poll of the row.';
comment on column checkpointd.polls.last_at is 'The last poll of the row.';
comment on column checkpointd.polls.count is 'How many polls the row stands for.';
comment on column checkpointd.polls.outcome is 'changed; partial (the listing broke off, what was read is stored); failed.';
comment on column checkpointd.polls.error_class is 'Why it failed or broke off; null: it did not.';
comment on column checkpointd.polls.items is 'Checkpoints that were read, in the last poll of the row.';
comment on column checkpointd.polls.new is 'Checkpoints that were stored.';
comment on column checkpointd.polls.changed is 'Checkpoints that changed, went missing or returned.';

create table checkpointd.feed_gate (
  one boolean primary key default true constraint feed_gate_one_row check (one)
);
insert into checkpointd.feed_gate default values;
comment on table checkpointd.feed_gate is 'One row. Who appends to changes locks it first, so that seq follows the order of commits.';
comment on column checkpointd.feed_gate.one is 'Always true.';

create table checkpointd.changes (
  seq bigint generated always as identity primary key,
  at timestamptz not null default clock_timestamp(),
  job bigint not null,
  poll bigint,
  kind text not null
    constraint changes_kind_known check (kind in ('new', 'changed', 'regressed', 'missing', 'returned', 'status')),
  checkpoint_id text,
  field text,
  old_value text,
  new_value text
);
create index changes_job on checkpointd.changes (job, seq);
comment on table checkpointd.changes is 'Append-only: history, audit and feed in one.';
comment on index checkpointd.changes_job is 'The history of one job.';
comment on column checkpointd.changes.seq is 'In the order of commits, because it is drawn under feed_gate.';
comment on column checkpointd.changes.at is 'When it was written.';
comment on column checkpointd.changes.job is 'The job.';
comment on column checkpointd.changes.poll is 'The row of polls that brought it; null for a status, which the job list brings.';
comment on column checkpointd.changes.kind is 'new, changed, regressed (null after a value), missing, returned, status.';
comment on column checkpointd.changes.checkpoint_id is 'The checkpoint; null for the job itself.';
comment on column checkpointd.changes.field is 'The column of the view, or extra_metrics.NAME; null: the whole checkpoint.';
comment on column checkpointd.changes.old_value is 'As text; null: none.';
comment on column checkpointd.changes.new_value is 'As text; null: none.';

create table checkpointd.rejects (
  job bigint not null,
  digest bytea not null,
  reason text not null,
  raw bytea,
  first_seen_at timestamptz not null default clock_timestamp(),
  last_seen_at timestamptz not null default clock_timestamp(),
  count bigint not null default 1,
  constraint rejects_pkey primary key (job, digest)
);
comment on table checkpointd.rejects is 'Items that could not be read, with their bytes, so that nothing a provider sent is lost.';
comment on column checkpointd.rejects.job is 'The job.';
comment on column checkpointd.rejects.digest is 'sha256 of the item''s bytes.';
comment on column checkpointd.rejects.reason is 'What is wrong with it.';
comment on column checkpointd.rejects.raw is 'Its bytes, the first 64 KiB; null where a secret stood in them.';
comment on column checkpointd.rejects.first_seen_at is 'When it was first read.';
comment on column checkpointd.rejects.last_seen_at is 'When a listing with it was last compared; an equal listing is not compared again.';
comment on column checkpointd.rejects.count is 'In how many compared listings it stood.';
