-- List the sources and their states.
select name, kind, state, since, resume_at, last_error, jobs, job_list_complete_at, job_list_error
from fine_tuning.sources
order by name
