"""Matplotlib figures without a window and without pyplot's global state."""

from typing import Any

from rf_jax.errors import needs_extra


def new_figure(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure` of this size in inches.

    Raises:
      InputError: matplotlib, an optional dependency, is not installed.
    """
    with needs_extra("plot", "drawing a figure"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")
