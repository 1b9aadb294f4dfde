-- What was found of jobs and sources.
create or replace view fine_tuning.findings as
select findings.id, sources.name as source, jobs.id as fine_tuning_job_id, findings.kind, findings.since,
  findings.until, findings.message, findings.value, findings.checkpoint_id,
  findings.model
from checkpointd.findings
join checkpointd.sources on sources.key = findings.source
left join checkpointd.jobs on jobs.key = findings.job
where findings.since is not null;

comment on view fine_tuning.findings is
  'One row for each finding, open or resolved: that a job ended, overfits or stalls, that a source refuses its key, '
  'and so on. When it fires and when it is resolved, the view changes gets a row with its id as finding_id.';
comment on column fine_tuning.findings.id is 'Identifies the finding: changes.finding_id.';
comment on column fine_tuning.findings.source is 'Source that the finding is about, or source of its job.';
comment on column fine_tuning.findings.fine_tuning_job_id is
  'The provider''s id of the job; null if the finding is about the source.';
comment on column fine_tuning.findings.kind is
  'overfitting, diverging, stalled, finished, failed, suspected_gap, stale, source_paused, source_refused, '
  'unreadable, leaving or shutting_down.';
comment on column fine_tuning.findings.since is
  'Time when it fired, which is also changes.at of the row of kind fired.';
comment on column fine_tuning.findings.until is
  'Time when it was resolved, which is also changes.at of the row of kind resolved; null if it is open.';
comment on column fine_tuning.findings.message is
  'What was found, in a sentence. While the finding is open, it follows the data: the message at the time of firing '
  'is changes.new_value.';
comment on column fine_tuning.findings.value is
  'Number that the rule compared or, for finished, the value of the checkpoint''s metric; null if there is none.';
comment on column fine_tuning.findings.checkpoint_id is
  'Id of the checkpoint to deploy (finished, overfitting) or that is about to leave the list (leaving); otherwise '
  'null.';
comment on column fine_tuning.findings.model is
  'Name of the model that the provider shuts down (shutting_down); otherwise null.';
