"""Trains a RenderFormer network: the command rf-jax-train, without installing it."""

from rf_jax.commands.entry import train

if __name__ == "__main__":
    train()
