-- Wait for the one place at the feed, so that seq follows the order of commits; the time of this commit's changes.
with gate as materialized (select one from checkpointd.feed_gate for no key update)
select clock_timestamp() as at from gate
