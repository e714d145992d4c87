"""The union of norms, from rows on disk, against sums by hand."""

import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import robustprobe as rp
from robustprobe import UserError
from robustprobe.cli.results import table
from robustprobe.metrics.dense import mean_iou
from robustprobe.metrics.intervals import paired_share, wilson
from robustprobe.report.page.render import read_page
from robustprobe.report.tables.compare_folders import compare_folders
from robustprobe.report.tables.norm_unions import (
    NOTE,
    NormUnion,
    known_unions,
    norm_unions,
    render,
    union_document,
)
from robustprobe.results.records import CheckFact, Record
from robustprobe.results.store import Store
from robustprobe.results.union import finished
from tests.unit.test_report_tables import attack, make_record

pytestmark = pytest.mark.unit
IDS = ["a", "b", "c", "d", "e"]


def cell(name: str, norm: str, eps: float, task: str = "classification", **other: Any) -> Record:
    return make_record(attack(name, eps, norm=norm), 0.5, task=task, n=len(IDS), **other)


def unions(path: Path, *cells: tuple[Record, dict[str, Any]]) -> list[NormUnion]:
    return norm_unions(finished([stored(path, *cells)], "show"))


def stored(path: Path, *cells: tuple[Record, dict[str, Any]]) -> Store:
    """A folder of cells, with the rows of each."""
    store = Store(path).prepare()
    for record, columns in cells:
        digest = store.write_rows(record.fingerprint, {"id": columns.get("id", IDS), **columns})
        store.write_record(record.model_copy(update={"rows_sha256": digest}))
    return store


def correct(*values: int) -> dict[str, Any]:
    return {"correct": np.array(values, dtype=bool)}


def test_an_image_counts_as_robust_only_if_it_holds_under_every_norm(tmp_path: Path) -> None:
    shuffled = {"id": IDS[::-1], **correct(1, 1, 1, 0, 1)}
    (found,) = unions(
        tmp_path,
        (cell("clean", "linf", 0), correct(0, 1, 1, 1, 1)),
        (cell("noise", "l1", 12), correct(0, 0, 0, 0, 0)),
        (cell("pgd", "linf", 2 / 255), correct(1, 1, 1, 1, 0)),
        (cell("pgd", "l2", 0.5), shuffled),
        (cell("apgd", "l2", 0.5, target_task="classification"), correct(1, 1, 0, 1, 1)),
        (cell("depthpgd", "linf", 2 / 255), correct(0, 0, 0, 0, 0)),
    )
    # Image e falls to linf, b to the first attack of l2 and c to the second: two of five hold.
    assert found.facts["balls"] == "linf 2/255 + l2 0.5"
    assert tuple(found.interval.model_dump().values()) == pytest.approx(tuple(wilson(2, 5)))
    assert [one.value for one in found.alone] == [0.8, 0.6]
    assert found.facts["alone"] == {"linf 2/255": 0.8, "l2 0.5": 0.6}
    assert found.facts["attacks"] == "pgd 2/255; apgd 0.5 l2; pgd 0.5 l2"


def test_of_errors_the_larger_one_counts_and_nan_is_no_score(tmp_path: Path) -> None:
    nan = np.nan
    (found,) = unions(
        tmp_path,
        (cell("depthpgd", "linf", 2 / 255, "depth"), {"rmse": np.array([1.0, 4.0, nan, nan, 2.0])}),
        (cell("depthpgd", "l1", 12, "depth"), {"rmse": np.array([3.0, 2.0, 5.0, nan, 2.0])}),
    )
    assert found.interval.value == pytest.approx((3 + 4 + 5 + 2) / 4)
    assert found.interval.ci_low <= found.interval.value <= found.interval.ci_high


def test_miou_is_that_of_the_choice_that_makes_it_low(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    cells, counts = [], []
    for norm, eps in (("linf", 2 / 255), ("l2", 0.5)):
        labelled, predicted = (np.tile([[6, 4, 2]], (5, 1)) + generator.integers(0, 4, (5, 3)) for _ in range(2))
        part = {"intersection": generator.integers(0, 3, (5, 3)), "predicted": predicted, "labelled": labelled}
        counts.append(part)
        cells.append((cell("segpgd", norm, eps, "segmentation"), {n: v.tolist() for n, v in part.items()}))
    (found,) = unions(tmp_path, *cells)
    every = [
        float(mean_iou(*(sum(counts[k][n][i] for i, k in enumerate(choice)) for n in counts[0])))
        for choice in itertools.product((0, 1), repeat=5)
    ]
    assert min(every) - 1e-9 <= found.interval.value < min(every[0], every[-1])
    assert [one.value for one in found.alone] == pytest.approx([every[0], every[-1]])


def test_each_eps_of_a_norm_is_combined_with_each_of_the_others(tmp_path: Path) -> None:
    found = unions(
        tmp_path,
        (cell("pgd", "linf", 2 / 255), correct(1, 1, 1, 1, 0)),
        (cell("pgd", "linf", 4 / 255), correct(1, 1, 0, 0, 0)),
        (cell("pgd", "l2", 0.5), correct(0, 1, 1, 1, 1)),
        (cell("pgd", "l1", 12.0, encoder="another"), correct(0, 0, 0, 0, 0)),
    )
    assert [one.balls_text for one in found] == ["linf 2/255 + l2 0.5", "linf 4/255 + l2 0.5"]
    assert [one.interval.value for one in found] == pytest.approx([0.6, 0.2])


def test_one_norm_alone_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the results have l2\. Run the same command again with another --norm"):
        unions(tmp_path, (cell("pgd", "l2", 0.5), correct(1, 1, 1, 1, 0)))


def test_where_nothing_is_left_an_attack_that_may_be_too_weak_puts_no_mark(tmp_path: Path) -> None:
    for name, doubted in (("gradient", ""), ("eps 0", "eps 0")):
        check = CheckFact(name=name, value=1.0, passed=False, meaning="something failed")
        (found,) = unions(
            tmp_path / name,
            (cell("pgd", "linf", 2 / 255, checks=(check,)), correct(1, 1, 0, 0, 0)),
            (cell("pgd", "l2", 0.5), correct(0, 0, 1, 1, 1)),
        )
        assert found.interval.value == 0
        assert found.facts["failed_checks"] == doubted
        assert ("†" in render([found], "md")) == bool(doubted)


@pytest.mark.parametrize("options", [{"transfer": True}, {"layout": "paper"}, {"transfer": True, "format": "json"}])
def test_options_of_the_other_table_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="leave --transfer and --layout out"):
        table(tmp_path, union_of_norms=True, **options)


