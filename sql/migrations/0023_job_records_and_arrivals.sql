-- The time in which a job waits does not count for the arrivals of its checkpoints. The first one is also expected by
-- what the provider estimates.
alter table checkpointd.polling
  add column waiting_since timestamptz,
  add column waited_s double precision not null default 0,
  add column epoch_estimate_s double precision;
comment on column checkpointd.polling.waiting_since is
  'Arrivals: time since which the job has been queued or paused, by its status, but not before the poll that saw the '
  'last arrival; null if it is neither.';
comment on column checkpointd.polling.waited_s is
  'Arrivals: seconds for which the job was queued or paused before waiting_since, but after the last arrival.';
comment on column checkpointd.polling.epoch_estimate_s is
  'Arrivals: seconds from the start of tracking, without waited_s, to estimated_finish of the job record, divided by '
  'n_epochs, as they were before the first arrival; null if the provider does not state both.';

alter table checkpointd.source_arrivals
  add column estimates int not null default 0,
  add column estimate_mean double precision,
  add column estimate_spread double precision;
comment on column checkpointd.source_arrivals.estimates is 'Number of jobs of estimate_mean and estimate_spread.';
comment on column checkpointd.source_arrivals.estimate_mean is
  'Mean of the logarithm of the seconds to the first arrival, divided by epoch_estimate_s; null without a job.';
comment on column checkpointd.source_arrivals.estimate_spread is 'Standard deviation of this logarithm.';
