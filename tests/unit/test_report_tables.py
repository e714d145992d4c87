"""Tables: values, order, shape and escaping, from records made by hand."""

import csv
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.errors import UserError
from robustprobe.report.tables.blocks import Notes
from robustprobe.report.tables.matrix import failed_checks, task_tables, trusted
from robustprobe.report.tables.results import KEYS, print_rich, render, table_rows
from robustprobe.report.tables.sheet import FORMATS, escape_latex
from robustprobe.results.records import CheckFact, HeadFacts, Interval, Provenance, Record

METRICS = {
    "classification": ("top-1", "share", True),
    "segmentation": ("mIoU", "share", True),
    "depth": ("RMSE", "m", False),
}
OWN = {"classification": "pgd", "segmentation": "segpgd", "depth": "depthpgd"}
SEES = {attack: task for task, attack in OWN.items()}
PLAIN, AWKWARD = "bundled:scenes", "my_<script>alert('&|')</script>.py:Net"
SCENES, LINED = "scenes", "nyu_depth_v2"


def attack(name: str, eps: float = 8 / 255, **settings: Any) -> AttackSpec:
    steps = 1 if name in ("clean", "noise") else 20
    return AttackSpec(**{"name": name, "eps": 0.0 if name == "clean" else eps, "steps": steps, **settings})


def make_record(
    spec: AttackSpec,
    value: float,
    *,
    encoder: str = PLAIN,
    dataset: str = SCENES,
    task: str = "classification",
    **other: Any,
) -> Record:
    metric, unit, higher = METRICS[task]
    interval = Interval(value=value, ci_low=value - 0.05, ci_high=value + 0.05)
    target_task, digest = SEES.get(spec.name, ""), hashlib.sha256(encoder.encode()).hexdigest()
    plain = re.sub(r"\W", "", dataset)
    facts: dict[str, Any] = {
        "fingerprint": f"{digest[:8]}-{plain}-{task}-{spec.fingerprint()}-{other.get('n', 200)}",
        "group": f"g-{digest[:8]}-{plain}-{spec.fingerprint()}",
        "suite": "demo",
        "encoder": encoder,
        "encoder_digest": digest,
        "encoder_licence": "Apache-2.0",
        "dataset": dataset,
        "dataset_digest": "d" * 64,
        "split": "test",
        "image_size": (64, 64),
        "image_ids_digest": f"ids{other.get('n', 200)}",
        "task": task,
        "target_task": target_task,
        "attack": spec,
        "precision": "fp32",
        "metric": metric,
        "unit": unit,
        "higher_is_better": higher,
        "chance": None if higher else 2.0,
        "n": 200,
        "metrics": {metric: interval},
        "metrics_8bit": {metric: interval},
        "largest_perturbation": spec.eps,
        "head": HeadFacts(
            fingerprint=f"h{task}",
            recipe={"recipe": "standard"},
            learning_rate=1e-3,
            held_out_score=0.9,
            train_images=800,
        ),
        "rows_sha256": "0" * 64,
        "provenance": Provenance(
            command="robustprobe run demo.yaml",
            started="2026-11-20T10:00:00+00:00",
            seconds=12.5,
            versions={"robustprobe": "0.1.0", "torch": "2.8.0"},
            git="abc1234",
            hardware="a machine",
            device="cpu",
        ),
    }
    return Record(**{**facts, **other})


def records_of(encoder: str, shift: float = 0.0) -> list[Record]:
    """Three tasks on scenes under every attack, transfer included."""
    base = {"classification": 0.9, "segmentation": 0.6, "depth": 0.4}
    names = ["depthpgd", "clean", "segpgd", "embed", "pgd", "noise"]
    harm = {"clean": 0.0, "noise": 0.02, "embed": 0.3, **dict.fromkeys(SEES, 0.1)}
    made = []
    for name in names:
        for task, start in base.items():
            damage = 0.5 if OWN[task] == name else harm[name]
            value = start + shift + (damage if task == "depth" else -damage)
            made.append(make_record(attack(name), value, encoder=encoder, task=task))
    return made


def checkpoints_of(encoder: str, epoch: int, shift: float = 0.0, run: str = "r" * 16) -> list[Record]:
    """The same of an encoder that was kept after an epoch of hardening."""
    facts = {"encoder_teacher": PLAIN, "encoder_method": "deacl", "encoder_epoch": epoch, "encoder_run": run}
    return [r.model_copy(update=facts) for r in records_of(encoder, shift)]


