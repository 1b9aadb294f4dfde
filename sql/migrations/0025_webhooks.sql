-- Endpoints to which changes are sent. A lease on the row of an endpoint keeps other daemons from sending to it at the
-- same time. A delivery moves the cursor in the same statement that renews the lease, so that a sender that is killed
-- loses nothing, and the next one repeats no more than the delivery that was under way.
create table checkpointd.webhooks (
  name text constraint webhooks_pkey primary key,
  cursor bigint not null,
  lease_token bigint not null default 0,
  leased_at timestamptz,
  lease_expires_at timestamptz,
  attempt_at timestamptz,
  next_attempt_at timestamptz,
  failures int not null default 0,
  failing_since timestamptz,
  last_status int,
  last_answer text,
  delivered bigint not null default 0,
  delivered_at timestamptz,
  undelivered bigint not null default 0,
  undelivered_seq bigint,
  undelivered_at timestamptz,
  undelivered_reason text
);
comment on table checkpointd.webhooks is 'One row for each webhook that a daemon was configured with, by its name.';
comment on column checkpointd.webhooks.name is 'Name in the settings.';
comment on column checkpointd.webhooks.cursor is
  'changes.seq up to which every selected change was delivered, or ended without a delivery.';
comment on column checkpointd.webhooks.lease_token is
  'Random number of the last lease. A sender that has another lost it.';
comment on column checkpointd.webhooks.leased_at is 'Time when the last lease was taken or renewed.';
comment on column checkpointd.webhooks.lease_expires_at is 'Time when the lease expires; null if it was given back.';
comment on column checkpointd.webhooks.attempt_at is 'Time when the last attempt of a delivery ended.';
comment on column checkpointd.webhooks.next_attempt_at is
  'Time before which a delivery that has failed is not attempted again; null if the last attempt did not fail.';
comment on column checkpointd.webhooks.failures is 'Number of attempts that failed since the last delivery.';
comment on column checkpointd.webhooks.failing_since is
  'Time of the first attempt of those that could not be answered; null if the last attempt was answered.';
comment on column checkpointd.webhooks.last_status is 'HTTP status of the last attempt; null without an answer.';
comment on column checkpointd.webhooks.last_answer is 'Answer to the last attempt, or why there was none, in words.';
comment on column checkpointd.webhooks.delivered is 'Number of messages that were delivered.';
comment on column checkpointd.webhooks.delivered_at is 'Time of the last delivery.';
comment on column checkpointd.webhooks.undelivered is
  'Number of messages that ended without a delivery: the endpoint refused them, or failed for three days.';
comment on column checkpointd.webhooks.undelivered_seq is 'changes.seq of the last such message.';
comment on column checkpointd.webhooks.undelivered_at is 'Time when the last such message ended.';
comment on column checkpointd.webhooks.undelivered_reason is 'Why the last such message ended, in words.';
