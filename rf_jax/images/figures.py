"""Matplotlib figures, where it is installed, without a window or any state of its own."""

from typing import Any

from rf_jax.errors import InputError


def new_figure(missing: str, width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure`; the size is in inches.

    Raises:
      InputError: with the message `missing`, when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(missing) from None
    return Figure(figsize=(width, height), layout="constrained")
