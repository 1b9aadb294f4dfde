-- The best checkpoint of a job is chosen by an objective: a metric, and whether less or more of it is better.
create table checkpointd.objectives (
  job bigint primary key constraint objectives_job_exists references checkpointd.jobs,
  metric text,
  direction text constraint objectives_direction_known check (direction in ('minimize', 'maximize')),
  constraint objectives_are_whole check ((metric is null) = (direction is null))
);
comment on table checkpointd.objectives is 'One row for each job for which a person set an objective.';
comment on column checkpointd.objectives.job is 'Key of the job.';
comment on column checkpointd.objectives.metric is
  'Metric by which the best checkpoint is chosen; null if the job follows its source, or the default, again.';
comment on column checkpointd.objectives.direction is 'minimize or maximize; null without a metric.';

alter table checkpointd.sources
  add column objective_metric text,
  add column objective_direction text
    constraint sources_objective_direction_known check (objective_direction in ('minimize', 'maximize')),
  add constraint sources_objective_is_whole check ((objective_metric is null) = (objective_direction is null));
comment on column checkpointd.sources.objective_metric is
  'Metric by which the best checkpoints of its jobs are chosen, by the setting objective; null for the default.';
comment on column checkpointd.sources.objective_direction is 'minimize or maximize; null without a metric.';

alter table checkpointd.summaries
  drop constraint summaries_best_rule_known,
  add column best_direction text
    constraint summaries_best_direction_known check (best_direction in ('minimize', 'maximize')),
  add column best_set_for text not null default 'default'
    constraint summaries_best_set_for_known check (best_set_for in ('job', 'source', 'default')),
  add column latest_id text;
update checkpointd.summaries
set best_direction = case when best_rule is not null then 'minimize' end, latest_id = latest.id
from (
  select distinct on (job) job, id
  from checkpointd.checkpoints
  order by job, step_number desc, id
) as latest
where latest.job = summaries.job;
comment on column checkpointd.summaries.best_rule is
  'Metric of the objective by which the best checkpoint was chosen; null if there is no objective.';
comment on column checkpointd.summaries.best_direction is
  'minimize or maximize: whether the best checkpoint has the least or the most of the metric; null without a metric.';
comment on column checkpointd.summaries.best_set_for is
  'Where the objective comes from: job (table objectives), source (table sources), default (from the metrics that the '
  'checkpoints have).';
comment on column checkpointd.summaries.latest_id is
  'Id of the checkpoint of the latest step; of several ones, the first by id.';
comment on column checkpointd.summaries.best_covered is 'Number of candidates that have the metric.';
comment on column checkpointd.summaries.best_id is
  'Id of the candidate with the best value, of equal ones the latest; null if there is none.';

alter table checkpointd.operations
  drop constraint operations_operation_known,
  add constraint operations_operation_known check (operation in ('track', 'untrack', 'resync', 'objective'));
comment on table checkpointd.operations is
  'One row for each job that a person tracked, untracked or resynced, or whose objective a person set, by a command '
  'or by SQL. Append-only.';
comment on column checkpointd.operations.operation is 'track, untrack, resync or objective.';
