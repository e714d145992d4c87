"""Errors that the user can correct: one message, no traceback."""

import difflib
import re
from collections.abc import Iterable, Mapping
from traceback import walk_tb
from types import MappingProxyType

PAGES = {
    "attacks": "concepts/attacks.md",
    "core.corruption_names": "concepts/corruptions.md",
    "core.eps": "concepts/threat-model.md",
    "core.threat": "concepts/threat-model.md",
    "core.suites": "reference/suites.md",
    "core.user_code": "guides/extending.md",
    "corruptions": "concepts/corruptions.md",
    "datasets": "guides/data.md",
    "defences": "guides/hardening.md",
    "encoders": "guides/encoders.md",
    "evaluation": "concepts/measurement.md",
    "evaluation.executors": "guides/cluster.md",
    "probing": "reference/recipes.md",
    "probing.zero_shot": "guides/encoders.md",
    "report.gates": "guides/pipeline.md",
    "report.page": "get-started/page.md",
    "report.paper": "guides/paper.md",
    "report.references": "guides/published-tables.md",
    "results": "reference/results.md",
    "tasks": "guides/extending.md",
    "trackers": "guides/pipeline.md",
    "training": "guides/hardening.md",
}
"""Pages of `docs/` that explain what a part of the package asks for, by the name of its module or package."""


class UserError(ValueError):
    """A mistake in the input. The message says what was given, what was expected and what to do."""

    def __init__(self, message: str) -> None:
        # Messages quote others, which may end with a full stop of their own.
        super().__init__(re.sub(r"(?<=[^\s.])\.\.(?=\s|$)", ".", message))

    @property
    def page(self) -> str:
        """The page of the documentation about what raised it, such as `guides/data.md`; empty where there is none."""
        names = [str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(self.__traceback__)]
        found = (page for name in reversed(names) if (page := _page_of(name)))
        return next(found, "")


def _page_of(module: str) -> str:
    """The page about a module: that of the longest name in `PAGES` that it is or lies in."""
    package, _, rest = module.partition(".")
    parts = rest.split(".") if package == "robustprobe" else []
    names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((PAGES[name] for name in names if name in PAGES), "")


class UnwritableError(UserError):
    """Results cannot be written: the disk is full or read-only. Files written before are whole; the run must stop."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known name that is most similar; empty where none is similar."""
    spelled = {one.lower(): one for one in sorted(known, reverse=True)}
    near = difflib.get_close_matches(name.lower(), sorted(spelled), n=1, cutoff=0.5)
    return f" Did you mean '{spelled[near[0]]}'?" if near else ""


MOST_NAMES = 60
"""More names than these are not written out in a message."""


def _known(name: str, names: list[str]) -> str:
    if len(names) <= MOST_NAMES:
        return f"Known: {', '.join(names)}."
    similar = difflib.get_close_matches(name, names, n=8, cutoff=0.0)
    return f"{len(names):,} are known; the most similar: {', '.join(similar)}."


def letters(name: str) -> str:
    """Letters and digits of a name in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def unknown_name(
    noun: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> UserError:
    """The error for a name that is not among `known`, with what was meant or the nearest match where there is one.

    Args:
        noun: what the name is of.
        name: what came.
        known: what could have come.
        elsewhere: what other programs call a thing, in lower case letters and digits, and what to write here, with
            options behind it where there are any: `pgd --steps 1`.
    """
    names = sorted(known)
    meant = elsewhere.get(letters(name))
    hint = _hint(meant) if meant else nearest(name, names)
    return UserError(f"unknown {noun} '{name}'.{hint} {_known(name, names)}")


def _hint(meant: str) -> str:
    """` Did you mean 'pgd' with --steps 20 (in Python steps=20)?` for `pgd --steps 20`."""
    name, dashes, options = meant.partition(" --")
    words = [one.split(" ") for one in options.split(" --")] if dashes else []
    given = ", ".join(f"{option.replace('-', '_')}={value}" for option, value in words)
    return f" Did you mean '{name}' with --{options} (in Python {given})?" if given else f" Did you mean '{name}'?"
