"""The page of findings on hardening says what its file of scores does."""

import re
from types import ModuleType

import pytest

from tests.scripts import ROOT, program

pytestmark = pytest.mark.unit

SCORES, PAGE = (ROOT / "docs/findings" / name for name in ("hardening-parts.csv", "hardening.md"))


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return program("scripts/hardening_tables.py")


def test_table_and_claims_hold(tables: ModuleType) -> None:
    assert tables.faults(tables.Scores.read(SCORES), PAGE.read_text()) == []
    of_test = tables.table(tables.Scores.read(SCORES.with_name("hardening-parts-test.csv")))
    assert of_test in PAGE.read_text()


def test_a_changed_number_and_a_missing_sentence_are_found(tables: ModuleType) -> None:
    scores, page = tables.Scores.read(SCORES), PAGE.read_text()
    line = tables.table(scores).splitlines()[3]
    wrong = page.replace(line, re.sub(r"0\.(\d)", r"1.\1", line, count=1))
    assert tables.faults(scores, wrong) == [f"not in the page: {line}"]
    sentence = tables.CLAIMS[0].sentence
    assert tables.faults(scores, page.replace(sentence, "")) == [f"not in the page: {sentence}"]


@pytest.mark.parametrize(
    ("number", "encoder", "task", "eps", "value"),
    [
        (0, "with a projector", "classification", 0, 0.9),
        (1, "with AWP", "depth", 8, 1.45),
        (2, "first 2 of 4 blocks", "depth", 8, 1.4),
        (3, "with LORE's bound, 0.05", "segmentation", 8, 0.17),
        (4, "with the covariance gap", "depth", 4, 1.2),
        (5, "`anyhead`, 1152 updates", "classification", 8, 0.1),
        (6, "pseudo-labels and distance", "classification", 4, 0.05),
    ],
)
def test_each_claim_fails_where_its_score_is_another_one(
    tables: ModuleType, number: int, encoder: str, task: str, eps: int, value: float
) -> None:
    assert len(tables.CLAIMS) == 7
    scores = tables.Scores.read(SCORES)
    scores.found[encoder, task, eps] = tables.Score(value, value - 0.01, value + 0.01)
    assert [claim.holds(scores) for claim in tables.CLAIMS] == [other != number for other in range(7)]
