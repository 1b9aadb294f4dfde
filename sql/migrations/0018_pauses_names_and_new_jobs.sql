-- Commands can end a pause and rename a source; discovery has a budget of new jobs.
alter table checkpointd.sources
  add column resumed_at timestamptz,
  add column former_names text[] not null default '{}',
  add column new_jobs_until timestamptz not null default '-infinity',
  add column jobs_left_out_at timestamptz;
comment on column checkpointd.sources.resumed_at is
  'Time when a command last let all daemons send requests again at once; null if none did. A daemon that was silent '
  'before, because of a pause or a failure of the source, ends its silence.';
comment on column checkpointd.sources.name is
  'Name in the settings. The command rename changes it; jobs and history stay with the row.';
comment on column checkpointd.sources.former_names is
  'Names that the source had before it was renamed. A daemon whose settings still have one of them polls this source. '
  'No other source has one of them: a new source with the name of an old one takes it away.';
comment on column checkpointd.sources.new_jobs_until is
  'Time up to which the budget of new jobs is used up. Each job that discovery tracks for the first time moves it '
  'forward by a day divided by the setting max_new_jobs_per_day.';
comment on column checkpointd.sources.jobs_left_out_at is
  'Time when discovery last left out a new job, because the budget was used up; null if it never did. It is written '
  'once in a reading of the job list.';
