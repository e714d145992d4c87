"""Tables for a terminal: they fit its width, nothing is broken in two, and notes are merged by cause and numbered."""

import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from robustprobe.report.tables.blocks import CHECKS_PAGE
from robustprobe.report.tables.fitting import fitting, natural_width, print_fitting, transposed
from robustprobe.report.tables.results import print_rich
from robustprobe.report.tables.sheet import Row, Sheet
from robustprobe.results.records import CheckFact, Record
from tests.unit.test_report_tables import attack, make_record, records_of

NUMBER = re.compile(r"\d\.\d{3} \[-?\d\.\d{3}, \d\.\d{3}\]")
EPS = (1 / 255, 4 / 255, 16 / 255)
ATTACKS = ("noise", "embed", "surrogate", "pgd", "apgd", "ensemble")


def printed(records: list[Record], width: int, verbose: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        print_rich(records, False, console, verbose=verbose)
    return capture.get()


def many(encoders: int) -> list[Record]:
    """Classification by several encoders under six attacks at three eps."""
    names = [f"timm:encoder_number_{k}" for k in range(encoders)]
    specs = [attack("clean"), *(attack(name, eps) for eps in EPS for name in ATTACKS)]
    aims = dict.fromkeys(("pgd", "apgd", "ensemble"), "classification")
    return [make_record(s, 0.5, encoder=name, target_task=aims.get(s.name, "")) for name in names for s in specs]


def failing(record: Record, *checks: tuple[str, float, str]) -> Record:
    return record.model_copy(
        update={"checks": tuple(CheckFact(name=n, value=v, passed=False, meaning=m) for n, v, m in checks)}
    )


@pytest.mark.parametrize("encoders", [1, 2, 5])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_numbers_keep_their_intervals_beside_them_and_headings_are_whole(encoders: int, width: int) -> None:
    text = printed(many(encoders), width)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    # One block per eps, each with the clean score.
    assert len(NUMBER.findall(text)) >= encoders * len(EPS) * (1 + len(ATTACKS))
    assert not [line for line in lines if line.strip().startswith("[")]
    words = set(text.split())
    assert {"clean", *ATTACKS} <= words
    assert {f"timm:encoder_number_{k}" for k in range(encoders)} <= words


def test_a_block_is_about_one_task_and_one_eps() -> None:
    text = printed(many(2), 200)
    titles = [line for line in text.splitlines() if line.startswith("Classification on scenes:")]
    assert len(titles) == len(EPS)
    for title, eps in zip(titles, ("1/255", "4/255", "16/255"), strict=True):
        assert f"eps {eps} (linf)" in title
        assert title.count("/255") == 1


def test_no_eps_is_left_out_where_nothing_was_attacked() -> None:
    text = printed([make_record(attack("clean"), 0.5)], 80)
    assert "0.500 [0.450, 0.550]" in text
    assert "eps" not in text


def test_notes_are_merged_by_cause_and_numbered() -> None:
    rising = "of the objective's gain came in the last fifth of the steps: more steps would find more"
    records = [r for r in records_of("a") if not r.is_transfer]
    records = [
        failing(r, ("still rising", 0.1 * k, f"{10 * k}.0% {rising}")) if r.attack.name != "clean" else r
        for k, r in enumerate(records)
    ]
    odd = next(k for k, r in enumerate(records) if r.attack.name == "segpgd")
    records[odd] = failing(
        records[odd],
        ("still rising", 0.1, f"10.0% {rising}"),
        ("black box", 0.2, "it does more: the gradient misleads"),
    )
    text = printed(records, 80)
    notes = [line for line in text.splitlines() if re.match(r"†\d ", line)]
    count = sum(r.attack.name != "clean" for r in records)
    assert notes == [
        f"†1 still rising, {count} numbers: more steps would find more",
        "†2 black box, 1 number: the gradient misleads",
    ]
    assert text.count("†1,2") == 1
    assert f"what each check means: {CHECKS_PAGE}" in " ".join(text.split())
    assert (Path(__file__).parents[2] / CHECKS_PAGE).is_file()
    # Every finding with its numbers stands in the long form alone.
    assert "of the objective's gain" not in text
    long = printed(records, 80, verbose=True)
    assert "of the objective's gain" in " ".join(long.split())
    assert "(a, scenes, segmentation)" in " ".join(long.split())


@pytest.mark.parametrize("width", [40, 80])
def test_a_note_is_one_line_at_any_width(width: int) -> None:
    words = "word " * 40
    text = printed([failing(make_record(attack("pgd"), 0.5), ("large eps", 1.0, f"5 % is left: {words}"))], width)
    lines = text.splitlines()
    assert sum("word" in line for line in lines) == 1
    assert max(map(cell_len, lines)) <= width


def test_a_table_is_turned_or_parted_where_it_does_not_fit() -> None:
    number = "0.500 [0.450, 0.550]"
    wide = Sheet("t", ["encoder"], [f"attack{k}" for k in range(6)], [Row(["one"], [number] * 6)])
    (turned,) = fitting(wide, 80)
    assert [row.names for row in turned.rows] == [[f"attack{k}"] for k in range(6)]
    assert turned.columns == ["one"]
    both = Sheet("t", ["encoder"], wide.columns, [Row([f"encoder{k}"], [number] * 6) for k in range(6)])
    parts = fitting(both, 80)
    assert all(natural_width(part) <= 80 for part in parts)
    assert sum(len(part.rows) * len(part.columns) for part in parts) == 36
    assert fitting(both, 200) == [both]


def test_a_turned_table_says_what_its_rows_are_and_leaves_out_empty_names() -> None:
    sheet = Sheet("t", ["family", "name"], ["a", "b"], [Row(["", "clean"], ["1", "2"]), Row(["x", "fog"], ["3", "4"])])
    turned = transposed(sheet._replace(across="encoder"))
    assert (turned.heads, turned.columns) == (["encoder"], ["clean", "fog, x"])
    assert [tuple(row.names) + tuple(row.cells) for row in turned.rows] == [("a", "1", "3"), ("b", "2", "4")]
    assert transposed(sheet).heads == ["attack"]


@pytest.mark.parametrize(("names", "numbers"), [(1, 1), (2, 3), (2, 6)])
def test_a_table_is_drawn_as_wide_as_it_is_counted_to_be(names: int, numbers: int) -> None:
    heads, columns = ["encoder"] * names, ["clean"] * numbers
    sheet = Sheet("", heads, columns, [Row(["bundled:scenes-anyhead"] * names, ["1.225 depthpgd †"] * numbers)], [])
    width = natural_width(sheet)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        print_fitting(sheet, console)
    lines = capture.get().splitlines()
    assert max(map(cell_len, lines)) == width
    assert sum("bundled" in line for line in lines) == 1, "no name is broken in two"
