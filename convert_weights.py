"""Converts RenderFormer weights: the command rf-jax-convert, without installing it."""

from rf_jax.commands.entry import convert

if __name__ == "__main__":
    convert()
