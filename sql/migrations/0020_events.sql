-- The events of a job: the metrics of each training step, and messages.
--
-- A daemon claims the event list of a job (a lease in event_lists, as in polling), reads it from its newest event on,
-- and saves what it has read every thousand events, with the cursor from which an interrupted pass is continued.

create table checkpointd.steps (
  job bigint not null,
  step_number bigint not null,
  created_at bigint,
  total_steps bigint,
  train_loss double precision,
  train_mean_token_accuracy double precision,
  valid_loss double precision,
  valid_mean_token_accuracy double precision,
  full_valid_loss double precision,
  full_valid_mean_token_accuracy double precision,
  id text not null constraint steps_id_sane check (length(id) between 1 and 256),
  extra_metrics jsonb,
  payload json,
  constraint steps_pkey primary key (job, step_number)
);
comment on table checkpointd.steps is
  'One row for each training step of a job, with the values of its newest event. The metric step has no column: it is '
  'step_number. No foreign key: event_lists has it, and a save holds that row.';
comment on column checkpointd.steps.job is 'Key of the job.';
comment on column checkpointd.steps.step_number is 'Training step, according to the provider.';
comment on column checkpointd.steps.created_at is
  'Time of the event, in Unix seconds, according to the provider; null if not given. Several events can have '
  'the same.';
comment on column checkpointd.steps.total_steps is
  'Number of steps of the whole training, according to this event; null if not given.';
comment on column checkpointd.steps.train_loss is 'Metric; null if the event does not have it.';
comment on column checkpointd.steps.train_mean_token_accuracy is 'Metric; null if the event does not have it.';
comment on column checkpointd.steps.valid_loss is 'Metric; null if the event does not have it.';
comment on column checkpointd.steps.valid_mean_token_accuracy is 'Metric; null if the event does not have it.';
comment on column checkpointd.steps.full_valid_loss is 'Metric; null if the event does not have it.';
comment on column checkpointd.steps.full_valid_mean_token_accuracy is 'Metric; null if the event does not have it.';
comment on column checkpointd.steps.id is 'The provider''s id of the event.';
comment on column checkpointd.steps.extra_metrics is
  'All other numbers of the event, by name; null if there are none.';
comment on column checkpointd.steps.payload is
  'Event as received, if the columns cannot reproduce it: it has other members or values, or a message that does not '
  'just repeat the metrics, rounded. Otherwise null.';

create table checkpointd.earlier_steps (
  job bigint not null,
  step_number bigint not null,
  created_at bigint,
  total_steps bigint,
  train_loss double precision,
  train_mean_token_accuracy double precision,
  valid_loss double precision,
  valid_mean_token_accuracy double precision,
  full_valid_loss double precision,
  full_valid_mean_token_accuracy double precision,
  id text not null,
  extra_metrics jsonb,
  payload json,
  stored_at timestamptz not null default clock_timestamp()
);
create index earlier_steps_step on checkpointd.earlier_steps (job, step_number);
comment on table checkpointd.earlier_steps is
  'The other events of steps that a resumed job repeated, and the former values of events that changed. The columns '
  'are those of steps.';
comment on index checkpointd.earlier_steps_step is 'For the history of a step, and to find an event that is stored.';
comment on column checkpointd.earlier_steps.job is 'Key of the job.';
comment on column checkpointd.earlier_steps.step_number is 'Training step, according to the provider.';
comment on column checkpointd.earlier_steps.created_at is 'Time of the event, as in steps.';
comment on column checkpointd.earlier_steps.total_steps is 'Number of steps of the whole training, as in steps.';
comment on column checkpointd.earlier_steps.train_loss is 'Metric, as in steps.';
comment on column checkpointd.earlier_steps.train_mean_token_accuracy is 'Metric, as in steps.';
comment on column checkpointd.earlier_steps.valid_loss is 'Metric, as in steps.';
comment on column checkpointd.earlier_steps.valid_mean_token_accuracy is 'Metric, as in steps.';
comment on column checkpointd.earlier_steps.full_valid_loss is 'Metric, as in steps.';
comment on column checkpointd.earlier_steps.full_valid_mean_token_accuracy is 'Metric, as in steps.';
comment on column checkpointd.earlier_steps.id is 'The provider''s id of the event.';
comment on column checkpointd.earlier_steps.extra_metrics is 'All other numbers of the event, as in steps.';
comment on column checkpointd.earlier_steps.payload is 'Event as received, as in steps.';
comment on column checkpointd.earlier_steps.stored_at is 'Time when the row was stored here.';

create table checkpointd.events (
  job bigint not null,
  created_at bigint,
  first_seen_at timestamptz not null default clock_timestamp(),
  id text not null constraint events_id_sane check (length(id) between 1 and 256),
  type text,
  level text,
  message text,
  payload json,
  constraint events_pkey primary key (job, id)
);
comment on table checkpointd.events is
  'The events of a job that have no metrics of a training step, as first received. No foreign key: event_lists has '
  'it.';
