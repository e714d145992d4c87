"""Parts of suites: `--only`, and what is left of a suite's sizes where an option leaves out or replaces attacks."""

from pathlib import Path

import pytest
import torch

from robustprobe import UserError
from robustprobe.cli._options import AttackOptions, fewer_attacks
from robustprobe.core.spec import Suite, validated
from robustprobe.core.suites import narrowed
from robustprobe.evaluation.plan import make_plan
from robustprobe.results.store import Store

pytestmark = pytest.mark.unit

SUITE = Suite.model_validate(
    {
        "name": "mixed",
        "encoders": ["bundled:scenes", "mine=bundled:photos"],
        "datasets": ["scenes", "cifar10"],
        "attacks": ["clean", "apgd:ce", "apgd:dlr", "corruption:fog", "corruption:snow", "patch"],
        "severity": [2, 4],
        "area": ["3%"],
    }
)


def names(suite: Suite) -> list[str]:
    return [":".join(filter(None, (one.name, one.objective))) for one in suite.attacks or ()]


@pytest.mark.parametrize(
    ("pattern", "attacks", "severity", "area"),
    [
        ("clean", ["clean"], None, None),
        ("apgd", ["apgd:ce", "apgd:dlr"], None, None),
        ("apgd:dlr", ["apgd:dlr"], None, None),
        ("corruption:fog", ["corruption:fog"], (2, 4), None),
        ("corruption*", ["corruption:fog", "corruption:snow"], (2, 4), None),
        ("patch", ["patch"], None, (0.03,)),
        ("mine", names(SUITE), (2, 4), (0.03,)),
    ],
)
def test_only_keeps_the_sizes_of_what_it_keeps(
    pattern: str, attacks: list[str], severity: tuple[int, ...] | None, area: tuple[float, ...] | None
) -> None:
    kept = fewer_attacks(narrowed(SUITE, [pattern]), AttackOptions(), only=True)
    assert names(kept) == attacks
    assert (kept.severity, kept.area) == (severity, area)


def test_attacks_of_the_command_line_do_too() -> None:
    replaced = SUITE.model_copy(update={"attacks": SUITE.attacks[1:2] if SUITE.attacks else None})
    kept = fewer_attacks(replaced, AttackOptions(attack=["apgd"]))
    assert (kept.severity, kept.area) == (None, None)


def test_sizes_that_were_asked_for_stay_and_so_do_those_of_the_file_alone() -> None:
    few = narrowed(SUITE, ["clean"])
    asked = fewer_attacks(few, AttackOptions(severity=[2, 4]), only=True)
    assert (asked.severity, asked.area) == ((2, 4), None), "the plan says that nothing of the run has a severity"
    alone = fewer_attacks(few, AttackOptions())
    assert (alone.severity, alone.area) == ((2, 4), (0.03,))


def test_a_pattern_for_nothing_is_refused_with_full_names() -> None:
    with pytest.raises(UserError, match=r"--only apgd:md matches nothing of suite mixed; .*apgd:ce, apgd:dlr"):
        narrowed(SUITE, ["apgd:md"])


def test_what_is_named_twice_is_planned_once(tmp_path: Path) -> None:
    data = {
        "encoders": ["bundled:scenes", "bundled:scenes"],
        "datasets": [{"name": "scenes", "limit": 4}, {"name": "scenes", "limit": 4}, {"name": "scenes", "limit": 3}],
        "attacks": ["clean", "clean"],
        "tasks": ["classification"],
        "head": {"train_limit": 8},
    }
    plan = make_plan(validated(Suite, data, "test"), Store(tmp_path), Path("nowhere"), torch.device("cpu"))
    assert plan.suite.encoders == ("bundled:scenes",)
    assert [(pair.key.encoder, len(pair.data)) for pair in plan.pairs] == [(0, 4), (0, 3)]
    assert len({cell.fingerprint for cell in plan.cells}) == len(plan.cells) == 2
