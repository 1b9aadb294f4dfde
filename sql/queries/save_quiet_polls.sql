-- Save quiet polls, consume their leases, and return the jobs of those that were saved.
-- $1 quiet_job: text of bigint[], key
-- $2 quiet_lease_token: text of bigint[], from the claim
-- $3 quiet_gap: text of float8[], seconds from the claim to the next poll
-- $4 quiet_ended: text of bool[], whether the job has ended
-- $5 quiet_settled: text of bool[], whether it ended so long ago that equal listings may seal it
-- $6 quiet_digest: bytea[], of the listing; null if the next one must be compared in full
-- $7 quiet_content_digest: bytea[], of the listing; null if it was not read
-- $8 quiet_instability: text of int[], the score of the job after this poll
-- $9 quiet_unstable: text of bool[], whether the job is unstable with this score
--
-- A row that another transaction has locked is left out: the save of its poll is repeated a moment later.
call checkpointd.save_quiet_polls(
  saved_job => null,
  saved_lease_token => null,
  saved_rejected => null,
  quiet_job => $1::text::bigint[],
  quiet_lease_token => $2::text::bigint[],
  quiet_gap => $3::text::float8[],
  quiet_ended => $4::text::bool[],
  quiet_settled => $5::text::bool[],
  quiet_digest => $6::bytea[],
  quiet_content_digest => $7::bytea[],
  quiet_instability => $8::text::int[],
  quiet_unstable => $9::text::bool[]
)
