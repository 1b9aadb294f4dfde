alter table checkpointd.checkpoints add column details jsonb;
comment on column checkpointd.checkpoints.details is
  'Values of an item in another format than OpenAI''s, as the daemon has read them: checkpoint_type, deploy_as, '
  'size_bytes, and expires_at in Unix seconds. Null if there are none.';
