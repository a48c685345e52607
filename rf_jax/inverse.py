"""`python -m rf_jax.inverse` is the command rf-jax-inverse."""

from rf_jax.commands.entry import inverse

if __name__ == "__main__":
    inverse()
