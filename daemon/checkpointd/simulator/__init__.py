"""A private provider: the fine-tuning API over made-up jobs, deterministic by seed, as fast as its clock."""
