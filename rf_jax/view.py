"""`python -m rf_jax.view` is the command rf-jax-view."""

from rf_jax.commands.entry import view

if __name__ == "__main__":
    view()
