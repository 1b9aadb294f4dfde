-- Whether a complete listing began after its job had ended: without that, nothing proves that it has all checkpoints.
alter table checkpointd.polling add column complete_from timestamptz;
comment on column checkpointd.polling.complete_from is
  'Time when the last poll that read every page began. If it is not before settling_since, the checkpoints were '
  'listed completely after the job had ended.';
