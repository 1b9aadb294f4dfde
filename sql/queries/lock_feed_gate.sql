-- Wait for the one place at the feed, so that seq follows the order of commits.
select one from checkpointd.feed_gate for no key update
