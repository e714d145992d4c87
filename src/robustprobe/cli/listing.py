"""`robustprobe list`: names and what they are, without torch."""

import fnmatch
import json
from pathlib import Path
from typing import Literal

from rich.table import Table

from robustprobe.cli._console import new_console
from robustprobe.core import registry
from robustprobe.core.corruption_names import ATTACK, FAMILIES, GROUP, NAMES, family_of, group_names
from robustprobe.core.errors import UserError
from robustprobe.core.suites import bundled_suites
from robustprobe.report.references.catalogue import references

Kind = Literal[
    "encoders", "datasets", "tasks", "attacks", "corruptions", "defences", "trackers", "suites", "references"
]
CARDS = Path(__file__).parent.parent / "assets" / "encoders"


def list_things(kind: Kind, pattern: str = "*", /, *, format: Literal["rich", "json"] = "rich") -> None:
    """List what robustprobe knows by name.

    Parameters
    ----------
    kind
        encoders, datasets, tasks, attacks, corruptions, defences, trackers, suites or references.
    pattern
        Only names that match, such as 'dino*'.
    format
        rich for the terminal, or json.
    """
    entries = [entry for entry in _entries(kind) if fnmatch.fnmatch(entry["name"], pattern)]
    if not entries:
        raise UserError(f"no {kind} match '{pattern}'; `robustprobe list {kind}` shows all.")
    if format == "json":
        print(json.dumps(entries, indent=2))
        return
    table = Table(show_edge=False, pad_edge=False)
    for column in ("name", "summary"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for entry in entries:
        table.add_row(entry["name"], entry["summary"])
    new_console().print(table)


def _entries(kind: Kind) -> list[dict[str, str]]:
    if kind == "suites":
        return [{"name": name, "summary": suite.description} for name, suite in bundled_suites().items()]
    if kind == "references":
        return [{"name": n, "summary": f"{r.title}. {r.citation}"} for n, r in references().items()]
    if kind == "corruptions":
        return _corruptions()
    if kind == "encoders":
        return [*_bundled_encoders(), *_sources()]
    known = getattr(registry, kind)
    return [{"name": name, "summary": known.summary(name)} for name in known.names()]


def _bundled_encoders() -> list[dict[str, str]]:
    cards = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(CARDS.glob("*/card.json"))
    }
    return [{"name": f"bundled:{name}", "summary": str(card.get("summary", ""))} for name, card in cards.items()]


def _corruptions() -> list[dict[str, str]]:
    """What `--attack` takes: all of the benchmark, those of one family, and each by itself."""
    members = {GROUP: group_names(""), **{f"{GROUP}:{family}": names for family, names in FAMILIES.items()}}
    groups = [{"name": name, "summary": f"{len(some)}: {', '.join(some)}"} for name, some in members.items()]
    single = [{"name": f"{ATTACK}:{name}", "summary": f"{family_of(name)}, severity 1 to 5"} for name in NAMES]
    return [*groups, *single]


def _sources() -> list[dict[str, str]]:
    known = registry.sources
    return [{"name": f"{name}:", "summary": known.summary(name)} for name in known.names()]
