-- Who tracked, untracked or resynced a job. These are no rows of changes: an operator can keep a transaction open, and
-- the rows of changes are written under the lock of feed_gate, for which every save waits.
create table checkpointd.operations (
  key bigint generated always as identity primary key,
  at timestamptz not null default clock_timestamp(),
  job bigint not null,
  operation text not null
    constraint operations_operation_known check (operation in ('track', 'untrack', 'resync')),
  role text not null default session_user
);
create index operations_job on checkpointd.operations (job, key);
comment on table checkpointd.operations is
  'One row for each job that a person tracked, untracked or resynced, by a command or by SQL. Append-only.';
comment on index checkpointd.operations_job is 'Finds the operations on a job.';
comment on column checkpointd.operations.key is 'Private key. Its order is not that of the commits.';
comment on column checkpointd.operations.at is 'Time of the operation.';
comment on column checkpointd.operations.job is 'Key of the job.';
comment on column checkpointd.operations.operation is 'track, untrack or resync.';
comment on column checkpointd.operations.role is 'Role that logged in, also if the session changed its role later.';
