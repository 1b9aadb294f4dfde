-- When the provider shuts models down, as its list of models says.
create table checkpointd.models (
  source int not null constraint models_source_exists references checkpointd.sources,
  id text not null,
  shutdown_date date,
  primary key (source, id)
);
comment on table checkpointd.models is
  'One row for each model of which a source ever stated when it is shut down: 10,000 of a source at most.';
comment on column checkpointd.models.source is 'Key of the source.';
comment on column checkpointd.models.id is 'Name of the model.';
comment on column checkpointd.models.shutdown_date is
  'Day on which the provider shuts the model down, as last stated; null if it does not any more.';

alter table checkpointd.sources add column models_claimed_at timestamptz;
comment on column checkpointd.sources.models_claimed_at is
  'Time when a daemon last began to read the list of models. It counts as the reading, whatever comes of it.';

-- The present rows meet the constraint.
alter table checkpointd.findings
  add column model text,
  drop constraint findings_kind_known,
  add constraint findings_kind_known check (
    kind in (
      'overfitting', 'diverging', 'stalled', 'finished', 'failed', 'suspected_gap', 'stale', 'source_paused',
      'source_refused', 'unreadable', 'leaving', 'shutting_down'
    )
  ) not valid;
drop index checkpointd.findings_open;
create unique index findings_open on checkpointd.findings (
  source, job, kind, (case when kind = 'leaving' then checkpoint_id end), model
) nulls not distinct where until is null;
comment on column checkpointd.findings.model is 'Name of the model that is shut down; otherwise null.';
comment on index checkpointd.findings_open is
  'A finding is open once: for each job or source and kind or, if a checkpoint is leaving, for each checkpoint, and '
  'if a model is shut down, for each model.';
