-- Save quiet polls, consume their leases, and return the jobs of those that were saved.
-- $1 quiet_job: bigint[], key
-- $2 quiet_lease_token: bigint[], from the claim
-- $3 quiet_gap: float8[], seconds from the claim to the next poll
-- $4 quiet_ended: bool[], whether the job has ended
-- $5 quiet_settled: bool[], whether it ended so long ago that equal listings may seal it
-- $6 quiet_digest: bytea[], of the listing; null if the next one must be compared in full
-- $7 quiet_content_digest: bytea[], of the listing; null if it was not read
-- $8 quiet_instability: int[], the score of the job after this poll
-- $9 quiet_unstable: bool[], whether the job is unstable with this score
--
-- A row that another transaction has locked is left out: the save of its poll is repeated a moment later.
call checkpointd.save_quiet_polls(
  saved_job => null,
  saved_lease_token => null,
  saved_rejected => null,
  quiet_job => $1::bigint[],
  quiet_lease_token => $2::bigint[],
  quiet_gap => $3::float8[],
  quiet_ended => $4::bool[],
  quiet_settled => $5::bool[],
  quiet_digest => $6::bytea[],
  quiet_content_digest => $7::bytea[],
  quiet_instability => $8::int[],
  quiet_unstable => $9::bool[]
)
