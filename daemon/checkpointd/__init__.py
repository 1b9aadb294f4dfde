"""A daemon that keeps a PostgreSQL copy of the checkpoints of fine-tuning jobs."""

__version__ = "0.1.0"
