"""A simulated provider: the fine-tuning API of made-up jobs. The seed determines them; the clock may run fast."""
