"""The one error type for bad user input."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input from a user: a file, a field of it, an option.

    The message is one line: where (file and field), what was expected, what was found, what to do.
    """


@contextlib.contextmanager
def prefix_errors(where: str) -> Iterator[None]:
    """Prepends `where` (a file name) to the message of any InputError raised inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


@contextlib.contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Turns a failing import inside into an InputError.

    Args:
      extra: the optional dependencies that the package belongs to, as in setup.cfg.
      purpose: what is not possible without it.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{purpose} needs more packages: pip install 'rf_jax[{extra}]' ({error})"
        ) from error
