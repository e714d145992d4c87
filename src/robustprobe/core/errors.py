"""Errors that the user can correct: one message, no traceback."""

import difflib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType


class UserError(ValueError):
    """A mistake in the input. The message says what was given, what was expected and what to do."""

    def __init__(self, message: str) -> None:
        # Messages quote others, which may end with a full stop of their own.
        super().__init__(re.sub(r"(?<=[^\s.])\.\.(?=\s|$)", ".", message))


class UnwritableError(UserError):
    """Results cannot be written: the disk is full or read-only. Files written before are whole; the run must stop."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known name that is most similar; empty where none is similar."""
    spelled = {one.lower(): one for one in sorted(known, reverse=True)}
    near = difflib.get_close_matches(name.lower(), sorted(spelled), n=1, cutoff=0.5)
    return f" Did you mean '{spelled[near[0]]}'?" if near else ""


def unknown_name(
    noun: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> UserError:
    """The error for a name that is not among `known`, with what was meant or the nearest match where there is one.

    Args:
        noun: what the name is of.
        name: what came.
        known: what could have come.
        elsewhere: what other programs call a thing, in lower case letters and digits, and what to write here.
    """
    names = sorted(known)
    meant = elsewhere.get(re.sub(r"[^a-z0-9]", "", name.lower()))
    hint = f" Did you mean '{meant}'?" if meant else nearest(name, names)
    return UserError(f"unknown {noun} '{name}'.{hint} Known: {', '.join(names)}.")
