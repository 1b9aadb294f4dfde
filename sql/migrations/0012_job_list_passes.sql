-- A pass over a long job list takes several readings, and each continues where the last one stopped.
alter table checkpointd.sources
  add column job_list_cursor text,
  add column job_list_pages int not null default 0,
  add column job_list_pass_at timestamptz,
  add column job_list_complete_from timestamptz;
update checkpointd.sources set job_list_complete_from = job_list_complete_at;
comment on column checkpointd.sources.job_list_cursor is
  'Id of the last job that the unfinished pass over the job list has read; null if there is no unfinished pass.';
comment on column checkpointd.sources.job_list_pages is
  'Number of pages that the unfinished pass over the job list has read.';
comment on column checkpointd.sources.job_list_pass_at is
  'Time when the unfinished pass over the job list began, or the last one that took more than one page.';
comment on column checkpointd.sources.job_list_complete_at is
  'Time when a pass last read the job list to its end.';
comment on column checkpointd.sources.job_list_complete_from is
  'Time when the pass that ended at job_list_complete_at began. Every job that was listed from this time to that one '
  'was seen.';
