"""Errors that the user can correct: one message, no traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input. The message says what was given, what was expected and what to do."""


class UnwritableError(UserError):
    """Results cannot be written: the disk is full or read-only. Files written before are whole; the run must stop."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known name that is most similar; empty where none is similar."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def unknown_name(noun: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among `known`, with the nearest match when there is one."""
    names = sorted(known)
    return UserError(f"unknown {noun} '{name}'.{nearest(name, names)} Known: {', '.join(names)}.")
