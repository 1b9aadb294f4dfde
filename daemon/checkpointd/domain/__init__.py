"""Checkpoints, listings, jobs and failures, and when to poll. Pure: no I/O."""
