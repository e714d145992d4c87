"""Errors that are the user's to mend: one message, no traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was asked or given. The message says what came, what was expected and what to do."""


class UnwritableError(UserError):
    """Results cannot be written. What is there is whole; whatever a run does next could not be kept either."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known name that is most like this one; empty where none is."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def unknown_name(noun: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among `known`, with the nearest match when there is one."""
    names = sorted(known)
    return UserError(f"unknown {noun} '{name}'.{nearest(name, names)} Known: {', '.join(names)}.")
