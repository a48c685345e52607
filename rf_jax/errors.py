"""The one error type for bad user input."""

import contextlib
import itertools
from collections.abc import Collection, Iterator

MAX_LENGTH = 300
"""Largest number of characters in a message."""


class InputError(ValueError):
    """Bad input from a user: a file, a field of it, an option.

    The message is one line: where (file and field), what was expected, what was found, what to do.
    Whatever a file put into it, it is shortened and escaped as `one_line` does.
    """

    def __init__(self, message: str = ""):
        super().__init__(one_line(message))


def one_line(text: object, length: int = MAX_LENGTH) -> str:
    """Text that is safe to print: one line of at most `length` characters.

    Control characters and others that terminals act on are escaped. Where text is too long, its
    long words (paths, keys) lose their middle first, and then the whole does. An exception without
    a message is named by its type.
    """
    line = str(text)
    if not line and isinstance(text, BaseException):
        line = type(text).__name__
    if len(line) > 20 * length:  # so that megabytes are not escaped first
        line = line[: 10 * length] + line[-10 * length :]
    line = " ".join(line.split())
    line = printable(line)
    if len(line) > length:
        line = " ".join(_shortened(word, 80) for word in line.split(" "))
    return _shortened(line, length)


def printable(text: str) -> str:
    """Text in which all that terminals act on is escaped, except for the ends of lines."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _shortened(text: str, length: int) -> str:
    """Text without its middle, if it is longer than `length`."""
    if len(text) <= length:
        return text
    tail = length // 3
    return f"{text[: length - tail - 5].rstrip()} ... {text[-tail:].lstrip()}"


def listed(names: Collection[object], length: int = 120) -> str:
    """The first names of a list, at most ten and about `length` characters, and how many follow."""
    shown: list[str] = []
    for name in itertools.islice(names, 10):
        shown.append(one_line(name, 120))
        if sum(map(len, shown)) > length:
            break
    more = len(names) - len(shown)
    return ", ".join(shown) + f" and {more} more" * (more > 0)


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
