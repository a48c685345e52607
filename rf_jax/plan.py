"""`python -m rf_jax.plan` is the command rf-jax-plan."""

from rf_jax.commands.entry import plan

if __name__ == "__main__":
    plan()
