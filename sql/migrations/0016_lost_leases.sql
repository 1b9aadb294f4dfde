-- A job whose polls kill the daemon, for example because its list takes too much memory, must not do so at each lease.
alter table checkpointd.polling add column lease_was_lost boolean not null default false;
comment on column checkpointd.polling.lease_was_lost is
  'Whether the lease before the last one was lost: it expired without a save. If the last one is lost, too, that '
  'counts as a failed poll.';