@pytest.fixture
def records() -> list[Record]:
    return [*records_of(AWKWARD, -0.01), *records_of(PLAIN)]


def test_rows_hold_own_attacks_only_unless_transfer_is_asked(records: list[Record]) -> None:
    rows = table_rows(records)
    assert len(rows) == 2 * 3 * 4
    assert {(r["task"], r["attack"]) for r in rows if r["target_task"]} == set(OWN.items())
    assert len(table_rows(records, transfer=True)) == len(records) == 2 * 3 * 6


def test_rows_carry_the_numbers(records: list[Record]) -> None:
    row = next(r for r in table_rows(records) if (r["encoder"], r["task"], r["attack"]) == (PLAIN, "depth", "depthpgd"))
    assert tuple(row) == KEYS
    assert row["value"] == pytest.approx(0.9)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((0.85, 0.95))
    assert row["value_8bit"] == row["value"]
    assert row["eps"] == 8 / 255
    assert (row["metric"], row["unit"], row["higher_is_better"], row["n"]) == ("RMSE", "m", False, 200)
    assert (row["target_task"], row["norm"], row["steps"], row["suite"]) == ("depth", "linf", 20, "demo")


def test_order_does_not_depend_on_the_input(records: list[Record]) -> None:
    rows = table_rows(records, transfer=True)
    assert rows == table_rows(records[::-1], transfer=True)
    assert list(dict.fromkeys(r["task"] for r in rows)) == ["classification", "depth", "segmentation"]
    first = [r["attack"] for r in rows if (r["task"], r["encoder"]) == ("segmentation", PLAIN)]
    assert first == ["clean", "noise", "embed", "segpgd", "pgd", "depthpgd"]


def test_datasets_come_before_encoders_and_eps_comes_last() -> None:
    made = [
        make_record(attack("pgd", e), 0.1, encoder=n, dataset=d) for e in (0.1, 0.02) for n in "ba" for d in ("y", "x")
    ]
    order = [(r["dataset"], r["encoder"], r["eps"]) for r in table_rows(made)]
    assert order == [(d, n, e) for d in "xy" for n in "ab" for e in (0.02, 0.1)]


def test_table_has_a_row_an_encoder_and_a_column_an_attack_and_eps(records: list[Record]) -> None:
    extra = make_record(attack("pgd", 2 / 255), 0.7)
    table = task_tables([*records, extra])[0]
    assert [c.label for c in table.columns] == ["clean", "noise 8/255", "embed 8/255", "pgd 2/255", "pgd 8/255"]
    assert [(line.dataset, line.encoder) for line in table.lines] == [(SCENES, PLAIN), (SCENES, AWKWARD)]
    assert table.lines[0].cells[3] is extra
    assert table.lines[1].cells[3] is None


def test_caption_states_metric_direction_images_and_threat(records: list[Record]) -> None:
    captions = [table.caption for table in task_tables(records)]
    assert "top-1, a share from 0 to 1, higher is better ↑" in captions[0]
    assert "RMSE, in m, lower is better ↓" in captions[1]
    for caption in captions:
        assert "n = 200 images" in caption
        assert "eps 8/255 (linf)" in caption
        assert "20 steps" in caption
        assert "95 % interval" in caption


def test_caption_names_numbers_of_images_that_differ() -> None:
    made = [make_record(attack("clean"), 0.5, dataset="a", n=100), make_record(attack("clean"), 0.5, dataset="b", n=7)]
    assert "n = 100 (a), 7 (b) images" in task_tables(made)[0].caption


def test_transfer_columns_say_for_whom_the_attack_was_made(records: list[Record]) -> None:
    labels = [c.label for c in task_tables(records, transfer=True)[2].columns]
    assert labels[3:] == ["segpgd 8/255", "pgd 8/255 (for classification)", "depthpgd 8/255 (for depth)"]


def test_namesakes_are_told_apart_and_never_overwrite_each_other() -> None:
    made = [make_record(attack("pgd", steps=s), v, n=n) for s, v, n in ((20, 0.3, 10), (50, 0.2, 10), (20, 0.4, 90))]
    table = task_tables(made)[0]
    assert [c.label for c in table.columns] == ["pgd 8/255 (steps 20)", "pgd 8/255 (steps 50)"]
    assert {line.dataset for line in table.lines} == {"scenes (images 10)", "scenes (images 90)"}
    assert len([r for line in table.lines for r in line.cells if r]) == 3


