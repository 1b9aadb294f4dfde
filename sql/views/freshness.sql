-- How current the stored checkpoints of each tracked job are.
create or replace view fine_tuning.freshness as
select sources.name as source, jobs.id as fine_tuning_job_id, polling.last_attempt_at, polling.last_complete_at,
  polling.last_success_at, polling.last_change_at, nullif(polling.next_poll_at, 'infinity') as next_poll_at,
  case when polling.sealed_at is null then now() - checkpointd.known_since(jobs, polling) end as lag,
  checkpointd.is_stale(jobs, polling) as is_stale,
  polling.failures as consecutive_failures, polling.error_class, polling.last_error, polling.quiet_polls,
  case
    when polling.sealed_at is null then extract(epoch from now() - checkpointd.known_since(jobs, polling))::float8
  end as lag_seconds
from checkpointd.polling
join checkpointd.jobs on jobs.key = polling.job
join checkpointd.sources on sources.key = jobs.source
where jobs.untracked_at is null;

comment on view fine_tuning.freshness is
  'One row for each tracked job: when its checkpoints were last polled, listed completely, read without rejects, and '
  'changed.';
comment on column fine_tuning.freshness.source is 'Source of the job.';
comment on column fine_tuning.freshness.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.freshness.last_attempt_at is 'Time when the last poll started, whatever its outcome.';
comment on column fine_tuning.freshness.last_complete_at is 'Time when a poll last read every page.';
comment on column fine_tuning.freshness.last_success_at is
  'Time when a poll last read every page and at least the important values of every item.';
comment on column fine_tuning.freshness.last_change_at is 'Time when a poll last changed something.';
comment on column fine_tuning.freshness.next_poll_at is
  'Time when the next poll is due; null if the job is sealed and no poll will follow.';
comment on column fine_tuning.freshness.lag is
  'Time since the last complete listing, or since the job was tracked if there is none; null if the job is sealed. A '
  'time in the future does not count, because the clock was set back since; null if there is no other one.';
comment on column fine_tuning.freshness.is_stale is
  'True if the last complete listing is older than one minute plus twice the job''s own poll gap, or seems to lie in '
  'the future, because the clock was set back since. Always false for a job that is sealed or gone.';
comment on column fine_tuning.freshness.consecutive_failures is
  'Number of polls in a row that failed. Failures of the source do not count, nor those of a sealed job: only the '
  'command sync polls it.';
comment on column fine_tuning.freshness.error_class is
  'Class of the failure of the last poll; null if it did not fail.';
comment on column fine_tuning.freshness.last_error is 'Failure of the last poll in words; null if it did not fail.';
comment on column fine_tuning.freshness.quiet_polls is 'Number of polls with a complete listing that changed nothing.';
comment on column fine_tuning.freshness.lag_seconds is 'lag in seconds, for tools that cannot show an interval.';
