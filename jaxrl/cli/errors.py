"""Refusals: what the command says, in one line, to input it cannot use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class BadInput(Exception):
    """The user asked for something impossible; the message is for them, the exit code is 2."""


@contextlib.contextmanager
def refusing(*kinds: type[Exception], about: str = "") -> Iterator[None]:
    """Turn exceptions of these kinds into `BadInput` with the same words.

    Args:
        kinds: exception classes by which the library refuses values.
        about: stands before the message, such as the option it came from.
    """
    try:
        yield
    except kinds as error:
        raise BadInput(about + message_of(error)) from error


def check_seed(seed: int, num_bits: int = 64) -> None:
    """Raise `BadInput` unless a root seed is a number of so many bits."""
    if not 0 <= seed < 2**num_bits:
        raise BadInput(f"--seed {seed} is out of range: give a value in [0, {2**num_bits - 1}].")


def message_of(error: BaseException) -> str:
    """What an exception says, without the quotes that `KeyError` puts round it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or ''}: {error.strerror}".removeprefix(": ")
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text or type(error).__name__
