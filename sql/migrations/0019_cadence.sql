-- The arrivals of a job's checkpoints are known with their errors, and each source remembers those of its ended jobs.
alter table checkpointd.polling
  add column arrivals int not null default 0,
  add column arrival_error_s double precision not null default 0,
  add column first_arrival_s double precision,
  add column publication_delay_s double precision not null default 0;

update checkpointd.polling
set arrivals = case when spacing_s is null then 1 else 2 end
where newest_step is not null;

comment on column checkpointd.polling.newest_step is 'Arrivals: largest step_number seen.';
comment on column checkpointd.polling.newest_seen_at is
  'Arrivals: estimated time from which on a listing would have had that step.';
comment on column checkpointd.polling.arrivals is
  'Arrivals: how many there were. Checkpoints that arrived at the same time are one.';
comment on column checkpointd.polling.arrival_error_s is
  'Arrivals: standard deviation of newest_seen_at, in seconds.';
comment on column checkpointd.polling.first_arrival_s is
  'Arrivals: seconds from the start of tracking to the first, without publication_delay_s; null if it is unknown.';
comment on column checkpointd.polling.spacing_s is
  'Arrivals: expected seconds from one to the next; null before the first.';
comment on column checkpointd.polling.spread_s is
  'Arrivals: expected standard deviation of these seconds; null before the first.';
comment on column checkpointd.polling.publication_delay_s is
  'Arrivals: seconds from created_at of a checkpoint to its arrival, as far as they are regular.';

create table checkpointd.source_arrivals (
  -- A source without jobs is deleted if another one gets its name.
  source int primary key
    constraint source_arrivals_source_exists references checkpointd.sources on delete cascade,
  learnt_at timestamptz not null,
  firsts int not null,
  first_mean double precision,
  first_spread double precision,
  spacings int not null,
  spacing_mean double precision,
  spacing_spread double precision,
  ratios int not null,
  ratio_mean double precision,
  ratio_spread double precision,
  noises int not null,
  noise double precision,
  price double precision not null
);
comment on table checkpointd.source_arrivals is
  'What the cadence knows of a source: the arrivals of its ended jobs, and the price of a request.';
comment on column checkpointd.source_arrivals.source is 'Key of the source.';
comment on column checkpointd.source_arrivals.learnt_at is 'Time when the row was written.';
comment on column checkpointd.source_arrivals.firsts is 'Number of jobs of first_mean and first_spread.';
comment on column checkpointd.source_arrivals.first_mean is
  'Mean of the logarithm of the seconds from the start of tracking to the first arrival; null without a job.';
comment on column checkpointd.source_arrivals.first_spread is 'Standard deviation of this logarithm.';
comment on column checkpointd.source_arrivals.spacings is 'Number of jobs of spacing_mean and spacing_spread.';
comment on column checkpointd.source_arrivals.spacing_mean is
  'Mean of the logarithm of the seconds between two arrivals of a job; null without a job.';
comment on column checkpointd.source_arrivals.spacing_spread is 'Standard deviation of this logarithm.';
comment on column checkpointd.source_arrivals.ratios is 'Number of jobs of ratio_mean and ratio_spread.';
comment on column checkpointd.source_arrivals.ratio_mean is
  'Mean of the logarithm of first_arrival_s / spacing_s; null without a job.';
comment on column checkpointd.source_arrivals.ratio_spread is 'Standard deviation of this logarithm.';
comment on column checkpointd.source_arrivals.noises is 'Number of jobs of noise.';
comment on column checkpointd.source_arrivals.noise is
  'Root mean square of spread_s / spacing_s; null without a job.';
comment on column checkpointd.source_arrivals.price is
  'Price of a request, as a multiple of the usual one. It rises if the rate limit permits too few requests.';
