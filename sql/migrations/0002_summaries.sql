-- What the checkpoints of a job are as a whole. A save that changes one of them rewrites its job's row in the same
-- transaction (sql/queries/summarise_jobs.sql), so that no view has to go through all checkpoints of all jobs.

create table checkpointd.summaries (
  job bigint primary key constraint summaries_job_exists references checkpointd.jobs,
  checkpoint_count bigint not null,
  latest_step bigint not null,
  step_distance double precision,
  is_uneven boolean not null,
  came_in_a_burst boolean not null,
  candidates bigint not null,
  best_rule text constraint summaries_best_rule_known check (best_rule in ('full_valid_loss', 'valid_loss')),
  best_covered bigint not null,
  best_id text
) with (fillfactor = 80);
comment on table checkpointd.summaries is 'One row for each job with checkpoints: what they are as a whole, as of the last save that changed one.';
comment on column checkpointd.summaries.job is 'The job.';
comment on column checkpointd.summaries.checkpoint_count is 'How many checkpoints are known.';
comment on column checkpointd.summaries.latest_step is 'The largest step of them.';
comment on column checkpointd.summaries.step_distance is 'The median distance between neighbouring steps, of two middle ones the smaller; null: there are no two.';
comment on column checkpointd.summaries.is_uneven is 'Two neighbouring steps lie more than 1.5 times the median distance apart.';
comment on column checkpointd.summaries.came_in_a_burst is 'More than three came at once, in a poll that was not the first complete one.';
comment on column checkpointd.summaries.candidates is 'How many are still listed, or, if none is, how many there are: the best is one of them.';
comment on column checkpointd.summaries.best_rule is 'The validation loss that more of the candidates have, full_valid_loss where both have as many; null: none has one.';
comment on column checkpointd.summaries.best_covered is 'How many of the candidates have it.';
comment on column checkpointd.summaries.best_id is 'The candidate with the smallest one, of equals the latest; null: there is none.';
