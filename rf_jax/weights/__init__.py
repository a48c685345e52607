"""Weights on disk: checkpoints of our own, published files, and the conversion between them."""
