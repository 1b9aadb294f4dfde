-- People ask what changed since yesterday. Rows stand in the order of their times, so an index of ranges of blocks will do,
-- at a thousandth of a usual one's size and cost.
create index changes_at on checkpointd.changes using brin (at);
comment on index checkpointd.changes_at is 'What changed between two times.';
