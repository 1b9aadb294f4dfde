-- The sources and their states.
create or replace view fine_tuning.sources as
select sources.name, sources.kind, sources.state, sources.state_since as since, sources.resume_at, sources.last_error,
  (select count(*) from checkpointd.jobs where jobs.source = sources.key and jobs.untracked_at is null) as jobs,
  sources.job_list_complete_at, sources.job_list_error, sources.former_names,
  case
    when sources.jobs_left_out_at
      between coalesce(sources.job_list_complete_from, '-infinity') and clock_timestamp()
      then sources.jobs_left_out_at
  end as jobs_left_out_at,
  sources.name as source
from checkpointd.sources;

comment on view fine_tuning.sources is 'One row for each source: an account at a provider.';
comment on column fine_tuning.sources.name is 'Name of the source in the settings. The command rename changes it.';
comment on column fine_tuning.sources.kind is
  'Kind of the provider, as in the settings: such as openai, azure or compatible.';
comment on column fine_tuning.sources.state is
  'ok; paused (throttled or out of quota: every daemon waits until resume_at); refused (the source rejected the key '
  'of a daemon); failing (the source does not answer a daemon as an API should, whatever the job).';
comment on column fine_tuning.sources.since is 'Time of the last change of the state.';
comment on column fine_tuning.sources.resume_at is 'Time when polling goes on; null if there is no pause.';
comment on column fine_tuning.sources.last_error is
  'Why the source is not ok, or was not ok last. It stays after the source is ok again; null if it always was.';
comment on column fine_tuning.sources.jobs is 'Number of tracked jobs.';
comment on column fine_tuning.sources.job_list_complete_at is 'Time when the job list was last read to its end.';
comment on column fine_tuning.sources.job_list_error is 'Why the job list could not be read; null if it could.';
comment on column fine_tuning.sources.former_names is
  'Names that the source had before it was renamed. Settings with one of them still mean this source.';
comment on column fine_tuning.sources.jobs_left_out_at is
  'Time when discovery last left out a new job, because more jobs were new than max_new_jobs_per_day permits; null if '
  'the last reading of the whole job list left out none.';
comment on column fine_tuning.sources.source is
  'The same as name: other views have the name of the source under this name.';
