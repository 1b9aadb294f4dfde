-- Listings are compared by content, an item is stored again only if one of its values changed, and of a job whose list
-- never stabilises only the news are stored.
alter table checkpointd.polling
  add column content_digest bytea,
  add column instability int not null default 0,
  add column unstable_since timestamptz,
  add column unconfirmed_steps bigint[];
comment on column checkpointd.polling.content_digest is
  'Hash of the values in the last complete listing, whatever their order and encoding. It counts only if digest is '
  'not null.';
comment on column checkpointd.polling.instability is
  'Score of instability. It rises with each listing that contradicts those before, and falls with each other one.';
comment on column checkpointd.polling.unstable_since is
  'Time since when the score is so high that only the news of the job are stored; null if it is not.';
comment on column checkpointd.polling.unconfirmed_steps is
  'Unknown steps in the last listing of an unstable job. If the next one has them too, they are stored.';
comment on column checkpointd.checkpoints.payload is
  'Item as received when a value of the checkpoint last changed. It is json, because jsonb drops repeated members and '
  'rejects some text.';
