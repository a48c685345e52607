"""Renders scenes with a RenderFormer network: the command rf-jax-render, without installing it."""

from rf_jax.commands.entry import render

if __name__ == "__main__":
    render()
