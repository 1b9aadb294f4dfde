-- Count the jobs of each source whose list never stabilises, except sealed and gone ones, and name one of them.
select source, count(*) as jobs, min(id) as job
from fine_tuning.jobs
where unstable_since is not null
  and phase not in ('sealed', 'gone', 'untracked')
group by source
order by source
