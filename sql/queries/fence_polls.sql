-- Lock the polling rows that still hold the given leases, and return the columns that a save needs.
-- $1 job: bigint[], key
-- $2 lease_token: bigint[], from the claim
-- $3 many: int, the number of checkpoints from which their steps are counted
--
-- Rows are locked in the order of their keys, as everywhere, so that saves do not deadlock. A row that another
-- transaction has locked is left out: the save of its poll is repeated a moment later. `all_stored` means that
-- everything listed before this poll is stored: some listing was complete, and the last compared one had no rejects.
-- `step_count` is the number of different steps or, for a job with few checkpoints, that of its checkpoints.
select polling.job, polling.lease_token, polling.absent_ids, polling.unconfirmed_steps, polling.rejected,
  polling.error_class, polling.failure_poll,
  polling.last_complete_at is not null and polling.rejected = 0 as all_stored,
  coalesce(summaries.checkpoint_count, 0) as checkpoint_count,
  case
    when summaries.checkpoint_count >= $3::int then (
      select count(distinct checkpoints.step_number) from checkpointd.checkpoints where checkpoints.job = polling.job
    )
    else coalesce(summaries.checkpoint_count, 0)
  end as step_count
from checkpointd.polling
join unnest($1::bigint[], $2::bigint[]) as held (job, lease_token) using (job, lease_token)
left join checkpointd.summaries on summaries.job = polling.job
where polling.lease_expires_at is not null
order by polling.job
for no key update of polling skip locked
