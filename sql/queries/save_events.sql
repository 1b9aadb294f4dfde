-- Save events of a job, and how far its list has been read, in one transaction, if the lease still holds.
-- $1 list_job: bigint, key
-- $2 list_lease_token: bigint, from the claim
-- $3 list_cursor: text, id of the last event that was read; null after the last page
-- $4 list_pages: int, how many pages the pass has read
-- $5 list_ids: text, ids of the newest events when the pass began, joined by newlines
-- $6 list_is_complete: bool, whether the pass reads the list to its end
-- $7 most_steps: bigint, how many steps of a job to store
-- $8 most_earlier_steps: bigint, how many other events of repeated steps of a job to store
-- $9 most_messages: bigint, how many messages of a job to store
-- $10 most_rejects: bigint, how many rejects of a job to store
-- $11 step_step_number: text of bigint[], training step
-- $12 step_id: text, the provider's ids, joined by newlines
-- $13 step_created_at: text of bigint[], Unix seconds; null if not given
-- $14 step_total_steps: text of bigint[], steps of the whole training; null if not given
-- $15 step_train_loss: text of float8[], metric
-- $16 step_train_mean_token_accuracy: text of float8[], metric
-- $17 step_valid_loss: text of float8[], metric
-- $18 step_valid_mean_token_accuracy: text of float8[], metric
-- $19 step_full_valid_loss: text of float8[], metric
-- $20 step_full_valid_mean_token_accuracy: text of float8[], metric
-- $21 step_extra_metrics: text[], JSON object of other numbers by name; or null
-- $22 step_payload: text[], JSON as received; null if the columns can reproduce it
-- $23 step_is_newest: text of bool[], false if another event of these has the same step and is newer
-- $24 step_is_newer: text of bool[], whether it is newer than a stored event of its step, if their times do not say
-- $25 message_id: text[], the provider's id
-- $26 message_created_at: text of bigint[], Unix seconds; null if not given
-- $27 message_level: text[], the provider's word; null if not given
-- $28 message_type: text[], the provider's word; null if not given
-- $29 message_message: text[], its text; null if not given
-- $30 message_payload: text[], JSON as received; null if the columns can reproduce it
-- $31 reject_owner: text of bigint[], key of the job
-- $32 reject_digest: bytea[], key of the reject
-- $33 reject_reason: text[], why the item cannot be read, or which of its values are odd
-- $34 reject_raw: bytea[], the item's bytes; null if they contain a secret
-- $35 reject_is_stored: text of bool[], whether the item is stored without its odd values
call checkpointd.save_events(
  saved => null,
  new_steps => null,
  new_messages => null,
  left_out => null,
  list_job => $1::bigint,
  list_lease_token => $2::bigint,
  list_cursor => $3::text,
  list_pages => $4::int,
  list_ids => $5::text,
  list_is_complete => $6::bool,
  most_steps => $7::bigint,
  most_earlier_steps => $8::bigint,
  most_messages => $9::bigint,
  most_rejects => $10::bigint,
  step_step_number => $11::text::bigint[],
  step_id => string_to_array($12::text, E'\n'),
  step_created_at => $13::text::bigint[],
  step_total_steps => $14::text::bigint[],
  step_train_loss => $15::text::float8[],
  step_train_mean_token_accuracy => $16::text::float8[],
  step_valid_loss => $17::text::float8[],
  step_valid_mean_token_accuracy => $18::text::float8[],
  step_full_valid_loss => $19::text::float8[],
  step_full_valid_mean_token_accuracy => $20::text::float8[],
  step_extra_metrics => $21::text[],
  step_payload => $22::text[],
  step_is_newest => $23::text::bool[],
  step_is_newer => $24::text::bool[],
  message_id => $25::text[],
  message_created_at => $26::text::bigint[],
  message_level => $27::text[],
  message_type => $28::text[],
  message_message => $29::text[],
  message_payload => $30::text[],
  reject_owner => $31::text::bigint[],
  reject_digest => $32::bytea[],
  reject_reason => $33::text[],
  reject_raw => $34::bytea[],
  reject_is_stored => $35::text::bool[]
)
