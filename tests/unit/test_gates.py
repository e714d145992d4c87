"""Gates: rules for numbers, regressions against a baseline, and the file that build servers show."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustprobe.core.errors import UserError
from robustprobe.report.gates.outcome import GateOutcome, junit
from robustprobe.report.gates.regression import judge_regressions
from robustprobe.report.gates.rules import judge_rules, measured_by, parse_rule
from tests.unit.test_compare import SMALL, cifar, classified, dense_cell, fill

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("segmentation:ensemble:4/255>=0.20", ("segmentation", "", "ensemble", 4 / 255, ">=", 0.2)),
        ("depth:clean <= 1.5", ("depth", "", "clean", None, "<=", 1.5)),
        ("classification@cifar10:apgd:dlr:0.5>0", ("classification", "cifar10", "apgd:dlr", 0.5, ">", 0)),
        (
            "depth@depthfolder:/data/x:pgd<1e-1",
            ("depth", "depthfolder:/data/x", "pgd", None, "<", 0.1),
        ),
    ],
)
def test_rules_are_read(text: str, parts: tuple[object, ...]) -> None:
    assert parse_rule(text)[1:] == pytest.approx(parts)


@pytest.mark.parametrize("text", ["", "pgd>=0.2", "a:b", "a:b>=c", "a:b>=nan", "a:pgd:8/0>=1", "a:pgd==1", "a:pgd:>=1"])
def test_other_texts_are_refused_in_one_message(text: str) -> None:
    with pytest.raises(UserError, match="write"):
        parse_rule(text)


@pytest.mark.parametrize(
    ("rule", "state", "words"),
    [
        ("classification:pgd:8/255>=0.2", "passed", "keeps >= 0.2"),
        ("classification:pgd>=0.36", "failed", "breaks >= 0.36; the limit is inside the 95 % interval"),
        ("classification:pgd>=0.9", "failed", "breaks >= 0.9"),
        ("classification@cifar10:pgd<0.34", "passed", "keeps < 0.34; the limit is inside the 95 % interval"),
    ],
)
def test_a_number_keeps_a_rule_or_not_and_the_message_says_how_sure_that_is(rule: str, state: str, words: str) -> None:
    (found,) = judge_rules([parse_rule(rule)], [cifar("pgd", 0.33), cifar("clean", 0.9)])
    assert (found.state, found.encoder) == (state, SMALL)
    assert words in found.message
    assert ("inside" in found.message) == ("inside" in words)


@pytest.mark.parametrize(
    ("value", "chance", "said"),
    [(0.1, 0.1, True), (0.12, 0.1, True), (0.9, 0.1, False), (0.1, None, False)],
)
def test_a_number_that_a_constant_answer_reaches_is_said_to_be(value: float, chance: float | None, said: bool) -> None:
    record = cifar("pgd", value, chance=chance, chance_answer="the commonest class")
    (found,) = judge_rules([parse_rule("classification:pgd>=0.05")], [record])
    assert found.state == "passed"
    assert ("not better than the commonest class, 0.100" in found.message) == said


def test_an_error_that_a_constant_answer_reaches_is_said_to_be() -> None:
    cell = dense_cell("depth", "embed", {"rmse": np.full(20, 1.5)}, 1.5, chance=1.2)[0]
    (found,) = judge_rules([parse_rule("depth:embed<=2")], [cell])
    assert "not better than a constant answer, 1.200" in found.message


def test_a_rule_holds_for_every_encoder_and_eps_and_one_about_nothing_is_a_mistake() -> None:
    records = [
        cifar("pgd", 0.3, settings={"eps": eps}, encoder=encoder) for eps in (0.1, 0.2) for encoder in ("a:a", "b:b")
    ]
    assert len(judge_rules([parse_rule("classification:pgd>=0.2")], records)) == 4
    assert len(judge_rules([parse_rule("classification:pgd:0.1>=0.2")], records)) == 2
    with pytest.raises(UserError, match=r"is about no number of this run; it has classification@cifar10:pgd:0\.1"):
        judge_rules([parse_rule("classification:pgd:0.3>=0.2")], records)


def test_a_transferred_attack_is_not_what_a_rule_is_about() -> None:
    foreign = cifar("pgd", 0.9, target_task="depth")
    with pytest.raises(UserError, match="about no number"):
        judge_rules([parse_rule("classification:pgd>=0.2")], [foreign])


def test_a_value_that_is_no_number_breaks_every_rule() -> None:
    record = cifar("pgd", float("nan"))
    for sign in (">=", "<=", ">", "<"):
        assert judge_rules([parse_rule(f"classification:pgd{sign}0.2")], [record])[0].state == "failed"


CORRECT = np.array([1] * 60 + [0] * 20)
WORSE = np.array([1] * 30 + [0] * 50)


@pytest.mark.parametrize(
    ("before", "after", "state", "words"),
    [
        (CORRECT, WORSE, "failed", "worse; the paired 95 % interval excludes 0"),
        (WORSE, CORRECT, "passed", "better; the paired 95 % interval excludes 0"),
        (CORRECT, CORRECT, "passed", "equal on every image"),
        (CORRECT, CORRECT.copy() * np.array([0] + [1] * 79), "passed", "no difference shown"),
        (CORRECT, CORRECT[:70], "failed", "cannot be told. No paired interval: different images"),
    ],
)
def test_a_regression_is_told_by_the_paired_interval(
    tmp_path: Path, before: np.ndarray, after: np.ndarray, state: str, words: str
) -> None:
    first, second = fill(tmp_path / "a", classified(before)), fill(tmp_path / "b", classified(after))
    (found,) = judge_regressions(first, second, second.records())
    assert found.state == state
    assert words in found.message


def test_lower_is_better_turns_the_sign(tmp_path: Path) -> None:
    error = np.random.default_rng(1).gamma(4, 0.1, 50)
    stores = [
        fill(tmp_path / name, dense_cell("depth", "embed", {"rmse": error + more}, float(error.mean() + more)))
        for name, more in (("low", 0.0), ("high", 0.3))
    ]
    assert judge_regressions(stores[0], stores[1], stores[1].records())[0].state == "failed"
    assert judge_regressions(stores[1], stores[0], stores[0].records())[0].state == "passed"


@pytest.mark.parametrize(
    ("images", "more", "state", "words"),
    [
        (1, 0.3, "failed", "cannot be told. No paired interval: of one image nothing is known about others"),
        (1, 0.0, "passed", "equal on every image"),
        (3, 0.3, "failed", "Of 3 images the interval is far too narrow"),
        (3, -0.3, "passed", "Of 3 images the interval is far too narrow"),
        (10, 0.3, "failed", "the paired 95 % interval excludes 0"),
    ],
)
def test_few_images_are_said_to_tell_little(tmp_path: Path, images: int, more: float, state: str, words: str) -> None:
    error = np.random.default_rng(1).gamma(4, 0.1, images) + 0.5
    stores = [
        fill(tmp_path / name, dense_cell("depth", "embed", {"rmse": e}, float(e.mean())))
        for name, e in (("a", error), ("b", error + more))
    ]
    (found,) = judge_regressions(stores[0], stores[1], stores[1].records())
    assert found.state == state
    assert words in found.message
    assert ("far too narrow" in found.message) == (1 < images < 10)


def test_controls_are_left_out_new_numbers_are_skipped_and_one_encoder_a_side_is_matched(tmp_path: Path) -> None:
    first = fill(tmp_path / "a", classified(CORRECT), classified(CORRECT, name="noise", access="nothing"))
    second = fill(
        tmp_path / "b",
        classified(CORRECT, encoder="file:new"),
        classified(WORSE, name="noise", access="nothing", encoder="file:new"),
        classified(WORSE, name="embed", encoder="file:new"),
    )
    found = judge_regressions(first, second, second.records())
    assert sorted(one.state for one in found) == ["passed", "skipped"]


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    first, second = fill(tmp_path / "a", classified(CORRECT)), fill(tmp_path / "b", classified(CORRECT, name="embed"))
    with pytest.raises(UserError, match="no cell is in both: the first has cifar10 classification pgd 8/255"):
        judge_regressions(first, second, second.records())


def test_the_junit_file_is_what_build_servers_read() -> None:
    outcomes = [
        GateOutcome("a:<b>", "r>=1", "passed", "all & well"),
        GateOutcome("a", "r\x00", "failed", "too\x1b low"),
        GateOutcome("a", "s", "skipped", "none"),
    ]
    root = ET.fromstring(junit(outcomes))
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("3", "1", "1")
    cases = root.findall("testsuite/testcase")
    assert [(case.get("classname"), [child.tag for child in case]) for case in cases] == [
        ("a:<b>", ["system-out"]),
        ("a", ["failure"]),
        ("a", ["skipped"]),
    ]
    assert ET.fromstring(junit([])).get("tests") == "0"


@pytest.mark.parametrize(
    "dataset", ["segfolder:my/data", "segfolder:pets", "hfstream:owner/pets@v1", "imagefolder:my data"]
)
@pytest.mark.parametrize("label", ["pgd", "apgd:dlr"])
def test_a_rule_finds_its_dataset_whatever_colons_the_name_has(dataset: str, label: str) -> None:
    name, _, objective = label.partition(":")
    own = cifar(name, 0.3, dataset=dataset, settings={"objective": objective})
    other = cifar(name, 0.3, dataset="segfolder:other", settings={"objective": objective})
    rule = parse_rule(f"classification@{dataset}:{label}:8/255>=0.2")
    assert [one.state for one in judge_rules([rule], [own, other])] == ["passed"]
    with pytest.raises(UserError, match="is about no number"):
        judge_rules([rule], [other])


def test_a_rule_may_name_a_folder_by_its_whole_path() -> None:
    own = cifar("pgd", 0.3, dataset="segfolder:b/c/d")
    assert judge_rules([parse_rule("classification@segfolder:/a/b/c/d:pgd>=0.2")], [own])[0].state == "passed"


@pytest.mark.parametrize(
    "settings", [{}, {"norm": "l2", "eps": 0.5}, {"norm": "area", "eps": 0.05}, {"norm": "severity", "eps": 3}]
)
def test_what_a_message_calls_a_number_is_a_rule_about_it(settings: dict[str, Any]) -> None:
    record = cifar("pgd", 0.3, settings=settings)
    for name in (measured_by(record).name, measured_by(record).name.replace("@cifar10", "")):
        assert parse_rule(f"{name}>=0.2").concerns(measured_by(record))


def test_no_two_outcomes_of_one_encoder_have_one_name() -> None:
    records = [cifar("pgd", 0.3, settings={"eps": eps}) for eps in (2 / 255, 4 / 255)]
    outcomes = judge_rules([parse_rule("classification:pgd>=0.2")], records)
    assert len({one.name for one in outcomes}) == 2
