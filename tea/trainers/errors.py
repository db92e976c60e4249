"""Mistakes of a user, told apart from bugs: the first end in one message, the second in a traceback."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """What was given cannot work. The message says what it was, what is wrong with it and what to do.

    `tea train` prints the message alone and exits with code 2.
    """


@contextmanager
def told_to_user(*errors: type[Exception], what: str = "") -> Iterator[None]:
    """Turn `errors` raised inside into :class:`UserError`, with `what` before their message.

    For calls whose errors of these types are about what they were given, such as checking options.
    """
    try:
        yield
    except UserError:
        raise
    except errors as error:
        raise UserError(f"{what}{': ' if what else ''}{error}") from error


@contextmanager
def refuse_pickled(what: str) -> Iterator[None]:
    """Turn torch's refusal to load pickled objects, which recommends to load them all the same, into a UserError."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{what} is damaged or holds pickled objects other than tensors, which could run code when loaded; they "
            "are not loaded: get it as safetensors, from a source that you trust"
        ) from error