def test_of_the_same_cell_measured_twice_the_later_counts() -> None:
    old = make_record(attack("pgd"), 0.3)
    later = old.provenance.model_copy(update={"started": "2026-11-21T10:00:00+00:00"})
    new = make_record(attack("pgd"), 0.2, fingerprint="another", provenance=later)
    assert task_tables([new, old])[0].lines[0].cells == [new]


def test_markdown_shows_values_with_intervals(records: list[Record]) -> None:
    lines = render(records, "md").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == 3 * (2 + 2)
    assert tables[0] == "| dataset | encoder | clean | noise 8/255 | embed 8/255 | pgd 8/255 |"
    assert tables[2] == (
        "| scenes | bundled:scenes | 0.900 [0.850, 0.950] | 0.880 [0.830, 0.930] | 0.600 [0.550, 0.650] "
        "| 0.400 [0.350, 0.450] |"
    )


def test_markdown_escapes_names(records: list[Record]) -> None:
    text = render(records, "md")
    assert "<script>" not in text
    assert r"my\_&lt;script&gt;alert('&amp;\|')" in text
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in text.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("format", ["md", "latex", "rich"])
def test_missing_cells_are_dashes(format: str) -> None:
    made = [make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.1, encoder="other")]
    assert render(made, format).count("---" if format == "latex" else "—") == 2


def test_latex_escapes_and_uses_booktabs() -> None:
    made = [
        make_record(attack("clean"), 0.9, encoder=r"a_b%c&d#e$f{g}~h^i\j<k", dataset="[x]"),
        make_record(attack("pgd"), 0.1),
    ]
    text = render(made, "latex")
    escaped = r"a\_b\%c\&d\#e\$f\{g\}\textasciitilde{}h\textasciicircum{}i\textbackslash{}j\textless{}k"
    assert f"    {{[}}x] & {escaped} & 0.900 [0.850, 0.950] & --- \\\\" in text.splitlines()
    assert r"0 to 1, higher is better $\uparrow$" in text
    assert r"95 \% interval" in text
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{llrr}", r"\end{table}"):
        assert text.count(command) == 1
    assert text.isascii()


def test_latex_has_labels_bold_best_values_norms_and_notes_inside_the_table() -> None:
    doubt = CheckFact(name="black box", value=0.1, passed=False, meaning="square at eps 8/255 (linf) is stronger")
    values = {("a", "clean"): 0.9, ("b", "clean"): 0.8, ("a", "pgd"): 0.1, ("b", "pgd"): 0.3}
    made = [make_record(attack(name), value, encoder=encoder) for (encoder, name), value in values.items()]
    made[3] = made[3].model_copy(update={"checks": (doubt,)})
    made += [make_record(attack("clean"), value, task="depth", encoder=e) for e, value in (("a", 0.5), ("b", 0.4))]
    text = render(made, "latex")
    assert [line.strip() for line in text.splitlines() if "label" in line] == [
        r"\label{tab:classification}",
        r"\label{tab:depth}",
    ]
    assert r"scenes & a & \textbf{0.900} [0.850, 0.950] & 0.100 [0.050, 0.150] \\" in text
    assert r"scenes & b & 0.800 [0.750, 0.850] & \textbf{0.300} [0.250, 0.350] $\dagger$ \\" in text
    assert r"scenes & b & \textbf{0.400}" in text, "of an error the smallest"
    caption = next(line for line in text.splitlines() if "caption" in line)
    assert r"eps 8/255 ($\ell_\infty$)" in caption
    assert r"/linf-8\_255/" in caption, "the name of the protocol stays as it is cited"
    first = text.partition(r"\end{table}")[0]
    assert r"square at eps 8/255 ($\ell_\infty$) is stronger" in first.partition(r"\end{tabular}")[2]
    assert "square" not in text.partition(r"\end{table}")[2]


def test_latex_has_an_own_sign_for_what_its_usual_fonts_lack() -> None:
    assert escape_latex("12 % [10, ∞] ≥ ≤") == r"12 \% [10, $\infty$] $\geq$ $\leq$"


def test_csv_reads_back(records: list[Record]) -> None:
    rows = list(csv.DictReader(io.StringIO(render(records, "csv", transfer=True))))
    assert len(rows) == 36
    assert tuple(rows[0]) == KEYS
    assert {r["encoder"] for r in rows} == {PLAIN, AWKWARD}
    assert float(rows[0]["value"]) == pytest.approx(0.9)


