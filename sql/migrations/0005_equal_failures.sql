-- A job is gone after so many equal failures, which another kind of failure between them interrupts; and it is so from the
-- poll that said it, not from the next one's claim.
alter table checkpointd.polling add column equal_failures int not null default 0, add column is_gone boolean not null default false;
comment on column checkpointd.polling.equal_failures is 'Failed polls in a row of the present class.';
comment on column checkpointd.polling.is_gone is 'Not found five times in a row over an hour: it is asked for daily.';