def test_command_formats_and_data_frame_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = CheckFact(name="gradient", value=1.0, passed=False, meaning="the gradient is another one")
    found = unions(
        tmp_path,
        (cell("pgd", "linf", 2 / 255, checks=(check,)), correct(1, 1, 1, 1, 0)),
        (cell("pgd", "l2", 0.5), correct(0, 1, 1, 1, 1)),
    )
    frame = rp.load_results(tmp_path).union_of_norms()
    assert frame["value"].tolist() == pytest.approx([0.6])
    table(tmp_path, union_of_norms=True, format="json")
    (row,) = json.loads(capsys.readouterr().out)
    assert row == found[0].facts
    assert row["failed_checks"] == "gradient"
    (line,) = csv.DictReader(io.StringIO(render(found, "csv")))
    assert json.loads(line["alone"]) == row["alone"]
    table(tmp_path, union_of_norms=True)
    shown = capsys.readouterr().out
    assert "0.600" in shown
    assert "†" in shown
    assert "linf 2/255 alone" in " ".join(shown.split())
    for format in ("md", "latex"):
        assert "0.600" in render(found, format)


def test_the_page_has_the_table_of_the_terminal_and_none_for_one_norm(tmp_path: Path) -> None:
    one = (cell("pgd", "linf", 2 / 255), correct(1, 1, 1, 1, 0))
    store = stored(tmp_path, one, (cell("pgd", "l2", 0.5), correct(0, 1, 1, 1, 1)))
    (sheet,) = union_document(known_unions(finished([store], "show"))).sheets
    page = read_page([store])
    section = page.partition('<h2 id="unions">')[2].partition("</section>")[0]
    assert all(f"<td>{text}</td>" in section for row in sheet.rows for text in row.cells)
    assert NOTE.partition(":")[2].strip()[:60] in section
    assert 'href="#unions"' in page
    assert 'id="unions"' not in read_page([stored(tmp_path / "one", one)])


def test_a_page_whose_rows_are_damaged_leaves_the_union_out(tmp_path: Path) -> None:
    store = stored(
        tmp_path,
        (cell("pgd", "linf", 2 / 255), correct(1, 1, 1, 1, 0)),
        (cell("pgd", "l2", 0.5), correct(0, 1, 1, 1, 1)),
    )
    for file in tmp_path.rglob("*.parquet"):
        file.write_bytes(b"damaged")
    assert 'id="unions"' not in read_page([store])


@pytest.mark.parametrize("across", [False, True])
def test_a_comparison_has_paired_differences_of_unions_of_the_same_attacks(tmp_path: Path, across: bool) -> None:
    linf, l2 = correct(1, 1, 1, 1, 0), correct(0, 1, 1, 1, 1)
    name = {"encoder": "another"} if across else {}
    first = stored(tmp_path / "a", (cell("pgd", "linf", 2 / 255), linf), (cell("pgd", "l2", 0.5), l2))
    second = stored(
        tmp_path / "b",
        (cell("pgd", "linf", 2 / 255, **name), linf),
        (cell("pgd", "l2", 0.5, **name), {"id": IDS[::-1], **correct(1, 1, 0, 1, 0)}),
    )
    encoders = [first.records()[0].encoder, "another"] if across else []
    shown = compare_folders(first, second, encoders).document
    (sheet,) = [s for s in shown.sheets if s.title.startswith("Union of norms")]
    assert sheet.title == "Union of norms, classification, top-1: linf 2/255 + l2 0.5"
    # Robust to both: b, c and d of the first; b and d of the second, whose ids are stored in another order.
    own, other = wilson(3, 5), wilson(2, 5)
    difference = paired_share(0, 1, 5)
    (row,) = sheet.rows
    assert row.cells[0].startswith(f"{own.value:.3f}")
    assert row.cells[1].startswith(f"{other.value:.3f}")
    assert [float(number) for number in re.findall(r"-?\d+\.\d+", row.cells[2].replace("−", "-"))] == pytest.approx(
        list(difference), abs=1e-3
    )
    assert NOTE in shown.notes


def test_a_comparison_of_other_attacks_or_of_one_norm_has_no_union(tmp_path: Path) -> None:
    linf, l2 = (cell("pgd", "linf", 2 / 255), correct(1, 1, 1, 1, 0)), (cell("pgd", "l2", 0.5), correct(0, 1, 1, 1, 1))
    more = (cell("apgd", "l2", 0.5, target_task="classification"), correct(0, 0, 0, 0, 0))
    first = stored(tmp_path / "a", linf, l2)
    for place, other in enumerate((stored(tmp_path / "b", linf, l2, more), stored(tmp_path / "c", linf))):
        shown = compare_folders(first, other).document
        assert not [s for s in shown.sheets if s.title.startswith("Union")], place
        assert NOTE not in shown.notes
