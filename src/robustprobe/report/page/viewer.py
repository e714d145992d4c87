"""The adversarial viewer's contents: pictures, words and bars for each image, encoder and attack."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.pictures import (
    IGNORED_CLASS,
    Picture,
    Pixels,
    Scale,
    class_colours,
    difference,
    legend_colours,
    mask_uri,
    png_uri,
    scalar_uri,
    scale_uri,
    thumbnail_uri,
)
from robustprobe.core.spec import Display
from robustprobe.metrics.kept import share_kept
from robustprobe.report.page.examples import DatasetExamples, EncoderImages, ExampleImage, SeenImage, Truth, choice_text
from robustprobe.report.tables.matrix import percent_text, size_text
from robustprobe.results.labels import eps_text


class Guess(NamedTuple):
    """One of the most probable classes; `share` is its probability in [0, 1]."""

    name: str
    share: float
    right: bool


class Panel(NamedTuple):
    """One column of a sheet: an image under one attack."""

    label: str
    attack: str
    eps: str
    origin: str
    image: Picture
    change: str


class Answer(NamedTuple):
    """What one head answered: the likeliest classes or a picture, and a note."""

    guesses: list[Guess]
    picture: Picture | None
    note: str = ""


class SheetRow(NamedTuple):
    """One task: the truth, then an answer for each panel. `scale` belongs to scalar maps, `legend` to class maps."""

    task: str
    kind: str
    name: str | None
    truth: Picture | None
    answers: list[Answer]
    scale: Scale | None
    scale_picture: Picture | None
    legend: list[tuple[str, str]]


class ViewerSheet(NamedTuple):
    """One image and one encoder: a panel per attack, and a row per task."""

    encoder: str
    panels: list[Panel]
    rows: list[SheetRow]


class ViewerImage(NamedTuple):
    """One image: its sheets share the colour scales of scalar maps. `damage` is the mean share of its clean score that
    task-specific attacks took; `kind` and `tasks` say in short why the image is shown, `reasons` in full.
    """

    id: str
    kind: str
    tasks: str
    reasons: list[str]
    name: str | None
    size: str
    damage: float
    thumbnail: Picture
    sheets: list[ViewerSheet]


class ViewerDataset(NamedTuple):
    """The exhibits of one dataset, of as many images as are stored."""

    dataset: str
    exhibits: list[ViewerImage]
    stored: int

    @property
    def selection(self) -> str:
        """`6 drawn at random and 9 chosen by damage, of 15 stored images of scenes`."""
        drawn = sum(exhibit.kind == "random" for exhibit in self.exhibits)
        damaged = len(self.exhibits) - drawn
        parts = [f"{drawn} drawn at random"] * bool(drawn) + [f"{damaged} chosen by damage"] * bool(damaged)
        return f"{' and '.join(parts) or 'none'}, of {self.stored} stored images of {self.dataset}"


def rooms(galleries: Iterable[DatasetExamples]) -> list[ViewerDataset]:
    """Everything the viewer shows."""
    return [ViewerDataset(g.dataset, [_exhibit(g, subject) for subject in g.subjects], g.stored) for g in galleries]


def _exhibit(gallery: DatasetExamples, subject: ExampleImage) -> ViewerImage:
    first = subject.series[0].seen[0]
    height, width = first.image.shape[:2]
    title = f"{gallery.dataset} {subject.id}"
    names = [name for series in subject.series for name in series.truth.names.values()]
    return ViewerImage(
        id=subject.id,
        kind=subject.chosen[0].kind,
        tasks=", ".join(c.task for c in subject.chosen if c.kind == subject.chosen[0].kind and c.task),
        reasons=[choice_text(choice) for choice in subject.chosen],
        name=next(iter(names), None),
        size=size_text((height, width)),
        damage=_damage(gallery, subject),
        thumbnail=Picture(thumbnail_uri(first.image), ""),
        sheets=[_sheet(title, gallery, subject, series) for series in subject.series],
    )


def displays(subject: ExampleImage) -> dict[str, Display]:
    """How the tasks of an image are shown, in the order in which groups name them."""
    found: dict[str, Display] = {}
    for series in subject.series:
        for seen in series.seen:
            found |= {task: display for task, display in seen.group.displays.items() if task not in found}
    return found


def scalar_scale(subject: ExampleImage, task: str, unit: str) -> Scale | None:
    """One scale for all values of a task for an image, rounded outwards to tenths of the unit."""
    holders = [holder for s in subject.series for holder in (s.truth.maps, *(seen.maps for seen in s.seen))]
    valid = [values[values > 0] for maps in holders if (values := maps.get(task)) is not None and (values > 0).any()]
    if not valid:
        return None
    low, high = min(m.min() for m in valid), max(m.max() for m in valid)
    return Scale(float(np.floor(low * 10) / 10), float(np.ceil(high * 10) / 10), unit)


def _damage(gallery: DatasetExamples, subject: ExampleImage) -> float:
    """Mean over encoders and attacks made for a task of what was taken of the clean score of this one image."""
    taken = []
    for series in subject.series:
        clean = next((s for s in series.seen if s.group.attack_key.is_clean), None)
        for seen in series.seen if clean else ():
            task = seen.group.target_task
            before, after = (_goodness(gallery, one, series.truth, task) for one in (clean, seen))
            if before and after is not None:
                taken.append(1 - min(1.0, float(share_kept(before, after))))
    return float(np.mean(taken)) if taken else 0.0


def _goodness(gallery: DatasetExamples, seen: SeenImage | None, truth: Truth, task: str) -> float | None:
    """The score of one image so that more is better: errors are inverted."""
    found = image_score(gallery, seen, truth, task) if seen else None
    if found is None or found.higher_is_better:
        return found.value if found else None
    return 1 / found.value if found.value else None


class ImageScore(NamedTuple):
    """The score of one image, and what it is called."""

    metric: str
    value: float
    unit: str
    higher_is_better: bool


def image_score(gallery: DatasetExamples, seen: SeenImage, truth: Truth, task: str) -> ImageScore | None:
    """The score of one image: as it was stored, or for groups of earlier versions as its pictures tell."""
    metric = gallery.metrics.get(task)
    if task in seen.example.scores and metric is not None:
        return ImageScore(metric.name, seen.example.scores[task], metric.unit, metric.higher_is_better)
    kind = seen.group.displays[task].kind if task in seen.group.displays else ""
    own, label = seen.maps.get(task), truth.maps.get(task)
    if kind == "classes" and task in truth.names:
        guesses = seen.example.predictions.get(task) or [[None, 0.0]]
        return ImageScore("right", float(guesses[0][0] == truth.names[task]), "share", True)
    if kind == "class map" and (iou := image_iou(own, label)) is not None:
        return ImageScore("IoU", iou, "share", True)
    if kind == "scalar map" and (error := _rmse(own, label)) is not None:
        return ImageScore("RMSE", error, seen.group.displays[task].unit, False)
    return None


def _sheet(title: str, gallery: DatasetExamples, subject: ExampleImage, series: EncoderImages) -> ViewerSheet:
    clean = next((s for s in series.seen if s.group.attack.eps == 0), None)
    known = displays(subject)
    answered = [t for t in known if any(t in s.maps or s.example.predictions.get(t) for s in series.seen)]
    return ViewerSheet(
        encoder=series.encoder,
        panels=[_panel(title, s, clean) for s in series.seen],
        rows=[_row(title, gallery, subject, series, clean, task) for task in answered],
    )


def _panel(title: str, seen: SeenImage, clean: SeenImage | None) -> Panel:
    where, attack = f"{title}, {seen.label}", seen.group.attack
    is_clean = seen.group.attack_key.is_clean
    eps = eps_text(attack) if attack.eps else ""
    return Panel(
        label=seen.label,
        attack=seen.label.replace(f" {eps}", "", 1) if eps else seen.label,
        eps=eps,
        origin=_origin(seen),
        image=Picture(png_uri(seen.image), f"{where}: the image" if is_clean else f"{where}: the attacked image"),
        change="" if is_clean or clean is None else _change(clean.image, seen.image),
    )


def _row(
    title: str,
    gallery: DatasetExamples,
    subject: ExampleImage,
    series: EncoderImages,
    clean: SeenImage | None,
    task: str,
) -> SheetRow:
    display, truth = displays(subject)[task], series.truth
    classes = next((s.group.classes[task] for s in series.seen if task in s.group.classes), [])
    scale = scalar_scale(subject, task, display.unit) if display.kind == "scalar map" else None
    picture = MapPictures(task, display, classes, scale)
    shown = f"colours from {scale.low:.1f} {scale.unit} to {scale.high:.1f} {scale.unit}" if scale else ""
    label = truth.maps.get(task)
    return SheetRow(
        task=task,
        kind=display.kind,
        name=truth.names.get(task),
        truth=None if label is None else picture.drawn(label, f"{title}: true {picture.noun}"),
        answers=[_answer(title, gallery, picture, s, clean, truth) for s in series.seen],
        scale=scale,
        scale_picture=Picture(scale_uri(), shown) if scale else None,
        legend=_legend(series, task, classes) if display.kind == "class map" else [],
    )


class MapPictures(NamedTuple):
    """How the maps of one task are drawn and described."""

    task: str
    display: Display
    classes: list[str]
    scale: Scale | None

    @property
    def noun(self) -> str:
        return "classes" if self.display.kind == "class map" else self.task

    def drawn(self, values: NDArray[Any], alt: str, note: str = "") -> Picture | None:
        """A map as a picture whose description ends with what it holds."""
        words = f"{alt}, {self._summary(values)}" if self.display.kind != "colours" else alt
        words = f"{words}; {note}" if note else words
        if self.display.kind == "class map":
            return Picture(mask_uri(values, class_colours(len(self.classes))), words, note)
        if self.display.kind == "colours":
            return Picture(png_uri(values), words, note)
        return Picture(scalar_uri(values, self.scale), words, note) if self.scale else None

    def _summary(self, values: NDArray[Any]) -> str:
        if self.display.kind == "class map":
            return _shares(values, self.classes)
        return _range(values, self.display.unit)


def _answer(
    title: str, gallery: DatasetExamples, picture: MapPictures, seen: SeenImage, clean: SeenImage | None, truth: Truth
) -> Answer:
    task, values = picture.task, seen.maps.get(picture.task)
    if picture.display.kind == "classes":
        name = truth.names.get(task)
        guesses = [Guess(str(n), float(p), n == name) for n, p in seen.example.predictions.get(task, [])]
        missed = bool(guesses) and name is not None and not any(g.right for g in guesses)
        return Answer(guesses, None, f"{name} is not among these" if missed else "")
    if values is None:
        return Answer([], None)
    score, said = image_score(gallery, seen, truth, task), []
    if score is not None:
        said.append(f"{score.metric} {score.value:.2f}{'' if score.unit == 'share' else f' {score.unit}'}")
    before = clean.maps.get(task) if clean is not None and clean is not seen else None
    if picture.display.kind == "class map" and before is not None and before.shape == values.shape:
        said.append(f"{percent_text((before != values).mean())} of pixels changed")
    return Answer([], picture.drawn(values, f"{title}, {seen.label}: predicted {picture.noun}", ", ".join(said)))


def _origin(seen: SeenImage) -> str:
    key = seen.group.attack_key
    if key.target_task:
        return f"made for {key.target_task}"
    if key.is_corruption:
        return "corruption"
    return "no attack" if key.is_clean else "random change" if key.is_control else "label-free"


def _change(clean: Pixels, attacked: Pixels) -> str:
    """The largest change of any pixel in words; empty where the shapes differ."""
    if clean.shape != attacked.shape:
        return ""
    return f"largest change {int(np.abs(difference(clean, attacked)).max())} of 255 grey levels"


def image_iou(mask: NDArray[Any] | None, truth: NDArray[Any] | None) -> float | None:
    """Mean IoU of one image, over the classes that its truth or its prediction has; None where there is no truth."""
    if mask is None or truth is None or mask.shape != truth.shape or not (truth != IGNORED_CLASS).any():
        return None
    mask, truth = mask[truth != IGNORED_CLASS], truth[truth != IGNORED_CLASS]
    classes = np.union1d(mask, truth)
    return float(np.mean([((mask == c) & (truth == c)).sum() / ((mask == c) | (truth == c)).sum() for c in classes]))


def _rmse(values: NDArray[Any] | None, truth: NDArray[Any] | None) -> float | None:
    if values is None or truth is None or values.shape != truth.shape or not (truth > 0).any():
        return None
    return float(np.sqrt(((values - truth)[truth > 0] ** 2).mean()))


def _shares(mask: NDArray[Any], names: list[str]) -> str:
    """The three largest classes in words, as in `floor 52 %, wall 30 %, box 18 %`."""
    counted = mask[mask < len(names)]
    if not counted.size:
        return "none known"
    classes, counts = np.unique(counted, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    return ", ".join(f"{names[classes[k]]} {percent_text(counts[k] / counted.size)}" for k in order)


def _range(values: NDArray[Any], unit: str) -> str:
    valid = values[values > 0]
    if not valid.size:
        return "none valid"
    low, high, middle = valid.min(), valid.max(), np.median(valid)
    return f"{low:.1f} {unit} to {high:.1f} {unit}, median {middle:.1f} {unit}"


def _legend(series: EncoderImages, task: str, names: list[str]) -> list[tuple[str, str]]:
    """Name and colour of the classes that occur anywhere on a sheet."""
    present: set[int] = set()
    for maps in (series.truth.maps, *(s.maps for s in series.seen)):
        if task in maps:
            present.update(int(c) for c in np.unique(maps[task]) if c < len(names))
    shown = legend_colours(class_colours(len(names)))
    return [(names[c], shown[c]) for c in sorted(present)]
