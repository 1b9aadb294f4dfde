"""A private provider: OpenAI's fine-tuning API over made-up jobs, deterministic by seed, as fast as its clock."""

from .server import accelerated, serve
from .world import World

__all__ = ["World", "accelerated", "serve"]
