-- Store rejects, up to a limit for each job, and count the others.
-- $1 job: bigint[], key
-- $2 digest: bytea[], sha256 of the item's bytes
-- $3 reason: text[], why the item cannot be read
-- $4 raw: bytea[], the item's bytes; null if they contain a secret
-- $5 most: bigint, how many rejects to store for each job
--
-- The others are counted in one row for each job, whose digest is empty.
with given as (
  select reject.job, reject.digest, reject.reason, reject.raw, rejects.digest is not null as is_stored
  from unnest($1::bigint[], $2::bytea[], $3::text[], $4::bytea[]) as reject (job, digest, reason, raw)
  left join checkpointd.rejects on rejects.job = reject.job and rejects.digest = reject.digest
),

stored as (
  select job, count(*) as count
  from checkpointd.rejects
  where job = any ($1)
    and digest <> ''
  group by job
),

placed as (
  select given.job, given.digest, given.reason, given.raw,
    given.is_stored
      or row_number() over (partition by given.job, given.is_stored order by given.digest) + coalesce(stored.count, 0)
        <= $5 as fits
  from given
  left join stored on stored.job = given.job
)

insert into checkpointd.rejects (job, digest, reason, raw, count)
select job, digest, reason, raw, 1
from placed
where fits
union all
select job, '', 'further items, not kept: the job has too many that cannot be read', null, count(*)
from placed
where not fits
group by job
on conflict (job, digest) do update
set count = rejects.count + excluded.count, last_seen_at = clock_timestamp(), reason = excluded.reason
