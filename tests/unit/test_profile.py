"""The robustness profile: perturbations read from records, shares of the best clean score, and what is drawn."""

from typing import Any

import pytest

from robustprobe.attacks import attack_class, recorded_access
from robustprobe.core import registry
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.suites import find_suite
from robustprobe.report.charts.profile import perturbation_of, profile_figures
from robustprobe.report.charts.vega import themed
from robustprobe.report.tables.board import board
from robustprobe.report.tables.shares import kept, share_text
from robustprobe.results.records import Interval, Record
from tests.unit.test_report_tables import PLAIN, attack, make_record

pytestmark = pytest.mark.unit
OTHER = "zz other"


def interval(value: float) -> Interval:
    return Interval(value=value, ci_low=value - 0.05, ci_high=value + 0.05)


def fog(name: str = "fog", severity: int = 3) -> AttackSpec:
    return AttackSpec(name="corruption", objective=name, severity=severity)  # type: ignore[call-arg]


def patch(area: float = 0.05) -> AttackSpec:
    return AttackSpec(name="patch", area=area)  # type: ignore[call-arg]


def patched(value: float, clean: float, area: float = 0.05, **other: Any) -> Record:
    found = make_record(patch(area), value, target_task="classification", **other)
    return found.model_copy(update={"metrics": {**found.metrics, "top-1 without patch": interval(clean)}})


def blind(name: str, value: float, **other: Any) -> Record:
    return make_record(attack(name), value, access="encoder", **other)


def corrupted(name: str, value: float, severity: int = 3, **other: Any) -> Record:
    return make_record(fog(name, severity), value, access="nothing", **other)


def everything(encoder: str = PLAIN, shift: float = 0.0) -> list[Record]:
    named: dict[str, Any] = {"encoder": encoder, "chance": 0.1}
    return [
        make_record(attack("clean"), 0.9 - shift, **named),
        make_record(attack("noise"), 0.8 - shift, access="nothing", **named),
        corrupted("fog", 0.7 - shift, **named),
        corrupted("snow", 0.5 - shift, **named),
        blind("embed", 0.5 - shift, **named),
        blind("universal", 0.6 - shift, uses_training=True, **named),
        make_record(attack("pgd"), 0.4 - shift, **named),
        make_record(attack("apgd"), 0.3 - shift, target_task="classification", **named),
        patched(0.2, 0.85 - shift, **named),
    ]


def rows(*records: Record) -> dict[tuple[str, str], str]:
    """Shares as text, by encoder and perturbation."""
    (figure,) = profile_figures(records, board(records))
    return {
        (row[1], perturbation): cell
        for row in figure.rows
        for perturbation, cell in zip(figure.headings[2:], row[2:], strict=True)
    }


def test_perturbations_are_told_by_what_an_attack_sees_and_what_its_size_is() -> None:
    (figure,) = profile_figures(everything(), board(everything()))
    assert figure.headings[2:] == [
        "clean",
        "random noise, eps 8/255",
        "corruptions, severity 3",
        "universal, eps 8/255",
        "label-free, eps 8/255",
        "attack on the task, eps 8/255",
        "patch, area 5%",
    ]
    strange = make_record(attack("never seen"), 0.2, access="task", target_task="classification")
    assert perturbation_of(strange).kind == "attack on the task"
    assert perturbation_of(make_record(attack("pgd", 0.5, norm="l2"), 0.2)).label == "attack on the task, eps 0.5 (l2)"


def test_shares_are_of_the_best_clean_score_above_chance() -> None:
    found = rows(*everything(), *everything(OTHER, 0.1))

    def share(value: float, clean: float = 0.9) -> str:
        made = kept(interval(clean), interval(value), 0.1, higher_is_better=True)
        assert made
        return share_text(made)

    assert found[PLAIN, "clean"] == share(0.9)
    assert found[OTHER, "clean"] == share(0.8)
    # The mean of two corruptions; the worse of two attacks; a patch by the pixels outside of it.
    assert found[OTHER, "corruptions, severity 3"] == share(0.5)
    assert found[OTHER, "attack on the task, eps 8/255"] == share(0.2)
    assert found[OTHER, "patch, area 5%"] == share(0.2, 0.85)


