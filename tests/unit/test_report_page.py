"""The page: complete, self-contained, escaped, and right to the pixel, from a store made by hand."""

import base64
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from robustprobe.core.errors import UserError
from robustprobe.core.former_names import FORMER_DISPLAYS
from robustprobe.core.pictures import (
    Scale,
    amplified,
    class_colours,
    difference,
    mask_uri,
    overlay,
    png_uri,
    scalar_uri,
    viridis,
)
from robustprobe.core.spec import Display
from robustprobe.report.page.checks import checks
from robustprobe.report.page.cost import cost_table
from robustprobe.report.page.examples import ImageLimit
from robustprobe.report.page.headline import headline
from robustprobe.report.page.render import render_page, write_page
from robustprobe.report.page.viewer import image_iou
from robustprobe.report.tables.board import benchmark_key, board
from robustprobe.results.example_images import RANDOM, Example, ExampleChoice, Group
from robustprobe.results.records import CheckFact, HeadFacts, Interval, Record
from robustprobe.results.store import Store
from tests.unit.test_report_tables import AWKWARD, LINED, OWN, PLAIN, attack, checkpoints_of, make_record, records_of

SIZE = 6
SHAPES = ["box", "cone", "<b>ball</b>"]
SURFACES = ["floor", "wall", *SHAPES]
VOID = {"meta", "link", "img", "wbr", "rect", "input"}


class Tag(NamedTuple):
    """An element as it begins."""

    name: str
    attributes: dict[str, str]


class Reader(HTMLParser):
    """Collects elements, checks that they close in order, and keeps the text of headings and of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[Tag] = []
        self.open: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(Tag(tag, {name: value or "" for name, value in attrs}))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(Tag(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, text = self.headings.pop()
            self.headings.append((level, text + data))
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, name: str) -> list[Tag]:
        return [tag for tag in self.tags if tag.name == name]


def read(page: Path) -> Reader:
    return read_text(page.read_text())


def read_text(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def clean_image() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(20, 236, (SIZE, SIZE, 3)).astype(np.uint8)


def delta_of(name: str) -> np.ndarray[Any, np.dtype[np.int16]]:
    """What an attack of the tests adds, in grey levels; its largest change is 7."""
    seed = sum(name.encode())
    delta = np.random.default_rng(seed).integers(-7, 8, (SIZE, SIZE, 3)).astype(np.int16)
    delta[0, 0, 0] = -7
    return delta if name != "clean" else np.zeros_like(delta)


def add_group(store: Store, record: Record) -> None:
    """One example image of a record's group, with every head's prediction and the truth."""
    name, group = record.attack.name, record.group
    position, mask = 3, np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) % len(SURFACES)
    depth = np.linspace(1000, 5000 if name == "clean" else 8000, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    store.write_image(group, f"{position}.png", (clean_image() + delta_of(name)).astype(np.uint8))
    store.write_image(group, "mask.png", mask if name == "clean" else mask[::-1].copy())
    store.write_image(group, "depth.png", depth)
    if name == "clean":
        truth, metres = mask.copy(), depth.copy()
        truth[0], metres[0] = 255, 0
        store.write_image(group, "mask-truth.png", truth)
        store.write_image(group, "depth-truth.png", metres)
    guesses = [["<b>ball</b>", 0.7], ["box", 0.2]] if name == "clean" else [["box", 0.9], ["cone", 0.1]]
    example = Example(
        id="test-<i>7</i>",
        position=position,
        predictions={"classification": guesses, "segmentation": "mask.png", "depth": "depth.png"},
        truth={"classification": "<b>ball</b>", "segmentation": "mask-truth.png", "depth": "depth-truth.png"},
    )
    store.write_group(
        Group(
            group=group,
            encoder=record.encoder,
            dataset=record.dataset,
            attack=record.attack,
            target_task=record.target_task,
            classes={"classification": SHAPES, "segmentation": SURFACES},
            displays={task: Display(**known) for task, known in FORMER_DISPLAYS.items()},  # type: ignore[arg-type]
            examples=[example],
        )
    )


def add_choices(store: Store, chosen: list[tuple[str, tuple[ExampleChoice, ...]]]) -> None:
    """Copies of the one example of each group under other names, with why each was chosen."""
    for group in store.groups():
        (own,) = group.examples
        more = [own.model_copy(update={"id": name, "chosen": why}) for name, why in chosen]
        store.write_group(group.model_copy(update={"examples": [*more, own]}))


DAMAGED = ExampleChoice(kind="most damaged", task="depth", attack=attack("depthpgd"), encoder=PLAIN)
SURVIVED = ExampleChoice(kind="survived", task="depth", attack=attack("depthpgd"), encoder=PLAIN)


def fill(store: Store, records: list[Record], examples: bool = True) -> Store:
    store.prepare()
    for record in records:
        store.write_record(record)
    for record in {r.group: r for r in records}.values():
        if examples:
            add_group(store, record)
    return store


def make_store(folder: Path) -> Store:
    records = [*records_of(AWKWARD, -0.01), *records_of(PLAIN), make_record(attack("clean"), 0.5, dataset=LINED)]
    return fill(Store(folder), records)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "results")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Read by many tests and changed by none: charts take a second."""
    folder = tmp_path_factory.mktemp("page")
    return read(write_page(make_store(folder / "results").folder, folder / "page.html"))


