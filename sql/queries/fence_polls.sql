-- Lock the polls that still hold their lease, in the one order everybody uses; a row that is locked is left for later.
-- $1 jobs, $2 lease tokens. Whether all was known that was listed: a listing was complete, and nothing of it unreadable.
select p.job, p.lease_token, p.absent_ids, p.error_class, p.failure_poll, p.last_complete_at is not null and p.rejected = 0 as knew_all
from checkpointd.polling p
join unnest($1::bigint[], $2::bigint[]) as g (job, lease_token) using (job, lease_token)
where p.lease_expires_at is not null
order by p.job for no key update of p skip locked
