-- Each time that delays work has a time at which it was written, so that it can be ignored if the clock was set back
-- since. Lease tokens and the keys of new sources are random, so that a restored database does not use them again for
-- something else.
alter table checkpointd.sources
  add column charged_at timestamptz not null default '-infinity',
  add column paused_at timestamptz not null default '-infinity',
  alter column key drop identity,
  alter column key set default 1 + floor(random() * 2147483646)::int;
comment on column checkpointd.sources.key is
  'Private key. It is random: after a restore, the key of a lost source must not become that of another one.';
comment on column checkpointd.sources.charged_at is
  'Time when budget_at was written. If it lies in the future, budget_at is ignored: the clock was set back since.';
comment on column checkpointd.sources.paused_at is
  'Time when resume_at was written. If it lies in the future, resume_at is ignored: the clock was set back since.';
comment on column checkpointd.sources.job_list_lease_token is
  'Random number of the last claim of the job list; 0 if it was never claimed. Its save is fenced by this number.';
comment on column checkpointd.sources.job_list_attempt_at is
  'Time when the job list was last claimed. If it lies in the future, job_list_due_at and job_list_lease_expires_at '
  'are ignored: the clock was set back since.';

comment on column checkpointd.polling.lease_token is
  'Random number of the last claim; 0 if the job was never claimed. A save is fenced by this number: it is stored '
  'only if the number is still the one of its claim.';
comment on column checkpointd.polling.next_poll_at is
  'Time when the next poll is due; infinity if the job is sealed or untracked. If the job is due at once, it is the '
  'time of the last claim, which never holds the job back.';
comment on column checkpointd.polling.last_attempt_at is
  'Time when the job was last claimed. If it lies in the future, next_poll_at and lease_expires_at are ignored: the '
  'clock was set back since. So is next_poll_at if the job was never claimed.';
