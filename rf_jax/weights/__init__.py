"""Weights on disk: checkpoints, published files, and the conversion between them."""
