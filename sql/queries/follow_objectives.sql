-- Choose the best checkpoint again for jobs whose objective was changed. Returns how many they were, and whether
-- others are left.
-- $1 most: int, the most jobs
select followed, are_left
from checkpointd.follow_objectives($1::int)
