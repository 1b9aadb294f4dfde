-- Read what listings are compared with: the polls that still hold their leases, and the stored checkpoints of each.
-- $1 job: bigint[], key
-- $2 lease_token: bigint[], from the claim
-- $3 is_listed: bool[], whether the poll has a listing, with which its checkpoints are compared
-- $4 listed_job: bigint[], keys of the jobs of all listed checkpoints
-- $5 listed_id: text[], the provider's ids of all listed checkpoints
-- $6 listed_digest: bytea[], SHA-256 of the JSON of all listed checkpoints
-- $7 many: int, the number of checkpoints from which their steps are counted
-- $8 most_memory: bigint, bytes of memory that the result may take, unless it is that of one job
-- $9 largest_job: bigint, bytes of memory that the checkpoints of one job may take
-- $10 most_payload: bigint, bytes of the payloads of one job in the result, but at least one payload
--
-- A payload that is listed unchanged is not in the result, for which `is_listed_so` is true. Of the others, as many as
-- $10 permits are in the result, chosen at random, so that all of them get their turn in the polls to come.
--
-- The checkpoints of the first jobs are read, as many as $8 permits. is_read is false for the other jobs, which are
-- left to another call. is_too_large is true for a job whose checkpoints exceed $9, and are not read. A metric without
-- a column takes about 400 bytes in the memory of the daemon, however short it is.
--
-- Nothing is locked: while a poll holds its lease, no other poll changes what this reads. The result has one row for
-- each poll, whose id is null, and one for each stored checkpoint that is listed or not missing.
-- `all_stored` means that everything listed before this poll is stored: some listing was complete, and the last
-- compared one had no rejects. `step_count` is the number of different steps (or times, if the provider states no
-- steps) or, for a job with few checkpoints, that of its checkpoints.
with held as materialized (
  select polling.job, polling.lease_token, lease.is_listed, polling.absent_ids, polling.unconfirmed_steps,
    polling.rejected, polling.last_complete_at is not null and polling.rejected = 0 as all_stored,
    coalesce(summaries.checkpoint_count, 0) as checkpoint_count,
    case
      when summaries.checkpoint_count >= $7::int then (
        select count(distinct coalesce(checkpoints.step_number, checkpoints.created_at))
        from checkpointd.checkpoints
        where checkpoints.job = polling.job
      )
      else coalesce(summaries.checkpoint_count, 0)
    end as step_count
  from checkpointd.polling
  join unnest($1::bigint[], $2::bigint[], $3::bool[]) as lease (job, lease_token, is_listed) using (job, lease_token)
  left join checkpointd.summaries on summaries.job = polling.job
  where polling.lease_expires_at is not null
),

measured as materialized (
  select held.*, stored.size, sum(least(stored.size, $8::bigint)) over (order by held.job) as size_so_far
  from held
  cross join lateral (
    select coalesce(sum(
      500 + octet_length(checkpoints.payload::text)
      + 400 * (select count(*) from jsonb_object_keys(checkpoints.extra_metrics))
    ), 0)::bigint as size
    from checkpointd.checkpoints
    where checkpoints.job = held.job
      and held.is_listed
      and (checkpoints.missing_since is null or checkpoints.id = any ($5::text[]))
  ) as stored
),

chosen as materialized (
  select measured.*, size > $9::bigint as is_too_large, size_so_far <= $8 or size_so_far = least(size, $8) as is_read
  from measured
),

stored as materialized (
  select checkpoints.*,
    (checkpoints.job, checkpoints.id, sha256(convert_to(checkpoints.payload::text, 'UTF8'))) in (
      select listed_job, listed_id, listed_digest
      from unnest($4::bigint[], $5, $6::bytea[]) as listed (listed_job, listed_id, listed_digest)
    ) as is_listed_so
  from chosen
  join checkpointd.checkpoints
    on checkpoints.job = chosen.job
    and chosen.is_listed
    and chosen.is_read
    and not chosen.is_too_large
    and (checkpoints.missing_since is null or checkpoints.id = any ($5))
)

select is_read, is_too_large, size, job, lease_token, absent_ids, unconfirmed_steps, rejected, all_stored,
  checkpoint_count, step_count, null as id, null as step_number, null as created_at,
  null as fine_tuned_model_checkpoint, null as step, null as train_loss, null as train_mean_token_accuracy,
  null as valid_loss, null as valid_mean_token_accuracy, null as full_valid_loss,
  null as full_valid_mean_token_accuracy, null as extra_metrics, null as missing, null as is_listed_so,
  null as payload
from chosen
union all
select null, null, null, stored.job, null, null, null, null, null, null, null, stored.id, stored.step_number,
  stored.created_at, stored.fine_tuned_model_checkpoint, stored.step, stored.train_loss,
  stored.train_mean_token_accuracy, stored.valid_loss, stored.valid_mean_token_accuracy, stored.full_valid_loss,
  stored.full_valid_mean_token_accuracy, stored.extra_metrics, stored.missing_since is not null, stored.is_listed_so,
  stored.read_payload
from (
  select *, null as read_payload
  from stored
  where is_listed_so
  union all
  select *,
    case
      when coalesce(
        sum(octet_length(payload::text)) over (
          partition by job
          order by random()
          rows between unbounded preceding and 1 preceding
        ),
        0
      ) < $10::bigint
        then payload
    end
  from stored
  where not is_listed_so
) as stored
