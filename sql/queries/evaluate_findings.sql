-- Evaluate findings, if no other daemon does. Returns the keys of those that fired or were resolved, and whether
-- to go on at once, because jobs are left.
-- $1 interval_s: float8, nothing is done within so many seconds of the last evaluation
-- $2 clear_s: float8, a finding is resolved when its condition has not been met for so many seconds
-- $3 most_changes: int, how many changes to look at
-- $4 most_jobs: int, how many other jobs of each kind to look at
call checkpointd.evaluate_findings(
  fired => null,
  resolved => null,
  is_behind => null,
  interval_s => $1::float8,
  clear_s => $2::float8,
  most_changes => $3::int,
  most_jobs => $4::int
)
