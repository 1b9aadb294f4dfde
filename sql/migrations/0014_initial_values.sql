-- The initial values of a checkpoint are calculated from the first change of each of its values. Most checkpoints have
-- no such changes, and no entry in this index.
create index changes_values on checkpointd.changes (job, checkpoint_id, field, seq)
where kind in ('changed', 'regressed');
comment on index checkpointd.changes_values is
  'The changes of values of one checkpoint, for the initial_values of its row in the view changes.';

-- Development versions applied 0002, 0008 and 0009 in another form or in another order. This makes up for it. The old
-- column is dropped after the views, which use it.
do $$
begin
  if (
    select atttypid = 'numeric'::regtype
    from pg_attribute
    where attrelid = 'checkpointd.summaries'::regclass
      and attname = 'step_distance'
  ) then
    alter table checkpointd.summaries rename column step_distance to "outdated step_distance";
    alter table checkpointd.summaries add column step_distance double precision;
    update checkpointd.summaries set step_distance = "outdated step_distance";
  end if;
end $$;
comment on column checkpointd.summaries.step_distance is
  'Median distance between neighbouring steps, or the smaller of the two middle ones; null if there are no two steps.';
comment on column checkpointd.rejects.digest is
  'SHA-256 of the item''s id and the reason or, if it has no id that can be read, of its bytes; empty for the row '
  'that counts the rejects which are too many to be stored.';
comment on column checkpointd.checkpoints.payload is
  'Item as received when a value of the checkpoint last changed. It is json, because jsonb drops repeated members and '
  'rejects some text.';
