"""Matplotlib figures without a window and without pyplot's global state."""

from typing import Any

from rf_jax.errors import InputError


def new_figure(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure` of this size in inches.

    Raises:
      InputError: matplotlib, an optional dependency, is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("figures need matplotlib: pip install -e '.[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")