def decoded(uri: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(body, validate=True))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def pictures(page: Reader, words: str) -> list[Tag]:
    return [image for image in page.all("img") if words in image.attributes["alt"]]


def test_the_page_loads_nothing(page: Reader) -> None:
    for tag in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert tag.attributes.get(name, "#").startswith(("#", "data:")), tag
    assert not {t.name for t in page.tags} & {"iframe", "object", "embed", "base", "form"}
    policy = next(t.attributes["content"] for t in page.all("meta") if t.attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_style_and_script_load_nothing(store: Store, tmp_path: Path) -> None:
    text = write_page(store.folder, tmp_path / "page.html").read_text()
    inlined = "".join(re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", text, flags=re.S))
    assert len(inlined) > 1000
    for loader in (
        "http:",
        "https:",
        "url(",
        "@import",
        "@font-face",
        "fetch(",
        "XMLHttpRequest",
        "Storage",
        "import(",
    ):
        assert loader not in inlined


def test_every_image_is_png_with_a_text_alternative(page: Reader) -> None:
    images = page.all("img")
    assert len(images) > 40
    for image in images:
        decoded(image.attributes["src"])
        assert "alt" in image.attributes
    assert len([i for i in images if not i.attributes["alt"]]) == 2, "only thumbnails beside their names are decoration"


def test_headings_are_in_order_and_language_is_set(page: Reader) -> None:
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(text.strip() for _, text in page.headings)
    assert page.all("html")[0].attributes["lang"] == "en"


def test_names_are_escaped_everywhere(store: Store, tmp_path: Path) -> None:
    text = write_page(store.folder, tmp_path / "page.html").read_text()
    assert text.count("<script>") == 2
    assert "<script>alert" not in text
    assert "<b>ball" not in text
    assert "<i>7" not in text
    reader = read(tmp_path / "page.html")
    assert len(reader.all("script")) == 2, "the page's own"
    assert not [t for t in reader.tags if any(name.startswith("on") for name in t.attributes)]
    assert AWKWARD in reader.text
    assert "test-<i>7</i>" in reader.text
    assert "<b>ball</b>" in reader.text


def test_the_headline_names_numbers_intervals_and_the_weakest_task(page: Reader) -> None:
    words = " ".join(page.text.split())
    assert page.headings[0][1] == "How robust are two encoders for three tasks?"
    assert (
        "Classification on scenes, top-1: 0.900 [0.850, 0.950] on clean images, 0.400 [0.350, 0.450] under pgd 8/255."
        in words
    )
    assert (
        "Depth on scenes, RMSE: 0.400 m [0.350, 0.450] on clean images, 0.900 m [0.850, 0.950] under depthpgd 8/255."
        in words
    )
    assert "Weakest: segmentation." in words
    assert "upper bound on robustness" in words
    assert "no task-specific attack was measured" in words, "the dataset that was only measured clean"


def test_what_was_done_is_stated_at_the_top(page: Reader) -> None:
    top = page.text[: page.text.index("In short")]
    for fact in ("eps 8/255 (linf); 20 steps", "200", "2026-11-20", "8 of 255 grey levels"):
        assert fact in top


def test_the_strongest_attack_at_the_largest_eps_counts() -> None:
    weak, strong = attack("pgd", 2 / 255), attack("pgd", 8 / 255)
    other = make_record(attack("apgd", 8 / 255), 0.1, target_task="classification")
    made = [make_record(attack("clean"), 0.8), make_record(weak, 0.05), make_record(strong, 0.4), other]
    finding = headline(made, board(made)).portraits[0].findings[0]
    assert finding.attack == "apgd 8/255"
    assert finding.robust == pytest.approx(0.125)


@pytest.mark.parametrize("values", [(0.05, 0.4), (0.4, 0.05)])
@pytest.mark.parametrize("turned", [False, True])
def test_of_several_norms_the_headline_is_that_of_the_ranking(values: tuple[float, float], turned: bool) -> None:
    of_l2 = make_record(attack("pgd", 0.5, norm="l2"), values[0])
    made = [make_record(attack("clean"), 0.8), of_l2, make_record(attack("pgd"), values[1])]
    made = made[::-1] if turned else made
    finding = headline(made, board(made)).portraits[0].findings[0]
    assert finding.attack == "pgd 8/255"
    assert finding.attacked is not None
    assert finding.attacked.value == f"{values[1]:.3f}"


@pytest.mark.parametrize("turned", [False, True])
def test_an_attack_without_a_number_hides_no_other(turned: bool) -> None:
    clean, pgd = make_record(attack("clean"), 0.8), make_record(attack("pgd"), 0.4)
    nothing = make_record(attack("apgd"), math.nan, target_task="classification")
    made = [clean, nothing, pgd] if turned else [clean, pgd, nothing]
    assert headline(made, board(made)).portraits[0].findings[0].attack == "pgd 8/255"


@pytest.mark.parametrize("names", [("fast", "standard"), ("standard", "fast")])
def test_heads_of_two_recipes_are_told_apart_as_the_ranking_does(names: tuple[str, str]) -> None:
    made = [
        make_record(attack(name), value, head=HeadFacts(
            fingerprint=f"head of {recipe}", recipe={"recipe": recipe}, learning_rate=1e-3, held_out_score=0.9,
            train_images=800,
        ), fingerprint=f"{recipe}{name}")
        for recipe in names
        for name, value in (("clean", 0.9), ("pgd", 0.3))
    ]  # fmt: skip
    portraits = headline(made, board(made)).portraits
    assert {one.encoder for one in portraits} == {f"{PLAIN} (recipe {name})" for name in names}
    assert all(one.robust.startswith("robust: 33") for one in portraits)


def test_of_heads_that_only_their_content_tells_apart_the_later_count() -> None:
    def with_head(name: str, day: int, value: float) -> list[Record]:
        facts = HeadFacts(
            fingerprint=name, recipe={"recipe": "fast"}, learning_rate=1e-3, held_out_score=0.9, train_images=day
        )
        return [
            record.model_copy(
                update={"provenance": record.provenance.model_copy(update={"started": f"2026-11-{day}T10:00:00+00:00"})}
            )
            for kind, score in (("clean", 0.9), ("pgd", value))
            for record in [make_record(attack(kind), score, head=facts, fingerprint=f"{name}{kind}")]
        ]

    made = [*with_head("new", 21, 0.4), *with_head("old", 20, 0.1)]
    (portrait,) = headline(made, board(made)).portraits
    assert [finding.attacked.value for finding in portrait.findings if finding.attacked] == ["0.400"]


def test_a_doubtful_number_is_marked_under_transfer_between_encoders_too() -> None:
    doubt = CheckFact(name="still rising", value=0.5, passed=False, meaning="more steps would find more")
    made = [make_record(attack(name), 0.8, encoder=encoder) for name in ("clean", "pgd") for encoder in ("a", "b")]
    made.append(make_record(attack("pgd"), 0.5, encoder="b", source_encoder="a", checks=(doubt,), fingerprint="moved"))
    page = read_text(render_page(made))
    section = page.text.partition("Images are made on the encoder of the row")[2].partition("Attacked images")[0]
    assert "0.500† failed sanity check: more steps would find more" in section


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_an_l2_or_l1_ball_is_not_told_in_grey_levels(norm: str) -> None:
    made = [make_record(attack("clean"), 0.8), make_record(attack("pgd", 0.5, norm=norm), 0.2)]
    lead = headline(made, board(made)).lead
    assert lead == (
        f"{PLAIN} reaches 25\N{NO-BREAK SPACE}% [19, 31] of its clean score above chance under attack at "
        f"eps 0.5 ({norm}) for classification. Eps is the {norm.upper()} norm of all changes to an image: at most 0.5."
    )


def test_the_marks_of_the_table_are_on_the_cards_too() -> None:
    doubt = CheckFact(name="black box", value=0.1, passed=False, meaning="square is stronger")
    attacked = make_record(attack("pgd"), 0.2).model_copy(update={"checks": (doubt,)})
    made = [make_record(attack("clean"), 0.8), attacked]
    finding = headline(made, board(made)).portraits[0].findings[0]
    assert [one and one.failed for one in (finding.clean, finding.attacked)] == ["", "square is stronger"]
    cards = render_page(made).partition('class="portraits"')[2].partition("</div>")[0]
    assert cards.count("†") == 1


@pytest.mark.parametrize(
    ("scores", "weakest"),
    [
        ({"classification": 0.0, "segmentation": 0.02}, ["classification", "segmentation"]),
        ({"classification": 0.0, "segmentation": 0.4}, ["classification"]),
        ({"classification": 0.4, "segmentation": 0.0}, ["segmentation"]),
    ],
)
def test_tasks_with_equal_percentages_are_equally_weak(scores: dict[str, float], weakest: list[str]) -> None:
    """Below chance everything counts as nothing, whatever the score."""
    values = {**scores, "depth": 1.0}
    made = [
        make_record(attack(name), value, task=task, chance={"depth": 5.0}.get(task, 0.1))
        for task, attacked in values.items()
        for name, value in (("clean", 0.8), (OWN[task], attacked))
    ]
    found = headline(made, board(made))
    assert found.portraits[0].weakest == f"Weakest: {' and '.join(weakest)}."
    assert f"weakest: {' and '.join(weakest)}." in found.lead
    alike = [r for r in made if r.task in weakest]
    assert headline(alike, board(alike)).portraits[0].weakest == ""


def test_a_page_has_one_percentage_and_defines_it_once(page: Reader) -> None:
    words = " ".join(page.text.split())
    assert len(re.findall(r"best clean score of the encoders compared − chance", words)) == 1
    assert not re.search(r"\bkept?\b|\bkeeps\b|of the clean score above chance", words.partition("Attacked images")[0])


def test_the_matrix_is_there_for_every_eps_and_the_largest_is_shown_first() -> None:
    records = [make_record(attack("clean"), 0.8), *(make_record(attack("pgd", k / 255), 0.5) for k in (2, 8))]
    page = read_text(render_page(records))
    radios = [one.attributes for one in page.all("input") if one.attributes.get("type") == "radio"]
    assert ["checked" in one for one in radios] == [True, False]
    assert re.findall(r"Encoders by tasks and attacks at (eps \S+)", page.text) == ["eps 8/255", "eps 2/255"]


def test_charts_of_one_eps_name_it(page: Reader) -> None:
    titles = re.findall(r"on scenes, eps 8/255 \(linf\)", page.text)
    assert len(titles) >= 6


@pytest.mark.parametrize(
    ("error", "robust", "constant"), [(2.0, 0.25, ""), (2.75, 0.0, "worse than a constant answer: 2.500 m")]
)
def test_an_error_is_counted_from_that_of_a_constant(error: float, robust: float, constant: str) -> None:
    values = (("clean", 0.5), ("depthpgd", error))
    made = [make_record(attack(n), v, task="depth", chance=2.5) for n, v in values]
    finding = headline(made, board(made)).portraits[0].findings[0]
    assert finding.robust == pytest.approx(robust)
    assert finding.large_print is not None
    assert finding.large_print == (f"{100 * robust:.0f}\N{NO-BREAK SPACE}%", "robust")
    assert finding.constant == constant


def test_a_clean_score_that_may_be_a_guess_is_said_and_not_boasted_of() -> None:
    made = [make_record(attack("clean"), 0.22), make_record(attack("pgd"), 0.2)]
    alone = headline(made, board(made, {benchmark_key(made[0]): 0.2}))
    assert "22 %" not in alone.lead.replace("\N{NO-BREAK SPACE}", " ")
    assert f"{PLAIN} is not better than chance on clean images for classification on scenes." in alone.lead
    (finding,) = alone.portraits[0].findings
    assert finding.robust is None
    assert finding.large_print == ("chance", "when clean")
    able = [make_record(attack("clean"), 0.9, encoder="able"), make_record(attack("pgd"), 0.45, encoder="able")]
    several = headline([*made, *able], board([*made, *able], {benchmark_key(made[0]): 0.2}))
    assert several.lead.startswith("able reaches ")
    assert f"{PLAIN} is not ranked: at chance on clean images for every task." in several.lead
    assert [p.robust.partition("; ")[2] for p in several.portraits] == [
        "",
        "not better than chance on clean images for classification on scenes",
    ]


@pytest.mark.parametrize(("better", "words"), [(0.1, "no more than any other of two"), (0.5, "the highest of two")])
def test_of_encoders_that_keep_equally_little_none_is_the_highest(better: float, words: str) -> None:
    scores = {"one": better, "other": 0.15}
    made = [make_record(attack("clean"), 0.9, encoder=name) for name in scores]
    made += [make_record(attack("pgd"), value, encoder=name) for name, value in scores.items()]
    assert f"{words} encoders" in headline(made, board(made, {benchmark_key(made[0]): 0.2})).lead


def made_of(name: str, value: float, half: float, failed: tuple[str, ...] = (), **other: Any) -> Record:
    checks = [CheckFact(name=check, value=1.0, passed=False, meaning="it says little") for check in failed]
    metrics = {"top-1": Interval(value=value, ci_low=value - half, ci_high=value + half)}
    return make_record(attack(name), value, metrics=metrics, checks=checks, chance=0.2, **other)


@pytest.mark.parametrize(
    ("half", "failed", "words"),
    [
        (0.05, (), ""),
        (0.05, ("gradient",), "The share rests on numbers that failed sanity checks (gradient)."),
        (0.29, (), "The share has an interval that leaves it open (take more images)."),
        (
            *(0.29, ("zero gradient", "transfer")),
            "The share rests on numbers that failed sanity checks (zero gradient and transfer) and has an interval "
            "that leaves it open (take more images).",
        ),
    ],
)
def test_what_speaks_against_a_share_is_said_beside_it(half: float, failed: tuple[str, ...], words: str) -> None:
    made = [made_of("clean", 0.5, half), made_of("pgd", 0.5, half, failed)]
    lead = headline(made, board(made)).lead
    assert words in lead
    assert ("The share" in lead) == bool(words)
    both = [*made, *(made_of(name, 0.9, 0.01, encoder="sure") for name in ("clean", "pgd"))]
    lead = headline(both, board(both)).lead
    assert (f"The share of {PLAIN} " in lead) == bool(failed), "of the best clean score the interval is narrower"
    assert "The share of sure " not in lead


@pytest.mark.parametrize(("failed", "said"), [("second restart", False), ("gradient", False), ("ball", True)])
def test_a_share_of_nothing_cannot_be_too_high(failed: str, said: bool) -> None:
    # Below the level of chance, 0.2, so that nothing is left; the score itself is not 0.
    made = [made_of("clean", 0.5, 0.05), made_of("pgd", 0.1, 0.01, (failed,))]
    assert made[1].doubts
    assert ("failed sanity checks" in headline(made, board(made)).lead) is said


def test_one_encoder_with_two_kinds_of_heads_is_one_encoder_everywhere() -> None:
    plain = [make_record(attack(name), value) for name, value in (("clean", 0.9), ("pgd", 0.3))]
    other = HeadFacts(
        fingerprint="other", recipe={"recipe": "standard", "kind": "mlp"}, learning_rate=1e-3, held_out_score=0.9,
        train_images=800,
    )  # fmt: skip
    deep = [
        make_record(attack(name), value, head=other, fingerprint=name) for name, value in (("clean", 0.9), ("pgd", 0.5))
    ]
    found = headline([*plain, *deep], board([*plain, *deep]))
    assert found.title == "How robust are two settings of one encoder for classification?"
    assert "the highest of two settings of one encoder; " in found.lead
    assert dict(found.facts)["Encoders"] == "1"
    assert "two encoders" not in found.title + found.lead
    third = [make_record(attack(name), 0.2, encoder="third") for name in ("clean", "pgd")]
    three = headline([*plain, *deep, *third], board([*plain, *deep, *third]))
    assert three.title == "How robust are three settings of two encoders for classification?"
    assert dict(three.facts)["Encoders"] == "2"


@pytest.mark.parametrize("other", ["embed", "noise", "corruption:fog"])
def test_a_clean_score_at_chance_is_said_where_no_task_was_attacked(other: str) -> None:
    name, _, objective = other.partition(":")
    harm = attack(name, 3.0, norm="severity", objective=objective) if objective else attack(name)
    said = []
    for chance in (0.2, 0.01):
        made = [
            make_record(spec, value, target_task="", chance=chance)
            for spec, value in ((attack("clean"), 0.22), (harm, 0.2))
        ]
        said.append(headline(made, board(made)).lead)
    assert said[0] == f"{PLAIN} is not better than chance on clean images for classification on scenes."
    assert "not better than chance" not in said[1]


def test_the_answer_that_chance_stands_for_is_named_by_the_task() -> None:
    made = [
        make_record(attack(n), v, chance=0.2, chance_answer="a random ranking")
        for n, v in (("clean", 0.9), ("pgd", 0.1))
    ]
    (finding,) = headline(made, board(made)).portraits[0].findings
    assert finding.constant == "worse than a random ranking: 0.200"


def test_a_task_at_chance_beside_a_task_that_is_not_is_said_in_the_first_sentences() -> None:
    depth = [make_record(attack(n), v, task="depth", chance=1.0) for n, v in (("clean", 1.0), ("depthpgd", 1.4))]
    other = [make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.45)]
    made = [*depth, *other]
    found = headline(made, board(made, {benchmark_key(other[0]): 0.2}))
    assert " for classification" in found.lead.partition(".")[0]
    assert f" {PLAIN} is not better than chance on clean images for depth on scenes." in found.lead
    assert "chance on clean" not in headline(other, board(other, {benchmark_key(other[0]): 0.2})).lead


def test_scores_are_tables_with_scopes(page: Reader) -> None:
    tables = [t for t in page.all("table") if t.attributes.get("class") == "scores"]
    assert len(tables) == 3, "one a task"
    crossed = [t for t in page.all("table") if "transfer" in t.attributes.get("class", "")]
    assert len(crossed) == 2, "one an encoder on the dataset that several tasks judged"
    scopes = {t.attributes.get("scope") for t in page.all("th")}
    assert scopes == {"col", "row", "rowgroup", "colgroup"}
    assert "0.600" in page.text
    assert "[0.350, 0.450]" in page.text
    assert page.text.count("not measured") > 3


def test_the_change_can_be_computed_from_the_two_pictures(page: Reader) -> None:
    """The browser subtracts them; tests/browser looks at what it makes of that."""
    clean = {decoded(t.attributes["src"]).tobytes() for t in pictures(page, "clean: the image")}
    assert clean == {clean_image().tobytes()}
    attacked = pictures(page, "segpgd 8/255: the attacked image")
    assert len(attacked) == 2, "one an encoder"
    for picture in attacked:
        delta = decoded(picture.attributes["src"]).astype(int) - clean_image()
        assert np.array_equal(delta, delta_of("segpgd"))
    assert page.text.count("largest change 7 of 255 grey levels") == 2 * 5


def test_images_are_shown_as_they_were_stored(page: Reader) -> None:
    shown = [decoded(i.attributes["src"]) for i in pictures(page, "pgd 8/255: the attacked image")]
    expected = [(clean_image() + delta_of(name)).astype(np.uint8) for name in ("pgd", "segpgd", "depthpgd")]
    assert len(shown) == 2 * 3
    assert all(any(np.array_equal(s, e) for e in expected) for s in shown)
    assert len(pictures(page, "clean: the image")) == 3, "two encoders on scenes, one on the other dataset"


def test_the_viewer_says_what_each_head_said(page: Reader) -> None:
    words = " ".join(page.text.split())
    assert "✓ <b>ball</b> (the true class) 0.70" in words
    assert "<b>ball</b> is not among these" in words
    assert "IoU 1.00" in words
    assert re.search(r"IoU 0\.\d\d, \d+\s% of pixels changed", words)
    assert "RMSE 0.00 m" in words
    assert "1 drawn at random, of 1 stored images of scenes" in words
    assert "Other images may be damaged more" in words
    legend = [t for t in page.all("ul") if t.attributes.get("class") == "legend"]
    assert len(legend) == 3


def test_depths_of_an_image_share_one_scale(page: Reader) -> None:
    maps = {t.attributes["alt"]: decoded(t.attributes["src"]) for t in pictures(page, "scenes test-<i>7</i>")}
    clean = next(m for alt, m in maps.items() if "clean: predicted depth, 1.0 m to 5.0 m" in alt)
    attacked = next(m for alt, m in maps.items() if "embed 8/255: predicted depth, 1.0 m to 8.0 m" in alt)
    truth = next(m for alt, m in maps.items() if "true depth" in alt)
    ends = viridis(np.array([0.0, 4 / 7, 1.0]))
    assert np.array_equal(attacked[0, 0], ends[0])
    assert np.array_equal(attacked[-1, -1], ends[2])
    assert np.abs(clean[-1, -1].astype(int) - ends[1]).max() <= 2
    assert np.array_equal(truth[0, 0], (128, 128, 128)), "no valid depth there"
    assert pictures(page, "colours from 1.0 m to 8.0 m")


def test_origin_and_data_are_there(page: Reader) -> None:
    for fact in (
        "Apache-2.0",
        "robustprobe run demo.yaml",
        "abc1234",
        "a machine",
        "torch 2.8.0",
        "2/255",
        "0.900",
        "800 images",
    ):
        assert fact in page.text
    assert "37 cells, 2 min 42 s of attacking and judging" in page.text, "12.5 s for each of 13 groups"
    links = {t.attributes["download"]: t.attributes["href"] for t in page.all("a") if "download" in t.attributes}
    assert set(links) == {"robustprobe.json", "robustprobe.csv"}
    rows = json.loads(base64.b64decode(links["robustprobe.json"].partition(",")[2]))
    assert len(rows) == 2 * 18 + 1
    assert {row["encoder"] for row in rows} == {PLAIN, AWKWARD}


def test_images_chosen_by_damage_come_after_random_ones_and_say_why(tmp_path: Path) -> None:
    store = fill(Store(tmp_path / "results"), [*records_of(PLAIN), *records_of(AWKWARD)])
    add_choices(store, [("safe", (SURVIVED,)), ("hurt", (DAMAGED,)), ("both", (RANDOM, SURVIVED))])
    page = read(write_page(store.folder, tmp_path / "page.html"))
    exhibits = [tag.attributes for tag in page.all("details") if "data-id" in tag.attributes]
    assert [(one["data-id"], one["data-kind"], one["data-tasks"]) for one in exhibits] == [
        ("both", "random", ""),
        ("test-<i>7</i>", "random", ""),
        ("hurt", "most damaged", "depth"),
        ("safe", "survived", "depth"),
    ]
    text = " ".join(page.text.split())
    assert "2 drawn at random and 2 chosen by damage, of 4 stored images of scenes" in text
    assert f"drawn at random; survived depthpgd 8/255 on {PLAIN} in depth" in text
    assert f"most damaged in depth by depthpgd 8/255 on {PLAIN}" in text


def test_a_limit_on_images_leaves_random_ones_and_damaged_ones(tmp_path: Path) -> None:
    store = fill(Store(tmp_path / "results"), records_of(PLAIN))
    add_choices(store, [("second", (RANDOM,)), ("hurt", (DAMAGED,)), ("safe", (SURVIVED,))])
    page = read(write_page(store.folder, tmp_path / "page.html", ImageLimit(3, math.inf)))
    shown = [tag.attributes["data-id"] for tag in page.all("details") if "data-id" in tag.attributes]
    assert shown == ["second", "test-<i>7</i>", "hurt"]


def test_a_store_without_examples_says_so(tmp_path: Path) -> None:
    store = fill(Store(tmp_path / "results"), records_of(PLAIN), examples=False)
    page = read(write_page(store.folder, tmp_path / "page.html"))
    assert "No example images were stored" in page.text
    assert "0.900" in page.text
    assert page.headings[0][1] == f"How robust is {PLAIN} for three tasks?"


def test_an_attack_without_its_clean_image_is_shown_without_a_change(tmp_path: Path) -> None:
    store = fill(Store(tmp_path / "results"), [make_record(attack("pgd"), 0.2)])
    page = read(write_page(store.folder, tmp_path / "page.html"))
    assert pictures(page, "pgd 8/255: the attacked image")
    assert "largest change" not in page.text
    assert "clean images were not measured" in " ".join(page.text.split())


def test_what_is_no_number_is_not_drawn(tmp_path: Path) -> None:
    empty = Interval(value=math.nan, ci_low=math.nan, ci_high=math.nan)
    records = [make_record(attack(n), 0.5, metrics={"top-1": empty}) for n in ("clean", "pgd")]
    (tmp_path / "page.html").write_text(render_page(records))
    text = read(tmp_path / "page.html").text
    assert "n/a" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_memory_is_told_where_it_was_recorded() -> None:
    made = [make_record(attack(name), 0.5) for name in ("clean", "pgd")]
    assert "Memory was not recorded." in render_page(made)
    facts = made[1].provenance.model_copy(update={"peak_memory": 1536 * 2**20})
    text = render_page([made[0], made[1].model_copy(update={"provenance": facts})])
    assert "Memory was not recorded." not in text
    assert [row[-1] for row in cost_table([made[0]]).rows] == ["—"]
    assert "<td>1,536</td>" in text


def test_checks_find_what_is_suspicious() -> None:
    made = [
        make_record(attack("noise"), 0.5, largest_perturbation=0.5),
        make_record(attack("embed"), 0.2),
        make_record(attack("pgd"), 0.7, metrics_8bit={"top-1": Interval(value=0.9, ci_low=0.8, ci_high=1.0)}),
    ]
    failures = [check.failures for check in checks(made)]
    pgd = f"{PLAIN}, scenes, classification, pgd 8/255"
    assert failures == [[pgd.replace("pgd", "noise")], [pgd], [pgd], [pgd]]
    assert not any(check.failures for check in checks(records_of(PLAIN)))


def test_checks_know_that_errors_grow() -> None:
    weak = [make_record(attack(n), v, task="depth") for n, v in (("noise", 2.0), ("depthpgd", 1.0))]
    assert sum(bool(check.failures) for check in checks(weak)) == 2
    strong = [make_record(attack(n), v, task="depth") for n, v in (("noise", 1.0), ("depthpgd", 2.0))]
    assert not any(check.failures for check in checks(strong))


def test_unwritable_output_is_the_users_to_mend(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        write_page(store.folder, tmp_path / "file" / "page.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written to"):
        write_page(store.folder, tmp_path / "folder")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_no_results_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results in"):
        write_page(tmp_path / "nowhere", tmp_path / "page.html")
    Store(tmp_path).prepare()
    with pytest.raises(UserError, match="no finished cells in"):
        write_page(tmp_path, tmp_path / "page.html")


def test_a_broken_example_is_the_users_to_mend(store: Store, tmp_path: Path) -> None:
    next((store.folder / "examples").glob("*/3.png")).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"3\.png cannot be read"):
        write_page(store.folder, tmp_path / "page.html")


def test_writing_a_page_needs_no_torch(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from robustprobe.report.page.render import write_page\n"
        "write_page(Path(sys.argv[1]), Path(sys.argv[2])); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, store.folder, tmp_path / "page.html"], check=False)
    assert done.returncode == 0


def test_amplified_differences_clip() -> None:
    clean, attacked = np.array([[[0, 100, 200]]], np.uint8), np.array([[[1, 80, 255]]], np.uint8)
    assert amplified(difference(clean, attacked)).tolist() == [[[138, 0, 255]]]


def test_overlays_leave_unlabelled_pixels_grey() -> None:
    image = np.full((1, 2, 3), 200, np.uint8)
    shown = overlay(image, np.array([[1, 255]], np.uint8), class_colours(2))
    assert np.allclose(shown[0, 0], 0.65 * class_colours(2)[1].astype(float) + 0.35 * 200, atol=1)
    assert shown[0, 1].tolist() == [200, 200, 200]


def test_class_colours_differ() -> None:
    assert len(np.unique(class_colours(255), axis=0)) == 255
    assert class_colours(0).shape == (0, 3)


def test_depth_of_one_value_has_a_colour() -> None:
    assert decoded(scalar_uri(np.full((2, 2), 3.0), Scale(3.0, 3.0))).shape == (2, 2, 3)


def test_png_is_lossless() -> None:
    assert np.array_equal(decoded(png_uri(clean_image())), clean_image())


def test_masks_show_classes_in_their_colours_and_nothing_where_there_is_none() -> None:
    uri = mask_uri(np.array([[0, 1, 255]], np.uint8), class_colours(2))
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        shown = np.asarray(image.convert("RGBA"))
    assert shown[0, :2, :3].tolist() == class_colours(2).tolist()
    assert shown[0, :, 3].tolist() == [255, 255, 0]


def test_iou_of_one_image_is_the_mean_over_its_classes() -> None:
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    assert image_iou(np.array([[0, 1, 1, 2]], np.uint8), truth) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert image_iou(truth, truth) == 1
    assert image_iou(np.array([[0]], np.uint8), truth) is None


def test_sections_come_in_order(page: Reader) -> None:
    titles = [text for level, text in page.headings if level == 2]
    assert titles == [
        "In short",
        "Encoders by tasks and attacks",
        "Robustness profile",
        "Score against eps",
        "Task by attack",
        "Clean against robust",
        "Transfer between tasks",
        "Attacked images",
        "Sanity checks",
        "Cost",
        "Provenance",
        "Data",
        "Terms",
    ]


def test_every_chart_has_words_and_the_table_behind_it(page: Reader) -> None:
    charts = [t for t in page.all("svg") if t.attributes.get("class") == "chart"]
    assert len(charts) >= 3 * 3
    for chart in charts:
        assert chart.attributes["role"] == "img"
        assert len(chart.attributes["aria-label"]) > 60
    summaries = page.text.count("Numbers of ")
    assert summaries == len(charts)
    words = next(c.attributes["aria-label"] for c in charts if "RMSE of depth" in c.attributes["aria-label"])
    assert f"{PLAIN} 0.400 at eps 0/255 to 0.900 at 8/255" in words


def test_the_charts_of_the_page_follow_its_theme(store: Store, tmp_path: Path) -> None:
    text = write_page(store.folder, tmp_path / "page.html").read_text()
    charts = "".join(re.findall(r'<svg class="chart".*?</svg>', text, flags=re.S))
    assert "var(--s0)" in charts
    assert "var(--ink)" in charts
    assert "#0072b2" not in charts.lower()


def test_so_many_images_as_are_asked_for(store: Store, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    none = read(write_page(store.folder, page, ImageLimit(0, math.inf)))
    assert "none, of 1 stored images of scenes" in " ".join(none.text.split())
    assert not pictures(none, "the attacked image")
    small = read(write_page(store.folder, page, ImageLimit(None, 0.0)))
    assert pictures(small, "the attacked image"), "one image is shown however large it is"


def test_folders_are_read_together_and_never_disagree(store: Store, tmp_path: Path) -> None:
    other = fill(Store(tmp_path / "other"), records_of("third"))
    page = read(write_page([store.folder, other.folder], tmp_path / "page.html"))
    assert page.headings[0][1] == "How robust are three encoders for three tasks?"
    changed = records_of("third")[0].model_copy(update={"n": 7})
    fill(Store(tmp_path / "again"), [changed], examples=False)
    with pytest.raises(UserError, match=r"(?s)different results for the same cells.*n differ.*\(200 and 7\)"):
        write_page([other.folder, tmp_path / "again"], tmp_path / "page.html")


def test_checkpoints_of_a_hardening_make_curves(tmp_path: Path) -> None:
    records = [r for epoch in (1, 2, 10) for r in checkpoints_of(f"photos-{epoch}", epoch, -epoch / 100)]
    (tmp_path / "page.html").write_text(render_page(records))
    page = read(tmp_path / "page.html")
    assert "Hardening, epoch by epoch" in [text for _, text in page.headings]
    curve = next(t for t in page.all("svg") if "epochs 1 to 10 of hardening" in t.attributes.get("aria-label", ""))
    assert "clean, " in curve.attributes["aria-label"]
