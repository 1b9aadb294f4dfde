-- Keep what could not be read. $1 jobs, $2 digests, $3 reasons, $4 bytes.
insert into checkpointd.rejects (job, digest, reason, raw)
select u.job, u.digest, u.reason, u.raw from unnest($1::bigint[], $2::bytea[], $3::text[], $4::bytea[]) as u (job, digest, reason, raw)
on conflict (job, digest) do update
set count = rejects.count + 1, last_seen_at = clock_timestamp(), reason = excluded.reason
