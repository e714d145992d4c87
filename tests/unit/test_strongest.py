"""The headline column: the strongest attack that was run for the task, named."""

from typing import Any

import pytest

from robustprobe.report.page.render import render_page
from robustprobe.report.tables.results import render
from robustprobe.results.records import Record
from tests.unit.test_report_tables import attack, make_record

pytestmark = pytest.mark.unit


def made(name: str, value: float, encoder: str = "one", **changes: Any) -> Record:
    record = make_record(attack(name), value)
    target = "" if name in ("clean", "embed") else record.task
    update = {
        "encoder": encoder,
        "encoder_digest": encoder * 4,
        "target_task": target,
        "fingerprint": f"{encoder}{name}",
    }
    return record.model_copy(update=update | changes)


def test_the_worst_score_of_the_tasks_own_attacks_is_shown_with_its_name() -> None:
    records = [made("pgd", 0.4), made("apgd", 0.3), made("embed", 0.1)]
    records += [made("pgd", 0.21, "two"), made("apgd", 0.25, "two")]
    for format in ("md", "latex", "rich"):
        text = render(records, format)
        assert "strongest" in text
        rows = [line for line in text.splitlines() if "(apgd)" in line or "(pgd)" in line]
        # Not the label-free attack, though its score is lower.
        assert [("one" in row, "(apgd)" in row) for row in rows] == [(True, True), (False, False)]
        assert rows[0].count("0.300") == 2
        assert rows[1].count("0.210") == 2
    clean = [made("clean", 0.6), made("clean", 0.6, "two")]
    assert render_page([*clean, *records]).count(">strongest<") == 2


def test_of_errors_the_largest_counts() -> None:
    records = [
        made("depthpgd", 1.2, task="depth", higher_is_better=False),
        made("apgd", 1.5, task="depth", higher_is_better=False),
    ]
    records = [r.model_copy(update={"target_task": "depth"}) for r in records]
    assert "(apgd)" in render(records, "md")
    assert "(depthpgd)" not in render(records, "md")


def test_a_single_attack_is_its_own_headline() -> None:
    assert "strongest" not in render([made("pgd", 0.4), made("embed", 0.1)], "md")
    assert ">strongest<" not in render_page([made("pgd", 0.4), made("embed", 0.1)])
