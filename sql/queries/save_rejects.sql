-- Keep what could not be read: so many items a job, and of the rest only their number. $1 jobs, $2 digests, $3 reasons,
-- $4 bytes, $5 how many items a job.
with given as (
  select g.job, g.digest, g.reason, g.raw, r.digest is not null as is_kept
  from unnest($1::bigint[], $2::bytea[], $3::text[], $4::bytea[]) as g (job, digest, reason, raw)
  left join checkpointd.rejects r on r.job = g.job and r.digest = g.digest),
kept as (select r.job, count(*) as n from checkpointd.rejects r where r.job = any ($1) and r.digest <> '' group by r.job),
placed as (
  select g.job, g.digest, g.reason, g.raw, g.is_kept
    or row_number() over (partition by g.job, g.is_kept order by g.digest) + coalesce(k.n, 0) <= $5 as fits
  from given g left join kept k on k.job = g.job)
insert into checkpointd.rejects (job, digest, reason, raw, count)
select p.job, p.digest, p.reason, p.raw, 1 from placed p where p.fits
union all
select p.job, '', 'further items, not kept: the job has too many that cannot be read', null, count(*)
from placed p where not p.fits group by p.job
on conflict (job, digest) do update
set count = rejects.count + excluded.count, last_seen_at = clock_timestamp(), reason = excluded.reason
