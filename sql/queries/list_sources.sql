-- The sources and their health.
select s.name, s.kind, s.state, s.since, s.resume_at, s.last_error, s.jobs, s.job_list_complete_at, s.job_list_error
from fine_tuning.sources s order by s.name
