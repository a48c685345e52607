"""Agreement between the processes of a run: what fails or stops one of them stops all.

Every process calls `agree` before each thing that all of them do together (a step, a checkpoint).
There a process that has an error says so, and all raise it, instead of waiting for that process in
a collective operation. The functions work over JAX's coordination service, not over the devices, so
that they do not wait for steps that are being computed. In a run of one process they do nothing but
raise its own error.
"""

import contextlib
import itertools
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
from jax._src import distributed  # the coordination service has no public name

from rf_jax.errors import InputError, one_line

HEARTBEAT_SECONDS = 100
"""How long after the death of a process the others end.

On a machine with ten times too many processes, 60 seconds ended some that were alive.
"""

WAIT_SECONDS = 3600
"""How long processes wait for one that is alive but does not arrive."""

T = TypeVar("T")


class HopelessRun(InputError):
    """Ends a run whose state cannot be saved, or is not worth it."""


class _Answer(NamedTuple):
    """What a process says in a round.

    Attributes:
      error: a message; "" if all is well.
      hopeless: whether the state cannot be saved after that error.
      flag: see `agree`.
      value: see `gather`.
    """

    error: str = ""
    hopeless: bool = False
    flag: bool = False
    value: str = ""


_rounds = itertools.count()
"""Numbers the rounds of this process, which are the same on all processes."""


def process_number() -> int:
    """Which process this is; unlike `jax.process_index`, it does not look for devices."""
    return distributed.global_state.process_id


def agree(error: Exception | None = None, flag: bool = False) -> bool:
    """Waits for all processes, and returns whether any has set its flag.

    Args:
      error: what went wrong on this process. All processes then raise an error with the same kind
        of ending: an `InputError`, or a `HopelessRun` if any error is something else.
      flag: this process's flag.

    Raises:
      HopelessRun: another process ended, or does not answer.
    """
    return any(answer.flag for answer in _meet(error, _Answer(flag=flag)))


def gather(value: str) -> list[str]:
    """The values of all processes, in their order."""
    return [answer.value for answer in _meet(None, _Answer(value=value))]


def attempt(function: Callable[..., T], *arguments: Any, flag: bool = False) -> tuple[T, bool]:
    """Calls a function that may fail on this process only, then agrees.

    Returns:
      the function's result, and whether any process has set its flag.
    """
    try:
        result = function(*arguments)
    except Exception as error:
        agree(error, flag)
        raise
    return result, agree(flag=flag)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block after which all processes agree; none leaves it alone, whatever fails inside."""
    try:
        yield
    except Exception as error:
        if not getattr(error, "agreed", False):
            agree(error)
        raise
    agree()


def check_same(facts: Callable[[], Mapping[str, Any]], advice: str) -> None:
    """Checks that facts are the same on all processes.

    Args:
      facts: makes names and values, which JSON can hold; not called in a run of one process.
      advice: what to do if they are not.

    Raises:
      InputError: names the first fact that differs, and two processes with their values of it.
    """
    if distributed.global_state.client is None:
        return
    mine, _ = attempt(lambda: json.dumps([socket.gethostname(), facts()]))
    values = [json.loads(text) for text in gather(mine)]
    for name in dict.fromkeys(key for _, found in values for key in found):
        first = values[0][1].get(name)
        for process, (host, found) in enumerate(values):
            if found.get(name) != first:
                raise _marked(  # all have found it
                    InputError(
                        f"{name}: expected the same in all processes, found {first!r} in process 0 "
                        f"({values[0][0]}) and {found.get(name)!r} in process {process} ({host}); "
                        f"{advice}"
                    )
                )


def _meet(error: Exception | None, answer: _Answer) -> list[_Answer]:
    """One round: the answers of all processes; raises what has gone wrong in any."""
    state = distributed.global_state
    if state.client is None:
        if error is not None:
            raise error
        return [answer]
    if error is not None:
        answer = answer._replace(error=_described(error), hopeless=not can_save_after(error))
    folder = f"rf_jax/agreement/{next(_rounds)}"
    keys = f"{folder}/{state.process_id}"
    if answer != _Answer():
        state.client.key_value_set(keys, json.dumps(answer))
    try:
        seconds = WAIT_SECONDS if error is None else HEARTBEAT_SECONDS
        state.client.wait_at_barrier("rf_jax/agreement", 1000 * seconds)
        found = dict(state.client.key_value_dir_get(folder))
    except jax.errors.JaxRuntimeError as lost:
        if error is None:
            raise _marked(_lost(lost)) from lost
        if can_save_after(error):
            error = HopelessRun(str(error))
        raise _marked(error) from lost
    answers = [
        _Answer(*json.loads(found.get(f"{folder}/{i}", "[]"))) for i in range(state.num_processes)
    ]
    _raise_errors(error, answers, state.process_id)
    return answers


def _raise_errors(error: Exception | None, answers: list[_Answer], process: int) -> None:
    """Raises the error of this process, or the first one of the others."""
    failed = [i for i, answer in enumerate(answers) if answer.error]
    if not failed:
        return
    if error is not None and not isinstance(error, InputError):
        raise _marked(error)
    hopeless = any(answers[i].hopeless for i in failed)
    source = process if process in failed else failed[0]
    message = answers[source].error
    if source != process:
        message = f"process {source}: {message}"
    raise _marked(HopelessRun(message) if hopeless else InputError(message)) from error


def can_save_after(error: BaseException | None) -> bool:
    """Whether all processes can save their state together after what ended the run."""
    return error is None or (isinstance(error, InputError) and not isinstance(error, HopelessRun))


def _described(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"{type(error).__name__}: {one_line(error)}"


def _lost(error: Exception) -> HopelessRun:
    return HopelessRun(
        "another process of the run has ended or does not answer; its own output says why, and "
        f"the same command continues from the last checkpoint ({one_line(error, 80)})"
    )


def _marked(error: Exception) -> Exception:
    """The error, marked as known to all processes, or as one that they cannot be told."""
    error.agreed = True
    return error
