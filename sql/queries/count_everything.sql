-- Count all jobs, checkpoints and changes.
select
  (select count(*) from fine_tuning.jobs) as jobs,
  (select count(*) from fine_tuning.checkpoints) as checkpoints,
  (select count(*) from fine_tuning.changes) as changes
