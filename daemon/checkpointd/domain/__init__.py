"""What a poll is about: checkpoints, listings, failures, jobs, and when to poll. No I/O."""
