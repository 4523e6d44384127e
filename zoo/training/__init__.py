"""Training: one readable loop, keyed randomness, exact checkpoints."""
