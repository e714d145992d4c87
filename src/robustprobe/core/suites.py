"""Suites by name or file, and parts of them."""

import fnmatch
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

from robustprobe.core.attack_spec import STANDARD_ATTACKS
from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.registry import attacks as known_attacks
from robustprobe.core.shared_names import split_name
from robustprobe.core.sizes import OWN_UNITS
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
    names: dict[str, list[tuple[str, ...]]] = {
        "encoders": [(name or spec,) for name, spec in map(split_name, suite.encoders)],
        "datasets": [(dataset.name,) for dataset in suite.datasets],
        # The losses of an attack are told apart by its full name only.
        "attacks": [(one.name, *([f"{one.name}:{one.objective}"] if one.objective else [])) for one in attacks],
    }
    for pattern in patterns:
        if not any(_matches(called, pattern) for axis in names.values() for called in axis):
            known = ", ".join(called[-1] for axis in names.values() for called in axis)
            raise UserError(f"--only {pattern} matches nothing of suite {suite.name}; it has {known}.")
    kept: dict[str, tuple[object, ...]] = {}
    for axis, things in (("encoders", suite.encoders), ("datasets", suite.datasets), ("attacks", attacks)):
        spoken = [any(_matches(called, pattern) for pattern in patterns) for called in names[axis]]
        if any(spoken):
            kept[axis] = tuple(thing for thing, wanted in zip(things, spoken, strict=True) if wanted)
    return suite.model_copy(update=kept)


def _matches(called: Sequence[str], pattern: str) -> bool:
    """Whether a pattern is for a thing, by one of its names."""
    return bool(fnmatch.filter(called, pattern))


def without_sizes_of_no_attack(suite: Suite, asked: Collection[str] = ()) -> Suite:
    """The suite without a severity or an area for which it has no attack left; `asked` of them stay."""
    units = {cast(Any, known_attacks.get(one.name)).own_unit for one in suite.attacks or STANDARD_ATTACKS}
    return suite.model_copy(update={unit: None for unit in OWN_UNITS if unit not in units and unit not in asked})
