"""Suites by name or file, and parts of them."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from robustprobe.core.attack_spec import STANDARD_ATTACKS
from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.shared_names import split_name
from robustprobe.core.spec import Suite, load_suite

FOLDER = Path(__file__).parent.parent / "assets" / "suites"


def bundled_suites() -> dict[str, Suite]:
    """Every bundled suite by its name."""
    return {path.stem: load_suite(path) for path in sorted(FOLDER.glob("*.yaml"))}


def find_suite(name: str) -> Suite:
    """The suite of a YAML file, or the bundled suite of that name.

    Raises:
        UserError: neither exists, or the file is not a suite.
    """
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return load_suite(Path(name))
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise unknown_name("suite", name, [p.stem for p in FOLDER.glob("*.yaml")])
    return load_suite(path)


def narrowed(suite: Suite, patterns: Sequence[str]) -> Suite:
    """The suite with only those encoders, datasets and attacks that match a pattern.

    Where no pattern matches any encoder, all encoders stay; likewise for datasets and attacks.

    Raises:
        UserError: a pattern matches nothing.
    """
    attacks = suite.attacks or STANDARD_ATTACKS
    names = {
        "encoders": [name or spec for name, spec in map(split_name, suite.encoders)],
        "datasets": [dataset.name for dataset in suite.datasets],
        "attacks": [attack.name for attack in attacks],
    }
    for pattern in patterns:
        if not any(fnmatch.filter(axis, pattern) for axis in names.values()):
            known = ", ".join(name for axis in names.values() for name in axis)
            raise UserError(f"--only {pattern} matches nothing of suite {suite.name}; it has {known}.")
    kept = {}
    for axis, things in (("encoders", suite.encoders), ("datasets", suite.datasets), ("attacks", attacks)):
        spoken = {name for pattern in patterns for name in fnmatch.filter(names[axis], pattern)}
        if spoken:
            kept[axis] = tuple(thing for thing, name in zip(things, names[axis], strict=True) if name in spoken)
    return suite.model_copy(update=kept)
