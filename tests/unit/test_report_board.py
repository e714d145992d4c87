"""The matrix: what was kept, ranks that intervals allow, and rows that are not comparable."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustprobe.metrics.intervals import Estimate
from robustprobe.report.charts.curves import curve_figures
from robustprobe.report.charts.figures import eps_figures, label_free_figures
from robustprobe.report.charts.level_figures import heat_figures, pareto, trade_figures
from robustprobe.report.charts.series import MOST, series, shortened
from robustprobe.report.tables.board import Board, benchmark_key, board, boards
from robustprobe.report.tables.chance import chances
from robustprobe.report.tables.shares import Ranks, kept, mean_kept, ranks, share_text
from robustprobe.results.records import Interval, Record
from robustprobe.results.store import Store
from robustprobe.results.union import Found
from tests.unit.test_report_tables import OWN, PLAIN, attack, checkpoints_of, make_record, records_of

pytestmark = pytest.mark.unit


def interval(value: float, half: float) -> Interval:
    return Interval(value=value, ci_low=value - half, ci_high=value + half)


def test_scores_and_errors_keep_a_share_of_what_is_better_than_chance() -> None:
    exact = kept(interval(0.9, 0), interval(0.3, 0), 0.1, higher_is_better=True)
    assert exact == pytest.approx((0.25, 0.25, 0.25))
    assert kept(interval(1.0, 0), interval(4.0, 0), 5.0, higher_is_better=False) == pytest.approx((0.25, 0.25, 0.25))


def test_nothing_is_kept_below_chance_and_the_interval_says_how_much_may_be() -> None:
    share = kept(interval(1.0, 0), interval(5.5, 1.0), 5.0, higher_is_better=False)
    assert share == pytest.approx((0.0, 0.0, 0.125))
    assert kept(interval(0.9, 0), interval(0.02, 0.01), 0.1, higher_is_better=True) == pytest.approx((0.0, 0.0, 0.0))


def test_both_intervals_widen_what_was_kept() -> None:
    share = kept(interval(0.8, 0.1), interval(0.4, 0.1), 0.0, higher_is_better=True)
    assert share is not None
    assert share.ci_low == pytest.approx(0.5 - math.hypot(0.1 / 0.8, 0.5 - 0.4 / 0.9))
    assert share.ci_high == pytest.approx(0.5 + math.hypot(0.1 / 0.8, 0.4 / 0.7 - 0.5))


@pytest.mark.parametrize(("clean", "attacked"), [(0.0, 0.2), (math.nan, 0.2), (0.5, math.nan), (-1.0, 0.2)])
def test_a_share_that_does_not_exist_is_none(clean: float, attacked: float) -> None:
    assert kept(interval(clean, 0), interval(attacked, 0), 0.0, higher_is_better=True) is None


def test_a_clean_score_that_may_be_nothing_leaves_the_share_open() -> None:
    share = kept(interval(0.1, 0.2), interval(0.05, 0.05), 0.0, higher_is_better=True)
    assert share is not None
    assert share.ci_high == math.inf
    assert share_text(share) == "0\N{NO-BREAK SPACE}% or more"


@pytest.mark.parametrize(
    ("low", "value", "high", "said"),
    [
        (0.07, 0.4, 4.57, "7\N{NO-BREAK SPACE}% or more"),
        (0.6, 0.9, 1.61, "60\N{NO-BREAK SPACE}% or more"),
        (0.1, 0.4, 1.1, "40\N{NO-BREAK SPACE}% [10, 110]"),
        (0.0, 0.0, 0.03, "0\N{NO-BREAK SPACE}% [0, 3]"),
    ],
)
def test_an_interval_wider_than_all_there_is_to_keep_is_told_by_its_lower_end(
    low: float, value: float, high: float, said: str
) -> None:
    assert share_text(Estimate(value, low, high)) == said


def test_the_mean_of_shares_is_surer_than_each() -> None:
    mean = mean_kept([Estimate(0.2, 0.1, 0.4), Estimate(0.4, 0.3, 0.6)])
    assert mean.value == pytest.approx(0.3)
    assert mean.ci_low == pytest.approx(0.3 - math.sqrt(2) * 0.1 / 2)
    assert mean.ci_high == pytest.approx(0.3 + math.sqrt(2) * 0.2 / 2)


def test_places_are_as_wide_as_the_intervals_make_them() -> None:
    scores = [Estimate(0.9, 0.8, 1.0), Estimate(0.6, 0.5, 0.7), Estimate(0.55, 0.45, 0.65), Estimate(0.1, 0.0, 0.2)]
    assert ranks(scores) == [Ranks(1, 1), Ranks(2, 3), Ranks(2, 3), Ranks(4, 4)]
    assert [p.text for p in ranks(scores)] == ["1", "2–3", "2–3", "4"]


def found(*encoders: str) -> Board:
    return board([r for k, name in enumerate(encoders) for r in records_of(name, -0.02 * k)])


def test_the_board_has_a_bench_a_task_and_the_worst_attack_made_for_it() -> None:
    made = found(PLAIN)
    assert [(b.task, [c.label for c in b.columns]) for b in made.benchmarks] == [
        (task, ["clean", "noise", "embed", own]) for task, own in sorted(OWN.items())
    ]
    shares = [k.share.value for k in made.rows[0].benchmarks if k and k.share]
    assert shares == pytest.approx([0.4 / 0.9, (2 - 0.9) / (2 - 0.4), 0.1 / 0.6])
    assert made.rows[0].robust is not None
    assert made.rows[0].robust.value == pytest.approx(sum(shares) / 3)


def test_encoders_are_ranked_by_what_they_reach_of_the_best_clean_score() -> None:
    """One that is weak and keeps all of it is behind one that is good and loses a part."""
    able = [make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.45)]
    weak = [make_record(attack(name), 0.1, encoder="weak") for name in ("clean", "pgd")]
    made = board([*able, *weak])
    assert [row.encoder for row in made.ranked] == [PLAIN, "weak"]
    first, last = made.ranked
    assert first.robust == kept(interval(0.9, 0.05), interval(0.45, 0.05), 0.0, higher_is_better=True)
    assert last.robust == kept(interval(0.9, 0.05), interval(0.1, 0.05), 0.0, higher_is_better=True)
    assert [row.ranks for row in made.ranked] == [Ranks(1, 1), Ranks(2, 2)]


def test_errors_are_ranked_the_other_way_round() -> None:
    values = {PLAIN: (1.0, 4.0), "dull": (2.0, 2.5)}
    records = [
        make_record(attack(name), value, task="depth", encoder=encoder, chance=5.0)
        for encoder, both in values.items()
        for name, value in zip(("clean", "depthpgd"), both, strict=True)
    ]
    made = board(records)
    assert [(row.encoder, row.robust and row.robust.value) for row in made.ranked] == [("dull", 0.625), (PLAIN, 0.25)]


def test_incomplete_encoders_are_not_what_others_are_compared_with() -> None:
    best = [make_record(attack("clean"), 0.99, encoder="unattacked")]
    made = board([*records_of(PLAIN), *best])
    assert made.ranked[0].robust == board(records_of(PLAIN)).ranked[0].robust


def test_a_clean_score_of_nothing_is_not_ranked() -> None:
    nothing = [make_record(attack(name), 0.0, encoder="nothing") for name in ("clean", "pgd")]
    made = board([make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.2), *nothing])
    assert [(row.encoder, bool(row.ranks), bool(row.guesses)) for row in made.rows] == [
        (PLAIN, True, False),
        ("nothing", False, True),
    ]


def scored(name: str, clean: dict[str, float], attacked: dict[str, float]) -> list[Record]:
    return [
        make_record(attack(kind), values[task], task=task, encoder=name, chance=CHANCE[task])
        for task in clean
        for kind, values in (("clean", clean), (OWN[task], attacked))
    ]


CHANCE = {"classification": 0.12, "segmentation": 0.07, "depth": 1.16}
CONSTANT = {"classification": 0.11, "segmentation": 0.06, "depth": 1.17}
LUCKY = {"classification": 0.14, "segmentation": 0.09, "depth": 1.13}


def seeing(name: str, shift: float) -> list[Record]:
    clean = {"classification": 0.6 + shift, "segmentation": 0.4 + shift, "depth": 0.6 - shift}
    attacked = {"classification": 0.2 + shift, "segmentation": 0.2 + shift, "depth": 1.05 - shift}
    return scored(name, clean, attacked)


def only(task: str, records: list[Record]) -> list[Record]:
    return [r for r in records if task in ("", r.task)]


@pytest.mark.parametrize("task", ["", *CHANCE])
def test_an_encoder_that_sees_nothing_is_below_all_others_and_changes_no_rank(task: str) -> None:
    others = only(task, [*seeing("good", 0.1), *seeing("fair", 0.0)])
    before = [(row.encoder, row.robust, row.ranks) for row in board(others).ranked]
    assert [name for name, _, _ in before] == ["good", "fair"]
    joined = only(task, [*scored("constant", CONSTANT, CONSTANT), *scored("random", LUCKY, CONSTANT)])
    made = board([*others, *joined])
    assert [(row.encoder, row.robust, row.ranks) for row in made.ranked] == before
    assert [row.encoder for row in made.rows[2:]] == ["constant", "random"]
    for row in made.rows[2:]:
        assert len(row.guesses) == len(made.benchmarks)
        assert row.robust is not None
        assert row.robust.value < 0.1


@pytest.mark.parametrize("task", ["", *CHANCE])
def test_an_encoder_that_sees_nothing_is_not_ranked_when_alone(task: str) -> None:
    made = board(only(task, scored("constant", CONSTANT, CONSTANT)))
    assert (made.ranked, made.rows[0].robust) == ([], None)


def test_an_encoder_blind_for_one_task_gets_nothing_for_it() -> None:
    half = [*only("classification", seeing("half", 0.1)), *only("depth", scored("half", CONSTANT, CONSTANT))]
    rival = [r for r in seeing("good", 0.1) if r.task != "segmentation"]
    made = board([*half, *rival])
    assert [row.encoder for row in made.ranked] == ["good", "half"]
    assert made.ranked[1].guesses == ["depth on scenes"]
    first, last = (row.robust for row in made.ranked)
    assert first is not None
    assert last is not None
    assert last.value == pytest.approx((0.3 - 0.12) / (0.7 - 0.12) / 2)


def test_an_error_without_a_level_of_chance_has_no_share() -> None:
    records = [make_record(attack(n), v, task="depth", chance=None) for n, v in (("clean", 0.4), ("depthpgd", 0.9))]
    made = board(records)
    assert made.rows[0].missing == ["depth on scenes: the level of chance"]
    assert made.ranked == []


def test_attacked_below_a_constant_is_said() -> None:
    made = board(seeing("good", 0.1))
    benchmark = next(b for b in made.benchmarks if b.task == "depth")
    for value, worse in ((1.17, True), (1.15, False)):
        assert benchmark.is_worse_than_constant(make_record(attack("depthpgd"), value, task="depth")) == worse


def test_a_clean_score_whose_interval_reaches_chance_may_be_a_guess() -> None:
    records = [make_record(attack("clean"), 0.3), make_record(attack("pgd"), 0.25)]
    for chance, expected in ((0.24, []), (0.25, ["classification on scenes"])):
        assert board(records, {benchmark_key(records[0]): chance}).rows[0].guesses == expected


def test_an_outside_attack_is_ordered_and_drawn_by_what_it_could_see() -> None:
    blur = make_record(attack("my.py:Blur"), 0.8, access="nothing")
    mine = make_record(attack("a.py:Mine"), 0.3, access="encoder")
    records = [*records_of(PLAIN), blur, mine]
    columns = board(records).benchmarks[0].columns
    assert [c.label for c in columns] == ["clean", "my.py:Blur", "noise", "a.py:Mine", "embed", "pgd"]
    assert [c.key.is_control for c in columns] == [False, True, True, False, False, False]
    under = {row[1] for figure in label_free_figures(records, board(records)) for row in figure.rows}
    assert under == {"clean", "noise", "my.py:Blur", "a.py:Mine", "embed"}


def test_only_the_largest_eps_is_on_the_board() -> None:
    extra = [make_record(attack("pgd", e), 0.9 - e) for e in (2 / 255, 4 / 255)]
    made = board([*records_of(PLAIN), *extra])
    assert made.level_text == "eps 8/255 (linf)"
    assert len(made.benchmarks[0].columns) == 4


def test_there_is_a_board_for_each_eps_and_norm_with_ranks_of_its_own() -> None:
    values = {("a", 2): 0.5, ("a", 8): 0.1, ("b", 2): 0.3, ("b", 8): 0.2}
    records = [make_record(attack("pgd", k / 255), value, encoder=name) for (name, k), value in values.items()]
    records += [make_record(attack("clean"), 0.9, encoder=name) for name in "ab"]
    records += [make_record(attack("pgd", 0.5, norm="l2"), 0.4, encoder=name) for name in "ab"]
    made = boards(records)
    assert [one.level_text for one in made] == ["eps 8/255 (linf)", "eps 2/255 (linf)", "eps 0.5 (l2)"]
    assert [[row.encoder for row in one.ranked] for one in made] == [["b", "a"], ["a", "b"], ["a", "b"]]
    assert made[0] == board(records)
    assert [one.level for one in boards(records[-4:-2])] == [None]


def test_an_encoder_that_lacks_a_cell_is_not_ranked_and_told_why() -> None:
    partial = [r for r in records_of("partial", 0.3) if not (r.task == "depth" and r.attack.name == "depthpgd")]
    made = board([*records_of(PLAIN), *partial])
    assert [row.encoder for row in made.ranked] == [PLAIN]
    assert [(row.encoder, row.ranks, row.missing) for row in made.incomplete] == [
        ("partial", None, ["depth on scenes: depthpgd"])
    ]


def test_what_is_no_number_is_not_ranked() -> None:
    nothing = Interval(value=math.nan, ci_low=math.nan, ci_high=math.nan)
    broken = [
        r.model_copy(update={"metrics": {r.metric: nothing}}) if r.attack.name == "pgd" else r
        for r in records_of("broken")
    ]
    made = board([*records_of(PLAIN), *broken])
    assert [row.encoder for row in made.incomplete] == ["broken"]
    assert made.incomplete[0].missing == ["classification on scenes: a clean and an attacked score"]


def test_namesakes_of_other_weights_are_rows_of_their_own() -> None:
    other = [r.model_copy(update={"encoder_digest": "f" * 64}) for r in records_of(PLAIN)]
    made = board([*records_of(PLAIN), *other])
    assert len(made.rows) == 2
    assert len({row.encoder for row in made.rows}) == 2
    assert all(row.encoder.startswith(f"{PLAIN} (weights ") for row in made.rows)


def test_a_clean_score_is_one_column_whatever_the_seed() -> None:
    seeded = [
        make_record(attack("clean", seed=1), 0.5, encoder="seeded"),
        make_record(attack("pgd"), 0.1, encoder="seeded"),
    ]
    made = board([make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.2), *seeded])
    assert len(made.benchmarks[0].columns) == 2
    assert len(made.ranked) == 2


def test_attacks_of_other_steps_are_other_columns() -> None:
    long = [
        make_record(attack("clean"), 0.5, encoder="long"),
        make_record(attack("pgd", steps=99), 0.1, encoder="long"),
    ]
    made = board([make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.2), *long])
    assert [c.label for c in made.benchmarks[0].columns] == ["clean", "pgd (steps 20)", "pgd (steps 99)"]
    assert not made.ranked


def test_the_eps_figure_takes_the_worst_attack_at_each_eps() -> None:
    ladder = [make_record(attack(n, e), v) for n, e, v in (("pgd", 2 / 255, 0.7), ("pgd", 8 / 255, 0.2))]
    rival = make_record(attack("apgd", 8 / 255), 0.1, target_task="classification")
    records: list[Record] = [make_record(attack("clean"), 0.9), *ladder, rival]
    (figure,) = eps_figures(records, board(records, {benchmark_key(records[0]): 0.25}))
    assert [row[1:3] for row in figure.rows] == [["clean", "0/255"], ["pgd", "2/255"], ["apgd", "8/255"]]
    assert figure.rows[2][3] == "0.100 [0.050, 0.150]"
    assert "'chance': 0.25" in str(figure.draw().to_dict())


@pytest.mark.parametrize(("norm", "eps", "said"), [("l2", 1.0, "1"), ("l1", 2.0, "2"), ("l2", 0.5, "0.5")])
def test_an_eps_of_another_norm_is_not_told_in_grey_levels(norm: str, eps: float, said: str) -> None:
    records = [make_record(attack("clean"), 0.9), make_record(attack("pgd", eps, norm=norm), 0.2)]
    (figure,) = eps_figures(records, board(records))
    assert figure.words.endswith(f" at {said}.")
    assert f"pgd {said} {norm}: " in str(figure.draw().to_dict())
    assert "/255" not in figure.words.partition(" to ")[2] + str(figure.draw().to_dict())


def test_the_level_of_chance_is_that_of_the_commonest_class(tmp_path: Path) -> None:
    store = Store(tmp_path).prepare()
    records = [make_record(attack("clean"), 0.9, task=task) for task in OWN]
    rows: list[dict[str, Any]] = [
        {"label": [0, 1, 1, 2], "correct": [True] * 4},
        {"labelled": np.array([[6, 2, 0], [0, 2, 0]]), "intersection": np.zeros((2, 3))},
        {"rmse": [1.0]},
    ]
    records = [record.model_copy(update={"chance": None}) for record in records]
    for record, columns in zip(records, rows, strict=True):
        store.write_rows(record.fingerprint, columns)
    levels = chances([Found(record, store) for record in records])
    assert levels == {benchmark_key(records[0]): 0.5, benchmark_key(records[1]): pytest.approx(0.6 / 2)}


def test_the_level_of_chance_is_the_record_s_where_it_has_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    records = [record.model_copy(update={"chance": None}) for record in records_of(PLAIN)]
    assert chances([Found(record, store) for record in records]) == {}
    told = [record.model_copy(update={"chance": 0.25}) for record in records]
    assert set(chances([Found(record, store) for record in told]).values()) == {0.25}
    assert len(chances([Found(record, store) for record in told])) == len({r.task for r in told})


def test_the_level_of_chance_is_not_that_of_the_pixels_beside_a_patch(tmp_path: Path) -> None:
    whole = make_record(attack("clean"), 0.9, task="segmentation", chance=0.25)
    patch = make_record(attack("patch", 0.05, norm="area"), 0.3, task="segmentation", chance=0.5)
    for order in ((whole, patch), (patch, whole)):
        assert chances([Found(record, Store(tmp_path)) for record in order]) == {benchmark_key(whole): 0.25}


def test_the_same_eps_on_pixels_as_stored_is_another_row() -> None:
    served = [make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.1)]
    native = [
        make_record(attack(name), value, attack_at="native", fingerprint=name)
        for name, value in (("clean", 0.9), ("pgd", 0.6))
    ]
    made = board([*served, *native])
    assert {row.encoder: row.robust and round(row.robust.value, 3) for row in made.rows} == {
        f"{PLAIN} (attacked at served size)": 0.111,
        f"{PLAIN} (attacked at native size)": 0.667,
    }


def test_the_heat_map_prints_the_share_that_was_left() -> None:
    figures = heat_figures(found(PLAIN, "other"))
    assert [f.title.split()[0] for f in figures] == ["Classification", "Depth", "Segmentation"]
    assert figures[0].headings == ["encoder", "noise", "embed", "pgd"]
    assert figures[0].rows[0][0] == PLAIN
    assert figures[0].rows[0][3].startswith("44\N{NO-BREAK SPACE}% [")


def test_the_front_holds_what_nothing_is_better_than_in_both() -> None:
    assert pareto([(0.9, 0.1), (0.5, 0.5), (0.4, 0.4), (0.3, 0.6)], True) == [3, 1, 0]
    assert pareto([(1.0, 3.0), (2.0, 2.0), (2.0, 4.0)], False) == [0, 1]


def test_arrows_lead_from_the_teacher_that_the_card_names() -> None:
    taught = [r.model_copy(update={"encoder_teacher": PLAIN}) for r in records_of("robust")]
    figures = trade_figures(board([*records_of(PLAIN), *taught, *records_of("other")]))
    assert f"Arrows from {PLAIN} to robust." in figures[0].words


@pytest.mark.parametrize("teacher", ["", "elsewhere", f"{PLAIN}-deacl"])
def test_a_name_that_continues_another_one_is_no_arrow(teacher: str) -> None:
    own = [r.model_copy(update={"encoder_teacher": teacher}) for r in records_of(f"{PLAIN}-deacl")]
    assert "Arrows" not in trade_figures(board([*records_of(PLAIN), *own]))[0].words


def test_encoders_of_one_colour_differ_in_marker_and_dash() -> None:
    made = series([f"encoder-{k}" for k in range(MOST)])
    assert len({(s.paint, s.shape) for s in made}) == len({(s.paint, s.dash) for s in made}) == MOST


@pytest.mark.parametrize("name", ["file:dino_epoch{}.pth?arch=vit", "photos-deacl/epoch-{}"])
def test_an_epoch_in_a_name_is_no_epoch_of_hardening(name: str) -> None:
    records = [r for epoch in (99, 100) for r in records_of(name.format(epoch))]
    assert curve_figures(records, board(records)) == []


def test_curves_need_two_epochs_of_one_run() -> None:
    one = checkpoints_of("a", 1)
    assert curve_figures(one, board(one)) == []
    apart = [*one, *checkpoints_of("b", 2, run="s" * 16)]
    assert curve_figures(apart, board(apart)) == []
    two = [*apart, *checkpoints_of("c", 2)]
    figures = curve_figures(two, board(two))
    assert len(figures) == 3
    assert figures[0].rows[0] == ["clean", "1", "0.900 [0.850, 0.950]"]
    paints = [json.dumps(figure.draw().to_dict()["layer"][1]["encoding"]["color"]["scale"]) for figure in figures]
    assert len(set(paints)) == 1, "a line has one colour in all charts"
    lines = {row[0] for figure in figures for row in figure.rows}
    assert json.loads(paints[0])["domain"] == ["clean", *sorted(lines - {"clean"})]
    assert len(set(json.loads(paints[0])["range"])) == len(lines)


def test_runs_of_one_method_are_lines_of_their_own() -> None:
    runs = [("a", 1, "r" * 16), ("b", 2, "r" * 16), ("c", 1, "s" * 16), ("d", 2, "s" * 16)]
    records = [r for name, epoch, run in runs for r in checkpoints_of(name, epoch, run=run)]
    lines = {row[0] for row in curve_figures(records, board(records))[0].rows if row[0].startswith("clean")}
    assert lines == {f"clean, deacl from {PLAIN} (run {letter * 8})" for letter in "rs"}


def test_charts_are_what_vega_lite_takes() -> None:
    """Checked here, against its schema, since it is not when they are drawn."""
    records = [*records_of(PLAIN), *checkpoints_of("a", 1), *checkpoints_of("b", 2)]
    made = board(records, {benchmark_key(r): 0.1 for r in records if r.task != "depth"})
    figures = [*eps_figures(records, made), *heat_figures(made), *trade_figures(made), *curve_figures(records, made)]
    assert {figure.kind for figure in figures} == {"eps", "heatmap", "pareto", "curve"}
    for figure in figures:
        assert figure.draw(legend=True).to_dict(validate=True)


def test_long_names_are_shortened_and_stay_apart() -> None:
    long = [f"timm:{'x' * 80}-{end}" for end in ("a", "b")] + [
        "timm:" + "y" * 60 + middle + "z" * 60 for middle in "12"
    ]
    shorts = [s.short for s in series(long)]
    assert len(set(shorts)) == 4
    assert all(len(short) <= 30 for short in shorts)
    assert shortened("short") == "short"


def test_encoders_that_prefer_other_sizes_are_ranked_on_the_same_images() -> None:
    made = [
        make_record(attack(name), value, encoder=encoder, dataset_digest=digest, image_size=size, dataset_content="c")
        for encoder, digest, size in (("small", "a", (64, 64)), ("large", "b", (224, 224)))
        for name, value in (("clean", 0.9), ("pgd", 0.4))
    ]
    found = board(made, {benchmark_key(made[0]): 0.1})
    assert len(found.benchmarks) == 1
    assert [row.encoder for row in found.ranked] == ["large", "small"]
    assert found.benchmarks[0].dataset == "scenes"
    other = [r.model_copy(update={"dataset_content": r.encoder}) for r in made]
    assert len(board(other).benchmarks) == 2


@pytest.mark.parametrize(("task", "value", "chance"), [("classification", 0.1, 0.63), ("depth", 1.0, 7.3)])
def test_the_level_of_chance_is_within_the_axis_also_above_every_score(task: str, value: float, chance: float) -> None:
    records = [make_record(attack(name), value, task=task, chance=chance) for name in ("clean", OWN[task])]
    made = board(records, {benchmark_key(records[0]): chance})
    (figure,) = eps_figures(records, made)
    for layer in figure.draw(legend=False).to_dict()["layer"]:
        if "value" in json.dumps(layer["encoding"].get("y", {})):
            assert layer["encoding"]["y"]["scale"]["domain"][1] > chance
