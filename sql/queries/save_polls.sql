-- Save polls that are not quiet, in one transaction, and return the jobs of those that can be saved.
-- $1 keep: bool, false to test the values only: everything is rolled back
-- $2 most_rejects: bigint, how many rejects to store for each job
-- $3 poll_job: bigint[], key
-- $4 poll_lease_token: bigint[], from the claim
-- $5 poll_delay: float8[], seconds from the claim to the next poll
-- $6 poll_gap: float8[], the poll gap of the cadence in seconds, without back-off
-- $7 poll_complete: bool[], whether the listing is complete
-- $8 poll_reopens: bool[], whether a change shows that a job which seemed to have ended goes on
-- $9 poll_digest: bytea[], of the listing; null if the next one must be compared in full
-- $10 poll_content_digest: bytea[], of the listing; null if it was not read or is incomplete
-- $11 poll_absent_ids: text[], ids of known checkpoints that the listing lacks, joined by newlines; or null
-- $12 poll_unconfirmed_steps: text[], unknown steps of an unstable job to confirm, joined by newlines; or null
-- $13 poll_instability: int[], the score of the job after this poll
-- $14 poll_unstable: bool[], whether the job is unstable with this score
-- $15 poll_rejected: int[], items of which nothing could be stored; null if no listing was compared
-- $16 poll_error_class: text[], of the failure; null if the poll did not fail
-- $17 poll_error: text[], the failure in words; null if the poll did not fail
-- $18 poll_newest_step: bigint[], arrivals: largest step; null before the first arrival
-- $19 poll_newest_seen_at: float8[], arrivals: when it arrived, in Unix seconds; null before the first arrival
-- $20 poll_arrivals: int[], arrivals: how many there were
-- $21 poll_arrival_error_s: float8[], arrivals: standard deviation of the time of the newest, in seconds
-- $22 poll_first_arrival_s: float8[], arrivals: seconds from the start of tracking to the first; null if unknown
-- $23 poll_spacing_s: float8[], arrivals: seconds between two; null before the first
-- $24 poll_spread_s: float8[], arrivals: standard deviation of these seconds; null before the first
-- $25 poll_publication_delay_s: float8[], arrivals: seconds from created_at to the arrival
-- $26 poll_blames_job: bool[], whether the failure counts against the job and not against its source
-- $27 poll_gone: bool[], whether the provider has not found the job for a long time
-- $28 poll_items: int[], checkpoints that were read
-- $29 poll_new: int[], checkpoints that are new
-- $30 poll_changed: int[], checkpoints that changed, went missing or returned
-- $31 poll_burst: bool[], whether more than three checkpoints came at once
-- $32 checkpoint_job: bigint[], key; the checkpoints are the new ones, and those of which a value changed
-- $33 checkpoint_is_new: bool[], whether it is new; this also makes the change of kind new
-- $34 checkpoint_id: text[], the provider's id
-- $35 checkpoint_step_number: bigint[], training step
-- $36 checkpoint_created_at: bigint[], Unix seconds; null if not given, as all further columns up to the metrics
-- $37 checkpoint_fine_tuned_model_checkpoint: text[], name of the model
-- $38 checkpoint_step: float8[], metric
-- $39 checkpoint_train_loss: float8[], metric
-- $40 checkpoint_train_mean_token_accuracy: float8[], metric
-- $41 checkpoint_valid_loss: float8[], metric
-- $42 checkpoint_valid_mean_token_accuracy: float8[], metric
-- $43 checkpoint_full_valid_loss: float8[], metric
-- $44 checkpoint_full_valid_mean_token_accuracy: float8[], metric
-- $45 checkpoint_extra_metrics: text[], JSON object of other metrics by name; or null
-- $46 checkpoint_payload: text[], JSON as received
-- $47 mark_job: bigint[], key; the marks are for checkpoints that went missing or returned
-- $48 mark_id: text[], the provider's id of the checkpoint
-- $49 mark_missing: bool[], whether it is missing or, if false, listed again
-- $50 reject_owner: bigint[], key of the job
-- $51 reject_digest: bytea[], key of the reject
-- $52 reject_reason: text[], why the item cannot be read, or which of its values are odd
-- $53 reject_raw: bytea[], the item's bytes; null if they contain a secret
-- $54 reject_is_stored: bool[], whether the item is stored without its odd values
-- $55 change_job: bigint[], key
-- $56 change_kind: text[], changed, regressed, missing or returned
-- $57 change_checkpoint_id: text[], the provider's id
-- $58 change_field: text[], column of the view checkpoints, or extra_metrics.NAME; null for the whole checkpoint
-- $59 change_old_value: text[], before the change; or null
-- $60 change_new_value: text[], after the change; or null
--
-- Saves all of them or none: nothing is written unless all polls still hold their leases and no row of their jobs is
-- locked. The others can then be saved without them.
call checkpointd.save_polls(
  saved => null,
  keep => $1::bool,
  most_rejects => $2::bigint,
  poll_job => $3::bigint[],
  poll_lease_token => $4::bigint[],
  poll_delay => $5::float8[],
  poll_gap => $6::float8[],
  poll_complete => $7::bool[],
  poll_reopens => $8::bool[],
  poll_digest => $9::bytea[],
  poll_content_digest => $10::bytea[],
  poll_absent_ids => $11::text[],
  poll_unconfirmed_steps => $12::text[],
  poll_instability => $13::int[],
  poll_unstable => $14::bool[],
  poll_rejected => $15::int[],
  poll_error_class => $16::text[],
  poll_error => $17::text[],
  poll_newest_step => $18::bigint[],
  poll_newest_seen_at => $19::float8[],
  poll_arrivals => $20::int[],
  poll_arrival_error_s => $21::float8[],
  poll_first_arrival_s => $22::float8[],
  poll_spacing_s => $23::float8[],
  poll_spread_s => $24::float8[],
  poll_publication_delay_s => $25::float8[],
  poll_blames_job => $26::bool[],
  poll_gone => $27::bool[],
  poll_items => $28::int[],
  poll_new => $29::int[],
  poll_changed => $30::int[],
  poll_burst => $31::bool[],
  checkpoint_job => $32::bigint[],
  checkpoint_is_new => $33::bool[],
  checkpoint_id => $34::text[],
  checkpoint_step_number => $35::bigint[],
  checkpoint_created_at => $36::bigint[],
  checkpoint_fine_tuned_model_checkpoint => $37::text[],
  checkpoint_step => $38::float8[],
  checkpoint_train_loss => $39::float8[],
  checkpoint_train_mean_token_accuracy => $40::float8[],
  checkpoint_valid_loss => $41::float8[],
  checkpoint_valid_mean_token_accuracy => $42::float8[],
  checkpoint_full_valid_loss => $43::float8[],
  checkpoint_full_valid_mean_token_accuracy => $44::float8[],
  checkpoint_extra_metrics => $45::text[],
  checkpoint_payload => $46::text[],
  mark_job => $47::bigint[],
  mark_id => $48::text[],
  mark_missing => $49::bool[],
  reject_owner => $50::bigint[],
  reject_digest => $51::bytea[],
  reject_reason => $52::text[],
  reject_raw => $53::bytea[],
  reject_is_stored => $54::bool[],
  change_job => $55::bigint[],
  change_kind => $56::text[],
  change_checkpoint_id => $57::text[],
  change_field => $58::text[],
  change_old_value => $59::text[],
  change_new_value => $60::text[]
)
