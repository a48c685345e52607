"""`python -m rf_jax.scene` checks scenes."""

from rf_jax.commands.entry import scene

if __name__ == "__main__":
    scene()