def test_only_the_largest_size_of_a_perturbation_counts() -> None:
    small = make_record(attack("pgd", 2 / 255), 0.7, chance=0.1)
    found = rows(*everything(), small, corrupted("fog", 0.85, 1, chance=0.1), patched(0.8, 0.9, 0.01, chance=0.1))
    assert {perturbation for _, perturbation in found} == {perturbation for _, perturbation in rows(*everything())}


def test_a_mean_of_corruptions_needs_all_that_another_encoder_has() -> None:
    lacking = [r for r in everything(OTHER) if r.attack.objective != "snow"]
    found = rows(*everything(), *lacking)
    assert found[PLAIN, "corruptions, severity 3"] != "—"
    assert found[OTHER, "corruptions, severity 3"] == "—"


def test_encoders_at_chance_are_left_out_and_attacks_for_other_tasks_too() -> None:
    guessing = [
        make_record(attack("clean"), 0.12, encoder=OTHER, chance=0.1),
        make_record(attack("pgd"), 0.1, encoder=OTHER, chance=0.1),
    ]
    foreign = make_record(attack("depthpgd"), 0.0, target_task="depth", chance=0.1)
    found = rows(*everything(), *guessing, foreign)
    assert {encoder for encoder, _ in found} == {PLAIN}
    assert found == rows(*everything())


def test_errors_are_kept_the_other_way_round() -> None:
    records = [
        make_record(attack("clean"), 1.0, task="depth", chance=3.0),
        make_record(attack("depthpgd"), 2.5, task="depth", chance=3.0),
    ]
    found = rows(*records)
    assert found[PLAIN, "attack on the task, eps 8/255"].startswith("25\N{NO-BREAK SPACE}%")


def test_the_suite_everything_has_every_use_of_its_data_and_every_kind_of_perturbation() -> None:
    suite = find_suite("everything")
    assert suite.tasks
    # Landmarks need photographs; poisoning is no use but a threat to one: the gallery of retrieval is attacked.
    outside = {"landmarks", "poisoning"} | {name for name in registry.tasks.names() if name not in registry.tasks.files}
    assert set(suite.tasks) == set(registry.tasks.names()) - outside
    found = set()
    for choice in suite.attacks or ():
        kind = attack_class(AttackSpec(name=choice.name))
        eps = 0.0 if choice.name == "clean" else 8 / 255
        spec = AttackSpec(name=choice.name, eps=eps)
        if kind.own_unit:
            spec = AttackSpec.model_validate(
                {"name": choice.name, kind.own_unit: 1 if kind.own_unit != "area" else 0.1}
            )
        access = recorded_access(kind)
        record = make_record(spec, 0.5, access=access, uses_training=kind.uses_training)
        found.add(perturbation_of(record).kind)
    assert len(found) == 8


def test_clean_scores_alone_have_no_profile() -> None:
    records = [make_record(attack("clean"), 0.9, chance=0.1)]
    assert profile_figures(records, board(records)) == []


def test_the_chart_has_a_panel_for_each_use_and_every_dot_inside() -> None:
    records = [
        *everything(),
        make_record(attack("clean"), 1.0, task="depth", chance=3.0),
        make_record(attack("noise"), 0.1, task="depth", chance=3.0, access="nothing"),
    ]
    (figure,) = profile_figures(records, board(records))
    spec = themed(figure.draw(legend=True))
    assert [panel["title"] for panel in spec["concat"]] == ["Classification on scenes", "Depth on scenes"]
    dots = [row for rows in spec["datasets"].values() for row in rows if "value" in row]
    assert {row["perturbation"] for row in dots} == set(figure.headings[2:])
    assert all(0 <= row["low"] <= row["high"] <= 1.25 and row["value"] <= 1.25 for row in dots)
