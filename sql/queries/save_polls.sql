-- Save polls that are not quiet, in one transaction, and return the jobs of those that can be saved.
-- $1 keep: bool, false to test the values only: everything is rolled back
-- $2 most_rejects: bigint, how many rejects to store for each job
-- $3 poll_job: text of bigint[], key
-- $4 poll_lease_token: text of bigint[], from the claim
-- $5 poll_delay: text of float8[], seconds from the claim to the next poll
-- $6 poll_gap: text of float8[], the poll gap of the cadence in seconds, without back-off
-- $7 poll_complete: text of bool[], whether the listing is complete
-- $8 poll_reopens: text of bool[], whether a change shows that a job which seemed to have ended goes on
-- $9 poll_digest: bytea[], of the listing; null if the next one must be compared in full
-- $10 poll_content_digest: bytea[], of the listing; null if it was not read or is incomplete
-- $11 poll_absent_ids: text[], ids of known checkpoints that the listing lacks, joined by newlines; or null
-- $12 poll_unconfirmed_steps: text[], unknown steps of an unstable job to confirm, joined by newlines; or null
-- $13 poll_instability: text of int[], the score of the job after this poll
-- $14 poll_unstable: text of bool[], whether the job is unstable with this score
-- $15 poll_rejected: text of int[], items of which nothing could be stored; null if no listing was compared
-- $16 poll_error_class: text[], of the failure; null if the poll did not fail
-- $17 poll_error: text[], the failure in words; null if the poll did not fail
-- $18 poll_newest_step: text of bigint[], arrivals: largest step; null before the first arrival
-- $19 poll_newest_seen_at: text of float8[], arrivals: when it arrived, in Unix seconds; null before the first arrival
-- $20 poll_arrivals: text of int[], arrivals: how many there were
-- $21 poll_arrival_error_s: text of float8[], arrivals: standard deviation of the time of the newest, in seconds
-- $22 poll_first_arrival_s: text of float8[], arrivals: seconds from the start of tracking to the first; or null
-- $23 poll_spacing_s: text of float8[], arrivals: seconds between two; null before the first
-- $24 poll_spread_s: text of float8[], arrivals: standard deviation of these seconds; null before the first
-- $25 poll_publication_delay_s: text of float8[], arrivals: seconds from created_at to the arrival
-- $26 poll_blames_job: text of bool[], whether the failure counts against the job and not against its source
-- $27 poll_gone: text of bool[], whether the provider has not found the job for a long time
-- $28 poll_items: text of int[], checkpoints that were read
-- $29 poll_new: text of int[], checkpoints that are new
-- $30 poll_changed: text of int[], checkpoints that changed, went missing or returned
-- $31 poll_burst: text of bool[], whether more than three checkpoints came at once
-- $32 checkpoint_job: text of bigint[], key; the checkpoints are the new ones, and those of which a value changed
-- $33 checkpoint_is_new: text of bool[], whether it is new; this also makes the change of kind new
-- $34 checkpoint_id: text[], the provider's id
-- $35 checkpoint_step_number: text of bigint[], training step
-- $36 checkpoint_created_at: text of bigint[], Unix seconds; null if not given, as are the next ones and the metrics
-- $37 checkpoint_fine_tuned_model_checkpoint: text[], name of the model
-- $38 checkpoint_step: text of float8[], metric
-- $39 checkpoint_train_loss: text of float8[], metric
-- $40 checkpoint_train_mean_token_accuracy: text of float8[], metric
-- $41 checkpoint_valid_loss: text of float8[], metric
-- $42 checkpoint_valid_mean_token_accuracy: text of float8[], metric
-- $43 checkpoint_full_valid_loss: text of float8[], metric
-- $44 checkpoint_full_valid_mean_token_accuracy: text of float8[], metric
-- $45 checkpoint_extra_metrics: text[], JSON object of other metrics by name; or null
-- $46 checkpoint_payload: text[], JSON as received
-- $47 checkpoint_details: text[], JSON object of values that only other formats than OpenAI's have; or null
-- $48 mark_job: text of bigint[], key; the marks are for checkpoints that went missing or returned
-- $49 mark_id: text[], the provider's id of the checkpoint
-- $50 mark_missing: text of bool[], whether it is missing or, if false, listed again
-- $51 reject_owner: text of bigint[], key of the job
-- $52 reject_digest: bytea[], key of the reject
-- $53 reject_reason: text[], why the item cannot be read, or which of its values are odd
-- $54 reject_raw: bytea[], the item's bytes; null if they contain a secret
-- $55 reject_is_stored: text of bool[], whether the item is stored without its odd values
-- $56 change_job: text of bigint[], key
-- $57 change_kind: text[], changed, regressed, missing (stored as expired after its expiry) or returned
-- $58 change_checkpoint_id: text[], the provider's id
-- $59 change_field: text[], column of the view checkpoints, or extra_metrics.NAME; null for the whole checkpoint
-- $60 change_old_value: text[], before the change; or null
-- $61 change_new_value: text[], after the change; or null
--
-- Saves all of them or none: nothing is written unless all polls still hold their leases and no row of their jobs is
-- locked. The others can then be saved without them.
call checkpointd.save_polls(
  saved => null,
  keep => $1::bool,
  most_rejects => $2::bigint,
  poll_job => $3::text::bigint[],
  poll_lease_token => $4::text::bigint[],
  poll_delay => $5::text::float8[],
  poll_gap => $6::text::float8[],
  poll_complete => $7::text::bool[],
  poll_reopens => $8::text::bool[],
  poll_digest => $9::bytea[],
  poll_content_digest => $10::bytea[],
  poll_absent_ids => $11::text[],
  poll_unconfirmed_steps => $12::text[],
  poll_instability => $13::text::int[],
  poll_unstable => $14::text::bool[],
  poll_rejected => $15::text::int[],
  poll_error_class => $16::text[],
  poll_error => $17::text[],
  poll_newest_step => $18::text::bigint[],
  poll_newest_seen_at => $19::text::float8[],
  poll_arrivals => $20::text::int[],
  poll_arrival_error_s => $21::text::float8[],
  poll_first_arrival_s => $22::text::float8[],
  poll_spacing_s => $23::text::float8[],
  poll_spread_s => $24::text::float8[],
  poll_publication_delay_s => $25::text::float8[],
  poll_blames_job => $26::text::bool[],
  poll_gone => $27::text::bool[],
  poll_items => $28::text::int[],
  poll_new => $29::text::int[],
  poll_changed => $30::text::int[],
  poll_burst => $31::text::bool[],
  checkpoint_job => $32::text::bigint[],
  checkpoint_is_new => $33::text::bool[],
  checkpoint_id => $34::text[],
  checkpoint_step_number => $35::text::bigint[],
  checkpoint_created_at => $36::text::bigint[],
  checkpoint_fine_tuned_model_checkpoint => $37::text[],
  checkpoint_step => $38::text::float8[],
  checkpoint_train_loss => $39::text::float8[],
  checkpoint_train_mean_token_accuracy => $40::text::float8[],
  checkpoint_valid_loss => $41::text::float8[],
  checkpoint_valid_mean_token_accuracy => $42::text::float8[],
  checkpoint_full_valid_loss => $43::text::float8[],
  checkpoint_full_valid_mean_token_accuracy => $44::text::float8[],
  checkpoint_extra_metrics => $45::text[],
  checkpoint_payload => $46::text[],
  checkpoint_details => $47::text[],
  mark_job => $48::text::bigint[],
  mark_id => $49::text[],
  mark_missing => $50::text::bool[],
  reject_owner => $51::text::bigint[],
  reject_digest => $52::bytea[],
  reject_reason => $53::text[],
  reject_raw => $54::bytea[],
  reject_is_stored => $55::text::bool[],
  change_job => $56::text::bigint[],
  change_kind => $57::text[],
  change_checkpoint_id => $58::text[],
  change_field => $59::text[],
  change_old_value => $60::text[],
  change_new_value => $61::text[]
)
