-- Listings are compared by content, and an item is stored again only if one of its values changed.
alter table checkpointd.polling add column content_digest bytea;
comment on column checkpointd.polling.content_digest is
  'Hash of the values in the last complete listing, whatever their order and encoding. It counts only if digest is not '
  'null.';
comment on column checkpointd.checkpoints.payload is
  'Item as received when a value of the checkpoint last changed. It is json, because jsonb drops repeated members and '
  'rejects some text.';
