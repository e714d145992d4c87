"""Comparisons with the paper and between two folders, on stores made by hand."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from robustprobe.core.errors import UserError
from robustprobe.core.former_names import FORMER_STATISTICS
from robustprobe.metrics import dense
from robustprobe.metrics.intervals import bootstrap
from robustprobe.metrics.paired import SAME
from robustprobe.report.paper.compare import compare_paper
from robustprobe.report.paper.published import MIXED, RULE, PaperCell, is_encoder, paper
from robustprobe.report.tables import sheet
from robustprobe.report.tables.compare_folders import compare_folders, differing
from robustprobe.report.tables.comparison import Comparison, render
from robustprobe.report.tables.matching import RecordPair, match
from robustprobe.report.tables.sheet import footnotes
from robustprobe.results.records import CheckFact, HeadFacts, Interval, Record
from robustprobe.results.store import Store
from tests.unit.test_report_tables import METRICS, attack, make_record

pytestmark = pytest.mark.unit

SMALL = "timm:vit_small_patch14_dinov2.lvd142m"
DINO = "timm:vit_base_patch16_224.dino"
DEACL = "file:weights/dino-deacl"


def cifar(name: str, value: float, encoder: str = SMALL, **other: Any) -> Record:
    settings = other.pop("settings", {})
    hardened = {"encoder_method": "deacl", "encoder_teacher": DINO} if encoder == DEACL else {}
    return make_record(attack(name, **settings), value, encoder=encoder, **{"dataset": "cifar10", **hardened, **other})


def row_of(comparison: Comparison, *names: str) -> dict[str, Any]:
    """The row of a dataset, encoder, weights and attack."""
    return next(r for r in comparison.rows if (r["dataset"], r["encoder"], r["weights"], r["attack"]) == names)


def pgd_row(*records: Record, deacl: str | None = None) -> dict[str, Any]:
    return row_of(compare_paper(records, deacl), "cifar10", "dinov2_vits14", "standard", "pgd")


def head(recipe: str) -> HeadFacts:
    return HeadFacts(
        fingerprint=recipe, recipe={"recipe": recipe}, learning_rate=0.1, held_out_score=0.9, train_images=10
    )


def test_all_cells_of_the_paper_are_there() -> None:
    cells = paper().cells()
    assert len(cells) == (12 + 12 + 4) * 3
    assert len({cell[:5] for cell in cells}) == len(cells)
    values = {cell[1:5]: cell.value for cell in cells}
    assert values["stl10", "dino_vitb16", "deacl", "embed"] == 0.83
    assert values["voc2012", "dinov2_vitb14", "standard", "clean"] == 0.83
    assert values["nyu_depth_v2", "dinov2_vitb14", "standard", "depthpgd"] == 2.74


@pytest.mark.parametrize(
    ("spec", "encoder"),
    [
        ("dinov2_vits14", "dinov2_vits14"),
        (SMALL, "dinov2_vits14"),
        ("hub:facebookresearch/dinov2:dinov2_vits14", "dinov2_vits14"),
        ("hub:facebookresearch/dinov2:main:dinov2_vitb14", "dinov2_vitb14"),
        ("hf:facebook/dinov2-base", "dinov2_vitb14"),
        (DINO, "dino_vitb16"),
        ("hub:facebookresearch/dino:main:dino_vitb16", "dino_vitb16"),
        ("timm:vit_small_patch14_reg4_dinov2.lvd142m", None),
        ("timm:vit_small_patch14_dinov2.random", None),
        ("hf:facebook/dinov2-large", None),
        (DEACL, None),
    ],
)
def test_specs_mean_the_encoders_of_the_paper(spec: str, encoder: str | None) -> None:
    cells = [PaperCell("classification", "cifar10", name, "standard", "clean", 0.9) for name in paper().encoders]
    record = cifar("clean", 0.9, encoder=spec)
    assert [cell.encoder for cell in cells if is_encoder(record, cell, None)] == ([encoder] if encoder else [])


def test_differences_from_the_paper_are_exact() -> None:
    comparison = compare_paper([cifar("clean", 0.95), cifar("embed", 0.25), cifar("pgd", 0.0, n=128)])
    rows = [row_of(comparison, "cifar10", "dinov2_vits14", "standard", a) for a in ("clean", "embed", "pgd")]
    assert [r["paper"] for r in rows] == [0.94, 0.01, 0.0]
    assert [r["value"] for r in rows] == [0.95, 0.25, 0.0]
    assert [r["difference"] for r in rows] == pytest.approx([0.01, 0.24, 0.0])
    assert [r["paper_in_interval"] for r in rows] == [True, False, True]
    assert [r["n"] for r in rows] == [200, 200, 128]
    assert {r["our_encoder"] for r in rows} == {SMALL}


@pytest.mark.parametrize(("low", "inside"), [(0.0049, True), (0.0151, False), (0.0149, True)])
def test_the_paper_rounds_so_its_number_is_an_interval_too(low: float, inside: bool) -> None:
    interval = Interval(value=low + 0.001, ci_low=low, ci_high=low + 0.002)
    row = row_of(
        compare_paper([cifar("embed", 0, metrics={"top-1": interval})]),
        *("cifar10", "dinov2_vits14", "standard"),
        "embed",
    )
    assert row["paper"] == 0.01
    assert row["paper_in_interval"] is inside


def test_missing_cells_are_listed_not_dropped() -> None:
    comparison = compare_paper([cifar("clean", 0.95), cifar("clean", 0.9, encoder=DINO)])
    assert len(comparison.rows) == 84
    assert sum(r["value"] is None for r in comparison.rows) == 82
    notes = comparison.document.sheets[0].notes
    assert (
        "Missing here: cifar10: dinov2_vits14 (embed pgd), dinov2_vitb14, dino_vitb16 (embed pgd), dino_vitb16 DeACL; "
        "cifar100: all; stl10: all." in notes
    )
    assert comparison.document.notes[0].startswith("2 of the paper's 84 cells are measured here; in 2 of them")


def test_a_folder_of_other_things_says_what_it_holds() -> None:
    summary = compare_paper([make_record(attack("clean"), 0.5)]).document.notes[0]
    assert summary.startswith(
        "0 of the paper's 84 cells are measured here; there are results of bundled:scenes on scenes. Paper: Kowalczuk"
    )


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"settings": {"eps": 4 / 255}}, "pgd 4/255"),
        ({"settings": {"norm": "l2", "eps": 8 / 255}}, "pgd 0.0313725 l2"),
        ({"settings": {"objective": "dlr"}}, "pgd:dlr 8/255"),
        ({"target_task": "depth"}, "pgd 8/255 (for depth)"),
        ({"split": "val"}, "pgd 8/255 on val"),
    ],
)
def test_only_the_papers_attack_counts_and_near_misses_are_told(other: dict[str, Any], told: str) -> None:
    row = pgd_row(cifar("pgd", 0.3, **other))
    assert row["value"] is None
    assert row["notes"][-1] == f"Measured as {told}, not as the paper's pgd 8/255."


def test_of_several_records_the_stated_rule_chooses() -> None:
    ranked = [
        cifar("pgd", 0.01, head=head("paper"), n=50, fingerprint="a"),
        cifar("pgd", 0.02, n=400, settings={"iterate": "last"}),
        cifar("pgd", 0.03, n=300, fingerprint="newest", provenance=later("2026-11-23")),
        cifar("pgd", 0.04, n=300),
        cifar("pgd", 0.05, n=300, settings={"iterate": "last"}, provenance=later("2026-11-24")),
        cifar("pgd", 0.06, n=900, settings={"steps": 100}, head=head("paper"), provenance=later("2026-11-25")),
    ]
    for position, expected in enumerate(ranked[:-1]):
        row = pgd_row(*reversed(ranked[position:]))
        assert row["value"] == expected.headline.value
        assert row["other_records"] == len(ranked) - position - 1
        assert f"One of {len(ranked) - position} records of this cell: {RULE}." in row["notes"]
    assert pgd_row(ranked[-1])["other_records"] == 0


def later(day: str) -> Any:
    return cifar("pgd", 0.0).provenance.model_copy(update={"started": f"{day}T10:00:00+00:00"})


def test_a_row_whose_cells_do_not_belong_together_says_so() -> None:
    same = compare_paper([cifar("clean", 0.95), cifar("pgd", 0.0)])
    assert not any(MIXED in r["notes"] for r in same.rows)
    other = compare_paper([cifar("clean", 0.95), cifar("pgd", 0.0, head=head("paper"))])
    assert [r["attack"] for r in other.rows if MIXED in r["notes"]] == ["clean", "pgd"]


def test_the_deacl_checkpoint_is_found_by_its_card_or_given() -> None:
    records = [cifar("embed", 0.7, encoder=e) for e in (DEACL, "file:weights/dino-deacl-2", "file:hardened")]
    names = ("cifar10", "dino_vitb16", "deacl", "embed")
    found = row_of(compare_paper(records), *names)
    assert (found["our_encoder"], found["other_records"]) == (DEACL, 0)
    assert found["difference"] == pytest.approx(-0.03)
    assert row_of(compare_paper(records, "file:hardened"), *names)["our_encoder"] == "file:hardened"
    with pytest.raises(UserError, match=r"unknown encoder in these results 'file:hardend'. Did you mean"):
        compare_paper(records, "file:hardend")


def test_notes_say_of_which_cells_they_hold() -> None:
    rows = compare_paper([]).rows

    def said(word: str) -> set[tuple[str, ...]]:
        return {(r["task"], r["dataset"], r["weights"], r["attack"]) for r in rows if word in " ".join(r["notes"])}

    assert {(s[0], s[3]) for s in said("Suspect in the paper")} == {("segmentation", "segpgd"), ("depth", "depthpgd")}
    assert {s[1] for s in said("VOC")} == {"voc2012"}
    assert {s[2] for s in said("4/255")} == {"deacl"}
    assert {s[0] for s in said("Eigen crop")} == {"depth"}
    assert {(s[0], s[3]) for s in said("validity mask")} == {("depth", "embed"), ("depth", "depthpgd")}
    assert {(s[0], s[3]) for s in said("divided by")} == {("classification", "pgd")}
    assert {(s[0], s[3]) for s in said("1,024")} == {("classification", "embed"), ("classification", "pgd")}
    assert len(said("test split")) == 7 * 2 * 3


def test_a_doubtful_number_of_ours_is_marked() -> None:
    check = CheckFact(name="restart", value=0.3, passed=False, meaning="a second start finds more")
    comparison = compare_paper([cifar("embed", 0.3, checks=(check,))])
    assert "0.300 [0.250, 0.350] †" in render(comparison, "md")
    assert any("a second start finds more" in note for note in comparison.document.notes)


def test_footnotes_give_letters_to_what_does_not_hold_everywhere() -> None:
    marks, lines = footnotes([["all", "x"], ["all"], ["all", "y", "x"]])
    assert marks == ["a", "", "ab"]
    assert lines == ["all", "a: x", "b: y"]
    marks, lines = footnotes([[str(position) for position in range(28)], []])
    assert marks[0].split(",")[-3:] == ["z", "aa", "ab"]
    assert lines[27] == "ab: 27"


def test_formats_of_the_paper_comparison() -> None:
    comparison = compare_paper([cifar("clean", 0.95)])
    content = json.loads(render(comparison, "json"), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert set(content) == {"paper", "threat", "rule", "cells"}
    assert "2407.12588" in content["paper"]
    assert len(content["cells"]) == 84
    assert content["cells"][0]["value"] == 0.95
    assert content["cells"][1]["difference"] is None
    assert isinstance(content["cells"][1]["notes"], list)
    rows = list(csv.DictReader(io.StringIO(render(comparison, "csv"))))
    assert tuple(rows[0]) == tuple(content["cells"][0])
    assert len(rows) == 84
    assert (rows[1]["value"], rows[1]["paper"]) == ("", "0.01")
    assert "| cifar10 | dinov2_vits14 | clean | 0.94 | 0.950 [0.900, 1.000] | +0.010 | yes | 200 |  |" in render(
        comparison, "md"
    )
    with pytest.raises(UserError, match="unknown table format"):
        render(comparison, "html")


def test_latex_escapes_and_names_each_row_once() -> None:
    text = render(compare_paper([cifar("clean", 0.95)]), "latex")
    assert r"    cifar10 & dinov2\_vits14 & clean & 0.94 & 0.950 [0.900, 1.000] & +0.010 & yes & 200 &  \\" in text
    assert r"     &  & embed & 0.01 & --- & --- & --- & --- & abc \\" in text
    assert text.count(r"\begin{table}") == 3
    assert r"95 \%" in text
    assert text.isascii()


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_paper_comparison_fits_the_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        sheet.print_rich(compare_paper([cifar("clean", 0.95)]).document, console)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    if width >= 80:
        assert any("clean   0.94 0.950 [0.900, 1.000] +0.010" in line for line in lines)


# Two folders.

Columns = Mapping[str, Any]


def fill(folder: Path, *cells: tuple[Record, Columns]) -> Store:
    store = Store(folder).prepare()
    for record, columns in cells:
        digest = store.write_rows(record.fingerprint, columns)
        store.write_record(record.model_copy(update={"rows_sha256": digest}))
    return store


def classified(correct: NDArray[Any], **other: Any) -> tuple[Record, Columns]:
    ids = other.pop("ids", [f"i{position}" for position in range(len(correct))])
    record = cifar(other.pop("name", "pgd"), float(np.mean(correct)), n=len(correct), **other)
    return record, {"id": ids, "correct": correct}


def dense_cell(task: str, name: str, columns: Columns, value: float, **other: Any) -> tuple[Record, Columns]:
    count = len(next(iter(columns.values())))
    record = make_record(attack(name), value, task=task, n=count, **other)
    return record, {"id": [f"i{position}" for position in range(count)], **columns}


def compared(tmp_path: Path, first: tuple[Record, Columns], second: tuple[Record, Columns]) -> dict[str, Any]:
    return both(tmp_path, [first], [second]).rows[0]


def both(tmp_path: Path, first: list[tuple[Record, Columns]], second: list[tuple[Record, Columns]]) -> Comparison:
    return compare_folders(fill(tmp_path / "first", *first), fill(tmp_path / "second", *second))


def test_a_paired_interval_is_exact_and_narrower_than_an_unpaired_one(tmp_path: Path) -> None:
    chance = np.random.default_rng(7)
    before = chance.random(400) < 0.5
    after = before & (chance.random(400) < 0.95)
    row = compared(tmp_path, classified(before), classified(after))
    assert row["difference"] == pytest.approx(after.mean() - before.mean())
    # Score test by hand: the true difference at the ends is 1.96 standard errors away, under the likeliest shares.
    lost = int((before & ~after).sum())
    for end, side in ((row["difference_ci_low"], 1), (row["difference_ci_high"], -1)):
        shares = np.linspace(max(0, -end), min(1, 1 - end) / 2, 200_001)[1:-1]
        other = 1 - 2 * shares - end
        likely = np.where(other > 0, lost * np.log(shares) + (400 - lost) * np.log(other.clip(1e-300)), -np.inf)
        best = shares[likely.argmax()]
        error = np.sqrt(400 * (2 * best + end - end**2))
        assert (-lost - 400 * end) / error == pytest.approx(side * 1.959964, abs=1e-2)
    apart = [
        bootstrap(
            {"value": side.astype(float), "counted": np.ones(400)}, lambda s: s["value"] / s["counted"], seed=seed
        )
        for seed, side in enumerate((before, after))
    ]
    unpaired = np.linalg.norm([e.ci_high - e.ci_low for e in apart])
    assert row["difference_ci_high"] - row["difference_ci_low"] < 0.5 * unpaired
    assert row["notes"] == []


def test_rows_in_another_order_are_paired_by_id(tmp_path: Path) -> None:
    error = np.random.default_rng(1).gamma(4, 0.1, 50)
    first = dense_cell("depth", "embed", {"rmse": error}, float(error.mean()))
    record, columns = dense_cell("depth", "embed", {"rmse": error + 0.25}, float(error.mean() + 0.25))
    order = np.random.default_rng(2).permutation(50)
    turned = {name: [values[position] for position in order] for name, values in columns.items()}
    row = compared(tmp_path, first, (record, turned))
    assert row["difference"] == pytest.approx(0.25)
    assert (row["difference_ci_low"], row["difference_ci_high"]) == pytest.approx((0.25, 0.25))


def test_images_without_a_depth_are_left_out(tmp_path: Path) -> None:
    error = np.array([0.5, np.nan, 0.7, 0.6])
    row = compared(
        tmp_path,
        dense_cell("depth", "embed", {"rmse": error}, 0.6),
        dense_cell("depth", "embed", {"rmse": error + 1}, 1.6),
    )
    assert (row["difference"], row["difference_ci_low"]) == pytest.approx((1.0, 1.0))


def areas(seed: int, classes: int = 4, count: int = 30) -> dict[str, NDArray[Any]]:
    chance = np.random.default_rng(seed)
    labelled, predicted = chance.integers(0, 60, (2, count, classes))
    return {
        "intersection": (np.minimum(labelled, predicted) * 0.6).astype(int),
        "predicted": predicted,
        "labelled": labelled,
    }


def iou(columns: dict[str, NDArray[Any]]) -> float:
    sums = [columns[c].sum(0).astype(float) for c in ("intersection", "predicted", "labelled")]
    return float(dense.mean_iou(*sums))


def test_miou_is_computed_anew_from_images_drawn_jointly(tmp_path: Path) -> None:
    before = areas(1)
    after = {**before, "intersection": before["intersection"] // 2}
    sides = [dense_cell("segmentation", "embed", c, iou(c)) for c in (before, after)]
    row = compared(tmp_path, *sides)
    assert row["difference"] == pytest.approx(iou(after) - iou(before))
    drawn = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=2000)
    values = [dense.mean_iou(*(drawn @ side[c].astype(float) for c in before)) for side in (before, after)]
    expected = np.quantile(values[1] - values[0], [0.025, 0.975])
    assert [row["difference_ci_low"], row["difference_ci_high"]] == pytest.approx(expected)
    notes = both(tmp_path / "again", [sides[0]], [sides[1]]).document.notes
    assert sum("30 images): value and interval are those of so few images" in note for note in notes) == 1


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (classified(np.ones(5)), "different images, 4 and 5, of which 4 are the same"),
        (classified(np.ones(4), ids=["i0", "i1", "x", "y"]), "different images, 4 and 4, of which 2 are the same"),
        ((cifar("pgd", 1.0, n=4), {"id": ["i0", "i1", "i2", "i3"]}), "the rows have no column correct"),
    ],
)
def test_without_the_same_images_there_is_no_interval_but_a_reason(
    tmp_path: Path, second: tuple[Record, Columns], reason: str
) -> None:
    row = compared(tmp_path, classified(np.array([1, 0, 1, 0])), second)
    assert row["difference"] == pytest.approx(0.5)
    assert row["difference_ci_low"] is None
    assert row["notes"][-1] == f"No paired interval: {reason}."


def test_classes_must_agree(tmp_path: Path) -> None:
    sides = [dense_cell("segmentation", "embed", areas(1, classes), 0.5) for classes in (4, 5)]
    assert compared(tmp_path, *sides)["notes"] == ["No paired interval: the numbers of classes differ."]


def test_damaged_rows_give_no_interval(tmp_path: Path) -> None:
    cell = classified(np.ones(4))
    first, second = fill(tmp_path / "first", cell), fill(tmp_path / "second", cell)
    (tmp_path / "second" / "rows" / f"{cell[0].fingerprint}.parquet").write_bytes(b"torn")
    notes = compare_folders(first, second).rows[0]["notes"]
    assert notes == ["No paired interval: the rows of the second are missing or damaged."]


def test_a_folder_equals_itself(tmp_path: Path) -> None:
    store = fill(tmp_path / "a", classified(np.array([1, 0, 1])), classified(np.ones(3), name="clean"))
    comparison = compare_folders(store, store)
    assert [(r["difference"], r["difference_ci_low"], r["difference_ci_high"]) for r in comparison.rows] == [
        (0, 0, 0)
    ] * 2
    most = "Other images could differ by up to 56.1 points (Tango's 95 % interval for 0 of 3)."
    assert comparison.document.sheets[0].notes == [f"{SAME} {most}"]


def test_a_table_of_many_comparisons_is_corrected_for_their_number(tmp_path: Path) -> None:
    """One difference of ten that is just beyond its own interval is expected by chance, and is said not to remain."""
    chance = np.random.default_rng(3)
    before = chance.random(200) < 0.5
    weak, strong = before.copy(), before.copy()
    weak[np.flatnonzero(before)[:6]] = False
    strong[np.flatnonzero(before)[:60]] = False
    same = [classified(before, settings={"seed": seed}) for seed in range(8)]
    first = [*same, classified(before, name="embed"), classified(before, name="apgd")]
    second = [*same, classified(weak, name="embed"), classified(strong, name="apgd")]
    comparison = both(tmp_path, first, second)
    rows = {row["attack"]: row for row in comparison.rows}
    assert rows["embed"]["finding"] == rows["apgd"]["finding"] == "worse"
    assert rows["embed"]["p_value"] < 0.05 < rows["embed"]["p_holm"]
    assert rows["apgd"]["p_holm"] < 0.001
    assert "worse in 2" in comparison.heading["verdict"][0]
    assert f"Holm's correction for {len(comparison.rows)} comparisons, 0 better and 1 worse remain" in str(
        comparison.heading["verdict"]
    )


def test_the_verdict_says_how_many_images_two_points_take(tmp_path: Path) -> None:
    chance = np.random.default_rng(3)
    before, after = chance.random((2, 100)) < 0.5
    comparison = both(tmp_path, [classified(before)], [classified(after)])
    row, spread = comparison.rows[0], np.std(after.astype(float) - before)
    assert row["images_for_2_points"] == pytest.approx((2.8016 * spread / 0.02) ** 2, rel=0.1)
    assert (
        f"To tell 2 points of top-1 apart (power 80 %) takes about {row['images_for_2_points']:,} images."
        in (comparison.heading["verdict"][1])
    )
    assert "Holm" not in comparison.heading["verdict"][0]


def test_errors_in_metres_are_told_apart_by_two_percent(tmp_path: Path) -> None:
    error = np.random.default_rng(1).gamma(4, 0.1, 50)
    after = error + np.random.default_rng(2).normal(0, 0.1, 50)
    sides = [dense_cell("depth", "embed", {"rmse": e}, float(e.mean())) for e in (error, after)]
    comparison = both(tmp_path, sides[:1], sides[1:])
    difference, spread = 0.02 * error.mean(), np.std(after - error)
    assert comparison.rows[0]["images_for_2_points"] == pytest.approx((2.8016 * spread / difference) ** 2, rel=0.15)
    assert "To tell 2 % of the first's RMSE apart" in comparison.heading["verdict"][1]


def test_cells_of_one_folder_are_listed_with_what_the_other_has_instead(tmp_path: Path) -> None:
    ones = np.ones(4)
    comparison = both(
        tmp_path,
        [classified(ones, name="clean"), classified(ones, settings={"eps": 4 / 255})],
        [classified(ones, name="clean"), classified(ones, name="embed"), classified(ones, settings={"eps": 8 / 255})],
    )
    notes = {(r["attack"], round(r["eps"] * 255)): r["notes"] for r in comparison.rows}
    assert notes["embed", 8] == ["Only in the second."]
    assert notes["pgd", 4] == ["Only in the first; the other has it at eps 8/255 (linf)."]
    assert notes["pgd", 8] == ["Only in the second; the other has it at eps 4/255 (linf)."]
    assert "Cells in both: 1; only in the first: 1; only in the second: 2." in comparison.document.notes[0]
    lines = render(comparison, "md").splitlines()
    assert f"| cifar10 | {SMALL} | embed 8/255 | — | 1.000 [0.950, 1.050] | — | b |" in lines


def test_what_differs_is_said() -> None:
    first = cifar("pgd", 0.1)
    second = cifar("pgd", 0.2, settings={"steps": 100}, precision="bf16", image_size=(32, 32), n=50, head=head("paper"))
    told = differing(first, second)
    assert {"steps: 20, then 100.", "precision: fp32, then bf16.", "images: 200, then 50."} <= set(told)
    assert {"image size: 64 × 64, then 32 × 32.", "head recipe: standard, then paper."} <= set(told)
    assert differing(first, first) == []
    refitted = first.head.model_copy(update={"fingerprint": "other"})
    assert [t.split(":")[0] for t in differing(first, first.model_copy(update={"head": refitted}))] == ["head"]


def test_one_record_each_is_matched_whatever_its_steps_and_several_by_their_steps() -> None:
    s20, s50, s100 = (cifar("pgd", 0.1, settings={"steps": steps}) for steps in (20, 50, 100))
    assert matched([s20], [s100]) == [(s20, s100)]
    assert matched([s20], [s100, s20]) == [(s20, s20), (None, s100)]
    assert matched([s20], [s50, s100]) == [(s20, None), (None, s50), (None, s100)]
    best, last = cifar("pgd", 0.1), cifar("pgd", 0.1, settings={"iterate": "last"})
    assert matched([last, best], [best, last]) == [(best, best), (last, last)]


def matched(first: list[Record], second: list[Record]) -> list[RecordPair]:
    """Pairs by steps and iterate."""
    return sorted(match(first, second), key=lambda pair: (pair.any.attack.steps, pair.any.attack.iterate))


def test_of_the_same_cell_measured_twice_the_newer_is_matched() -> None:
    old, new = cifar("pgd", 0.1), cifar("pgd", 0.2, fingerprint="new", provenance=later("2026-12-01"))
    assert match([new, old], [old]) == [(new, old)]


def test_cells_are_matched_by_name_attack_and_size_alone() -> None:
    first = cifar("pgd", 0.1)
    for other in (
        cifar("pgd", 0.1, encoder=DINO),
        cifar("pgd", 0.1, dataset="stl10"),
        cifar("pgd", 0.1, settings={"norm": "l2"}),
        cifar("pgd", 0.1, target_task="depth"),
        cifar("pgd", 0.1, settings={"objective": "dlr"}),
    ):
        assert {(p.first is None, p.second is None) for p in match([first], [other])} == {(False, True), (True, False)}


def test_steps_of_another_norm_are_not_told_in_grey_levels() -> None:
    first, second = (cifar("pgd", 0.3, settings={"norm": "l2", "eps": 4, "step_size": size}) for size in (1.0, 2.0))
    assert differing(first, second) == ["step size: 1, then 2."]


@pytest.mark.parametrize("turned", [False, True])
def test_the_strongest_attack_of_a_verdict_is_an_attack_and_has_a_number(tmp_path: Path, turned: bool) -> None:
    right, wrong = np.array([1] * 12 + [0] * 8), np.array([1] * 4 + [0] * 16)
    cells = [
        classified(right, name="pgd"),
        classified(wrong, name="corruption", settings={"objective": "fog", "norm": "severity", "eps": 3}),
    ]
    comparison = both(tmp_path, cells, cells[::-1] if turned else cells)
    told = comparison.heading["verdict"][1:]
    assert len(told) == 1
    assert "under pgd 8/255" in told[0]


def test_doubts_say_of_which_folder_they_are(tmp_path: Path) -> None:
    check = CheckFact(name="restart", value=0.3, passed=False, meaning="a second start finds more")
    doubtful = classified(np.ones(4), checks=(check,))
    notes = both(tmp_path, [classified(np.ones(4))], [doubtful]).document.notes
    assert [note for note in notes if note.startswith("†")] == [
        f"† second, pgd 8/255: a second start finds more ({SMALL}, cifar10, classification)."
    ]


def test_formats_of_the_folder_comparison(tmp_path: Path) -> None:
    ones = np.ones(4)
    comparison = both(tmp_path, [classified(ones)], [classified(ones), classified(ones, name="clean", encoder="a_b")])
    content = json.loads(render(comparison, "json"), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert set(content) == {"first", "second", "verdict", "cells"}
    assert content["first"] == str(tmp_path / "first")
    keys = {"encoder", "dataset", "task", "target_task", "attack", "eps", "norm", "metric", "unit", "higher_is_better"}
    sides = {
        f"{s}_{k}" for s in ("first", "second") for k in ("value", "ci_low", "ci_high", "n", "steps", "fingerprint")
    }
    assert keys | sides | {"difference", "difference_ci_low", "difference_ci_high", "notes"} <= set(content["cells"][0])
    rows = list(csv.DictReader(io.StringIO(render(comparison, "csv"))))
    assert {r["encoder"]: r["first_value"] for r in rows} == {SMALL: "1.0", "a_b": ""}
    assert r"cifar10 & a\_b & clean" in render(comparison, "latex")
    assert "+0.000 [+0.000, +0.000]" in render(comparison, "rich")


def test_every_headline_metric_can_be_paired() -> None:
    # Records of earlier versions do not say how their metric is computed.
    assert {metric for metric, _, _ in METRICS.values()} == set(FORMER_STATISTICS)
    assert cifar("pgd", 0.1).statistic is not None


def test_comparisons_do_without_torch() -> None:
    code = (
        "import sys, robustprobe.report.paper.compare as p, robustprobe.report.tables.compare_folders; "
        "p.compare_paper([]); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
