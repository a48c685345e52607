"""`python -m rf_jax.datagen` is the command rf-jax-data."""

from rf_jax.commands.entry import data

if __name__ == "__main__":
    data()
