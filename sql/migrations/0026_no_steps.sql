-- Providers such as Tinker state no step.
alter table checkpointd.checkpoints alter column step_number drop not null;
comment on column checkpointd.checkpoints.step_number is
  'Training step at which the checkpoint was made; null if the provider does not state it.';
alter table checkpointd.summaries alter column latest_step drop not null;
comment on column checkpointd.summaries.latest_step is
  'Largest training step of the stored checkpoints; null if they have none.';
comment on column checkpointd.polling.newest_step is
  'Arrivals: largest step_number seen or, of a provider without steps, largest created_at.';