comment on column checkpointd.events.job is 'Key of the job.';
comment on column checkpointd.events.created_at is
  'Time of the event, in Unix seconds, according to the provider; null if not given.';
comment on column checkpointd.events.first_seen_at is 'Time when checkpointd stored the event.';
comment on column checkpointd.events.id is 'The provider''s id.';
comment on column checkpointd.events.type is 'The provider''s word, usually message; null if not given.';
comment on column checkpointd.events.level is 'The provider''s word: info, warn, warning, error; null if not given.';
comment on column checkpointd.events.message is 'Text of the event; null if not given.';
comment on column checkpointd.events.payload is
  'Event as received, if the columns cannot reproduce it. Otherwise null.';

create table checkpointd.event_lists (
  job bigint primary key constraint event_lists_job_exists references checkpointd.jobs,
  lease_token bigint not null,
  attempt_at timestamptz not null,
  lease_expires_at timestamptz,
  due_at timestamptz not null,
  read_from timestamptz,
  complete_from timestamptz,
  pass_from timestamptz,
  pass_is_complete boolean,
  pass_ids text[],
  cursor text,
  pages int not null default 0,
  known_ids text[],
  digest bytea,
  steps bigint not null default 0,
  earlier_steps bigint not null default 0,
  messages bigint not null default 0,
  left_out_at timestamptz,
  failures int not null default 0,
  failing_since timestamptz,
  error_class text,
  last_error text,
  given_up boolean not null default false
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
  autovacuum_vacuum_cost_delay = 0);
comment on table checkpointd.event_lists is
  'How far the events of each job have been read: one row for each job whose event list was claimed. A pass reads the '
  'list from its newest event on, up to an event that the last pass had, or to the end of the list.';
comment on column checkpointd.event_lists.job is 'Key of the job.';
comment on column checkpointd.event_lists.lease_token is
  'Random number of the last claim. A save must name it, so that a daemon that lost its lease writes nothing.';
comment on column checkpointd.event_lists.attempt_at is 'Time when the list was last claimed.';
comment on column checkpointd.event_lists.lease_expires_at is
  'Until this time one daemon reads the list; null if none does.';
comment on column checkpointd.event_lists.due_at is 'Time when the list is due.';
comment on column checkpointd.event_lists.read_from is 'Time when the last pass that ended began.';
comment on column checkpointd.event_lists.complete_from is
  'Time when the last pass that read the list to its end began. If it is not before polling.settling_since, the '
  'events were read completely after the job had ended.';
comment on column checkpointd.event_lists.pass_from is 'Time when the interrupted pass began; null if there is none.';
comment on column checkpointd.event_lists.pass_is_complete is
  'Whether the interrupted pass reads the list to its end; null if there is none.';
comment on column checkpointd.event_lists.pass_ids is
  'Ids of the newest events when the interrupted pass began; null if there is none.';
comment on column checkpointd.event_lists.cursor is
  'Id of the last event that the interrupted pass has read; null if there is none.';
comment on column checkpointd.event_lists.pages is 'Number of pages that the interrupted pass has read.';
comment on column checkpointd.event_lists.known_ids is
  'Ids of the newest events when the last pass that ended began. The next pass ends where it meets one of them.';
comment on column checkpointd.event_lists.digest is
  'SHA-256 of the first page of the last pass. A first page with the same digest has nothing new.';
comment on column checkpointd.event_lists.steps is 'Number of rows of steps.';
comment on column checkpointd.event_lists.earlier_steps is 'Number of rows of earlier_steps.';
comment on column checkpointd.event_lists.messages is 'Number of rows of events.';
comment on column checkpointd.event_lists.left_out_at is
  'Time when events were last left out, because too many of this job are stored; null if none were.';
comment on column checkpointd.event_lists.failures is 'Number of readings in a row that failed.';
comment on column checkpointd.event_lists.failing_since is 'Time of the first of them; null if there is none.';
comment on column checkpointd.event_lists.error_class is
  'Class of the last failure; null if the last reading succeeded.';
comment on column checkpointd.event_lists.last_error is 'Last failure in words; null if the last reading succeeded.';
comment on column checkpointd.event_lists.given_up is
  'True if the job is sealed without its events: the provider has said twice in a row that it has no such list, or '
  'the list could not be read for a week.';

alter table checkpointd.sources
  add column events_looked_at timestamptz,
  add column events_budget_at timestamptz;
comment on column checkpointd.sources.events_looked_at is
  'Time when a daemon last looked for event lists that are due, recorded once an hour; null if the last one was told '
  'not to read events. Within a day of it, no job of the source is sealed before its events were read completely.';
comment on column checkpointd.sources.events_budget_at is
  'Time until which the tenth of the rate limit is used up that event lists may use even if polls are due.';
