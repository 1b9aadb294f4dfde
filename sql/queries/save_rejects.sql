-- Store rejects, up to a limit for each job and each source, and count the others.
-- $1 job: bigint[], key; null for a job record whose job is not known
-- $2 source: int[], key, if the job is null; else null
-- $3 digest: bytea[], key of the reject
-- $4 reason: text[], why the item cannot be read, or which of its values are odd
-- $5 raw: bytea[], the item's bytes; null if they contain a secret
-- $6 is_stored: bool[], whether the item is stored without its odd values
-- $7 most: bigint, how many rejects to store for each job and each source
--
-- The others are counted in one row for each job and each source, whose digest is empty.
with given as (
  select reject.job, reject.source, owners.owner, reject.digest, reject.reason, reject.raw, reject.is_stored,
    rejects.digest is not null as is_known
  from unnest($1::bigint[], $2::int[], $3::bytea[], $4::text[], $5::bytea[], $6::bool[])
    as reject (job, source, digest, reason, raw, is_stored)
  cross join lateral (select coalesce(reject.job, -reject.source)) as owners (owner)
  left join checkpointd.rejects on rejects.owner = owners.owner and rejects.digest = reject.digest
),

known as (
  select owner, count(*) as count
  from checkpointd.rejects
  where owner = any (select owner from given)
    and digest <> ''
  group by owner
),

placed as (
  select given.job, given.source, given.owner, given.digest, given.reason, given.raw, given.is_stored,
    given.is_known
      or row_number() over (partition by given.owner, given.is_known order by given.digest) + coalesce(known.count, 0)
        <= $7 as fits
  from given
  left join known on known.owner = given.owner
)

insert into checkpointd.rejects (job, source, digest, reason, raw, is_stored, count)
select job, source, digest, reason, raw, is_stored, 1
from placed
where fits
union all
select job, source, '', 'further items, not kept: there are too many that cannot be read', null, false, count(*)
from placed
where not fits
group by job, source
on conflict (owner, digest) do update
set count = rejects.count + excluded.count, last_seen_at = clock_timestamp(), reason = excluded.reason
