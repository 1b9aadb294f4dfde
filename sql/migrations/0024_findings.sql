-- What people want to be told: that a job ended, overfits or stalls, or that a source refuses its key.
create table checkpointd.findings (
  id bigint generated always as identity primary key,
  source int not null constraint findings_source_exists references checkpointd.sources,
  job bigint constraint findings_job_exists references checkpointd.jobs,
  kind text not null constraint findings_kind_known check (
    kind in (
      'overfitting', 'diverging', 'stalled', 'finished', 'failed', 'suspected_gap', 'stale', 'source_paused',
      'source_refused', 'unreadable', 'leaving'
    )
  ),
  checkpoint_id text,
  since timestamptz,
  until timestamptz,
  clear_since timestamptz,
  value double precision,
  message text not null
);
create unique index findings_open on checkpointd.findings (
  source, job, kind, (case when kind = 'leaving' then checkpoint_id end)
) nulls not distinct where until is null;
create index findings_open_job on checkpointd.findings (job) where until is null;
create index findings_job on checkpointd.findings (job, kind);
comment on table checkpointd.findings is
  'One row for each finding, open or resolved, and for each that waits for a listing before it fires.';
comment on index checkpointd.findings_open is
  'A finding is open once: for each job or source and kind or, if a checkpoint is leaving, for each checkpoint.';
comment on index checkpointd.findings_open_job is 'Finds the jobs that have open findings.';
comment on index checkpointd.findings_job is 'Finds what was found of a job.';
comment on column checkpointd.findings.id is 'Key.';
comment on column checkpointd.findings.source is 'Key of the source.';
comment on column checkpointd.findings.job is 'Key of the job; null if the finding is about the source.';
comment on column checkpointd.findings.kind is 'Which rule fired.';
comment on column checkpointd.findings.checkpoint_id is 'Id of the checkpoint that the finding names; null if none.';
comment on column checkpointd.findings.since is
  'Time when it fired; null if it waits for that, or never did.';
comment on column checkpointd.findings.until is 'Time when it was resolved; null if it is open.';
comment on column checkpointd.findings.clear_since is
  'Time since when its condition has not been met, as long as it is open; null if it is met.';
comment on column checkpointd.findings.value is 'Number that the rule compared; null if there is none.';
comment on column checkpointd.findings.message is 'What was found, in a sentence.';

create table checkpointd.finding_cursor (
  one boolean primary key default true constraint finding_cursor_one_row check (one),
  seq bigint not null,
  job bigint not null default 0,
  polled_job bigint not null default 0,
  steps_at timestamptz not null default '-infinity',
  evaluated_at timestamptz not null default '-infinity'
);
comment on table checkpointd.finding_cursor is
  'One row: how far findings were evaluated. Who evaluates them holds it locked.';
comment on column checkpointd.finding_cursor.one is 'Always true.';
comment on column checkpointd.finding_cursor.seq is
  'The jobs of the changes up to this one were evaluated after these changes.';
comment on column checkpointd.finding_cursor.job is
  'Of the jobs with open findings, those up to this key were evaluated last.';
comment on column checkpointd.finding_cursor.polled_job is
  'Of the jobs of which something may be found without a change, those up to this key were evaluated last.';
comment on column checkpointd.finding_cursor.steps_at is
  'The jobs with new steps up to this time were evaluated after these steps.';
comment on column checkpointd.finding_cursor.evaluated_at is 'Time of the last evaluation.';
-- What happened before this version fires nothing until the job changes.
insert into checkpointd.finding_cursor (seq)
select coalesce(max(seq), 0)
from checkpointd.changes;

-- The present rows meet these constraints, so they are not read: that would hold up all polls.
alter table checkpointd.changes
  alter column job drop not null,
  add column finding bigint,
  drop constraint changes_kind_known,
  add constraint changes_kind_known check (
    kind in ('new', 'changed', 'regressed', 'missing', 'returned', 'status', 'fired', 'resolved')
  ) not valid,
  add constraint changes_subject_known check (
    case when kind in ('fired', 'resolved') then finding is not null else finding is null and job is not null end
  ) not valid;
comment on column checkpointd.changes.job is 'Key of the job; null for a finding about a source.';
comment on column checkpointd.changes.kind is
  'new, changed, regressed (null after a value), missing, returned, status; of a finding: fired, resolved.';
comment on column checkpointd.changes.finding is 'Key of the finding that fired or was resolved; otherwise null.';

-- New steps of a job are no rows of changes. This index is written only when there are some.
alter table checkpointd.event_lists add column steps_at timestamptz;
create index event_lists_steps_at on checkpointd.event_lists (steps_at);
comment on column checkpointd.event_lists.steps_at is 'Time when new steps were last stored; null if none were.';
comment on index checkpointd.event_lists_steps_at is 'Finds the jobs with new steps.';
