-- When the provider deletes a checkpoint. A checkpoint that disappears after that time is expired, not missing.
alter table checkpointd.checkpoints
  add column expires_at timestamptz,
  add column is_expired boolean not null default false;
comment on column checkpointd.checkpoints.expires_at is
  'Time when the provider deletes the checkpoint, as last stated; null if it does not say so, or never does it.';
comment on column checkpointd.checkpoints.is_expired is
  'True if the provider no longer lists it (missing_since), and its time expires_at was over when that was noticed.';

-- The present rows meet the constraint, so they are not read: that would hold up all polls.
alter table checkpointd.changes
  drop constraint changes_kind_known,
  add constraint changes_kind_known check (
    kind in ('new', 'changed', 'regressed', 'missing', 'expired', 'returned', 'status', 'fired', 'resolved')
  ) not valid;
comment on column checkpointd.changes.kind is
  'new, changed, regressed (null after a value), missing, expired, returned, status; of a finding: fired, resolved.';