def test_json_reads_back_and_never_holds_nan() -> None:
    empty = Interval(value=math.nan, ci_low=math.nan, ci_high=math.inf)
    text = render([make_record(attack("clean"), 0.5, metrics={"top-1": empty}, metrics_8bit={})], "json")
    row = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))[0]
    assert [row[key] for key in ("value", "ci_low", "ci_high", "value_8bit")] == [None] * 4
    assert row["encoder"] == PLAIN
    assert row["higher_is_better"] is True


@pytest.mark.parametrize("format", ["md", "latex", "rich"])
def test_what_is_no_number_is_not_shown_as_one(format: str) -> None:
    empty = Interval(value=math.nan, ci_low=math.nan, ci_high=math.nan)
    text = render([make_record(attack("clean"), 0.5, metrics={"top-1": empty})], format)
    assert "n/a" in text
    assert "nan" not in text.lower()


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_store_is_no_error(format: str) -> None:
    text = render([], format)
    assert text.strip()
    assert format != "json" or json.loads(text) == []
    assert format != "csv" or text.strip().split(",") == list(KEYS)


def test_an_unknown_format_is_named_with_its_nearest_match(records: list[Record]) -> None:
    with pytest.raises(UserError, match=r"unknown table format 'jsn'. Did you mean 'json'\?"):
        render(records, "jsn")


@pytest.mark.parametrize("width", [60, 80, 220])
def test_rich_tables_show_every_number_at_any_width(records: list[Record], width: int) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        print_rich(records, False, console)
    text = capture.get()
    assert max(len(line) for line in text.splitlines()) <= width
    for value in ("0.900", "0.600", "0.400"):
        assert value in text
    assert width < 200 or "0.400 [0.350, 0.450]" in text
    assert width < 200 or AWKWARD in text


def test_rich_takes_no_markup_from_names() -> None:
    assert "[red]x[/nonsense]" in render([make_record(attack("clean"), 0.5, encoder="[red]x[/nonsense]")], "rich")


