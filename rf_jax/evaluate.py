"""`python -m rf_jax.evaluate` is the command rf-jax-evaluate."""

from rf_jax.commands.entry import evaluate

if __name__ == "__main__":
    evaluate()