def test_tables_and_page_do_without_torch() -> None:
    modules = "robustprobe.report.tables.results, robustprobe.report.page.render"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tables_load_without_the_libraries_of_the_page() -> None:
    code = (
        "import sys, robustprobe.report.tables.results; print({'pyarrow', 'jinja2', 'PIL', 'rich'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def paper_records() -> list[Record]:
    """Two encoders under the paper's attacks, and what its tables have no column for."""
    own = [
        make_record(attack(name), v, dataset="cifar10") for name, v in (("clean", 0.9), ("embed", 0.3), ("pgd", 0.1))
    ]
    dense = [make_record(attack(n), 0.4, task="segmentation", encoder="b") for n in ("clean", "segpgd")]
    elsewhere = [
        make_record(attack("noise"), 0.8, dataset="cifar10"),
        make_record(attack("pgd", 4 / 255), 0.5, dataset="cifar10"),
        make_record(attack("pgd", objective="dlr"), 0.2, dataset="cifar10"),
        make_record(attack("pgd"), 0.4, task="segmentation", encoder="b"),
    ]
    return [*elsewhere, *own, *dense, make_record(attack("clean"), 0.7)]


def test_the_papers_layout_has_its_columns_and_any_encoder() -> None:
    lines = [line for line in render(paper_records(), "md", layout="paper").splitlines() if line.startswith("|")]
    assert lines[0] == "| dataset | encoder | clean | EmbedAttack | PGD |"
    assert lines[2] == (
        "| cifar10 | bundled:scenes | 0.900 [0.850, 0.950] | 0.300 [0.250, 0.350] | 0.100 [0.050, 0.150] |"
    )
    assert lines[3] == "| scenes | bundled:scenes | 0.700 [0.650, 0.750] | — | — |"
    assert lines[4] == "| dataset | encoder | clean | EmbedAttack | SegPGD |"
    assert lines[6] == "| scenes | b | 0.400 [0.350, 0.450] | — | 0.400 [0.350, 0.450] |"
    assert len(lines) == 7


@pytest.mark.parametrize("format", ["csv", "json"])
def test_the_papers_layout_for_programs_holds_the_same_cells(format: str) -> None:
    text = render(paper_records(), format, layout="paper")
    rows = json.loads(text) if format == "json" else list(csv.DictReader(io.StringIO(text)))
    assert [(r["dataset"], r["task"], r["attack"]) for r in rows] == [
        ("cifar10", "classification", "clean"),
        ("cifar10", "classification", "embed"),
        ("cifar10", "classification", "pgd"),
        ("scenes", "classification", "clean"),
        ("scenes", "segmentation", "clean"),
        ("scenes", "segmentation", "segpgd"),
    ]
    assert tuple(rows[0]) == KEYS


@pytest.mark.parametrize("format", ["rich", "md", "latex"])
def test_the_papers_layout_takes_one_of_several_records_and_says_so(format: str) -> None:
    longer = make_record(attack("pgd", steps=100), 0.05, dataset="cifar10")
    text = " ".join(render([longer, *paper_records()], format, layout="paper").split())
    assert "0.100 [0.050, 0.150]" in text
    assert "0.050 [0.000, 0.100]" not in text
    assert "bundled:scenes, cifar10, PGD: One of 2 records of this cell: 20 steps come first" in text


def test_the_papers_layout_without_its_attacks_is_empty_and_has_no_transfer() -> None:
    assert "No finished cells of the paper's attacks" in render(
        [make_record(attack("noise"), 0.5)], "md", layout="paper"
    )
    with pytest.raises(UserError, match="--transfer or --layout paper"):
        render(paper_records(), "md", transfer=True, layout="paper")
    with pytest.raises(UserError, match=r"unknown table layout 'papr'\. Did you mean 'paper'"):
        render(paper_records(), "json", layout="papr")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not here")
@pytest.mark.parametrize("layout", ["all", "paper"])
def test_latex_compiles_and_fits_the_page(records: list[Record], tmp_path: Path, layout: str) -> None:
    awkward = [make_record(attack("clean"), 0.9, encoder=r"a_b%c&d#e$f{g}~h^i\j<k|é", dataset="[x]")]
    ladder = [make_record(attack("pgd", k / 255), 0.5) for k in range(1, 20)]
    body = render([*records, *awkward, *ladder], "latex", transfer=layout == "all", layout=layout)
    head = "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{head}{body}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    tables = body.count(r"\begin{table}")
    assert tables >= 3
    assert not re.findall(r"Overfull .hbox .* at lines? \d+--\d+", done.stdout), "no table is wider than the text"


@pytest.mark.parametrize(
    ("task", "value", "name", "doubted"),
    [
        ("classification", 0.0, "still rising", False),
        ("segmentation", 0.0004, "black box", False),
        ("classification", 0.001, "still rising", True),
        ("classification", 0.0, "ball", True),
        ("classification", 0.0, "same answer twice", True),
        ("classification", 0.0, "plausible labels", True),
        ("depth", 0.0, "still rising", True),
    ],
)
def test_a_score_of_nothing_cannot_be_too_high(task: str, value: float, name: str, doubted: bool) -> None:
    failed = CheckFact(name=name, value=1.0, passed=False, meaning="it is so")
    record = make_record(attack("pgd"), value, task=task, checks=(failed,))
    assert bool(record.doubts) is doubted
    assert ("†" in Notes().value(record)) is doubted
    assert bool(failed_checks([record])) is doubted
    assert trusted(record) is not doubted


@pytest.mark.parametrize("names", [("fog",), ("fog", "gaussian_noise")])
def test_how_a_mean_over_corruptions_is_made_is_said_where_there_is_one(names: tuple[str, ...]) -> None:
    harms = [attack("corruption", 3.0, norm="severity", objective=name) for name in names]
    made = [make_record(attack("clean"), 0.9), *(make_record(harm, 0.5, target_task="") for harm in harms)]
    console = Console(width=80, record=True, file=io.StringIO())
    print_rich(made, False, console)
    shown = console.export_text()
    assert ("Mean of corruptions:" in shown) == (len(names) > 1)
    assert not re.search(r"no label\.\n\S", shown)


def test_attacks_of_the_same_numbers_with_the_same_finding_share_a_sentence() -> None:
    def doubtful(name: str, text: str, encoder: str = PLAIN) -> Record:
        fact = CheckFact(name="plausible labels", value=0.0, passed=False, meaning=text)
        return make_record(attack(name), 0.5, encoder=encoder, checks=[fact])

    same = [doubtful("clean", "odd labels"), doubtful("pgd", "odd labels")]
    other = [doubtful("pgd", "few labels"), doubtful("pgd", "odd labels", "other")]
    assert failed_checks(same) == [f"clean, pgd 8/255: odd labels ({PLAIN}, scenes, classification)."]
    found = failed_checks([*same, *other])
    assert len(found) == 3
    assert found[1].startswith("pgd 8/255: odd labels (")
    assert "other, scenes" in found[1]
    assert found[2] == f"pgd 8/255: few labels ({PLAIN}, scenes, classification)."
