"""The adversarial viewer's contents: pictures, words and bars for each image, encoder and attack."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.metrics.kept import share_kept
from robustprobe.report.charts.pictures import (
    IGNORED_CLASS,
    Picture,
    Pixels,
    Scale,
    class_colours,
    depth_uri,
    difference,
    legend_colours,
    mask_uri,
    png_uri,
    scale_uri,
    thumbnail_uri,
)
from robustprobe.report.page.examples import EncoderImages, Gallery, SeenImage, Subject, Truth, choice_text
from robustprobe.report.tables.matrix import percent_text, size_text
from robustprobe.results.labels import eps_text


class Guess(NamedTuple):
    """One of the most probable classes; `share` is its probability in [0, 1]."""

    name: str
    share: float
    right: bool


class Panel(NamedTuple):
    """One column of a sheet: an image under one attack, and what each head said of it."""

    label: str
    attack: str
    eps: str
    origin: str
    image: Picture
    change: str
    guesses: list[Guess]
    guesses_note: str
    mask: Picture | None
    depth: Picture | None


class ViewerSheet(NamedTuple):
    """One image and one encoder: the truth, then a panel an attack."""

    encoder: str
    name: str | None
    mask: Picture | None
    depth: Picture | None
    panels: list[Panel]
    legend: list[tuple[str, str]]


class Exhibit(NamedTuple):
    """One image: its sheets share the colour scale of depths. `damage` is the mean share of the score that
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
    scale: Scale | None
    scale_picture: Picture | None
    sheets: list[ViewerSheet]


class Room(NamedTuple):
    """The exhibits of one dataset, of as many images as are stored."""

    dataset: str
    exhibits: list[Exhibit]
    stored: int

    @property
    def selection(self) -> str:
        """`6 drawn at random and 9 chosen by damage, of 15 stored images of scenes`."""
        drawn = sum(exhibit.kind == "random" for exhibit in self.exhibits)
        damaged = len(self.exhibits) - drawn
        parts = [f"{drawn} drawn at random"] * bool(drawn) + [f"{damaged} chosen by damage"] * bool(damaged)
        return f"{' and '.join(parts) or 'none'}, of {self.stored} stored images of {self.dataset}"


def rooms(galleries: Iterable[Gallery]) -> list[Room]:
    """Everything the viewer shows."""
    return [Room(g.dataset, [_exhibit(g.dataset, subject) for subject in g.subjects], g.stored) for g in galleries]


def _exhibit(dataset: str, subject: Subject) -> Exhibit:
    scale = depth_scale(subject)
    first = subject.series[0].seen[0]
    height, width = first.image.shape[:2]
    title = f"{dataset} {subject.id}"
    return Exhibit(
        id=subject.id,
        kind=subject.chosen[0].kind,
        tasks=", ".join(c.task for c in subject.chosen if c.kind == subject.chosen[0].kind and c.task),
        reasons=[choice_text(choice) for choice in subject.chosen],
        name=next((s.truth.name for s in subject.series if s.truth.name), None),
        size=size_text((height, width)),
        damage=_damage(subject),
        thumbnail=Picture(thumbnail_uri(first.image), ""),
        scale=scale,
        scale_picture=Picture(scale_uri(), f"colours from {scale.low:.1f} m to {scale.high:.1f} m") if scale else None,
        sheets=[_sheet(title, series, scale) for series in subject.series],
    )


def depth_scale(subject: Subject) -> Scale | None:
    """One scale for all depths of an image, rounded outwards to tenths of a metre."""
    maps = [m for s in subject.series for m in (s.truth.depth, *(seen.depth for seen in s.seen)) if m is not None]
    valid = [m[m > 0] for m in maps if (m > 0).any()]
    if not valid:
        return None
    low, high = min(m.min() for m in valid), max(m.max() for m in valid)
    return Scale(float(np.floor(low * 10) / 10), float(np.ceil(high * 10) / 10))


def _damage(subject: Subject) -> float:
    """Mean over encoders and attacks made for a task of what was taken of the clean score of this one image."""
    taken = []
    for series in subject.series:
        clean = next((s for s in series.seen if s.group.attack_key.is_clean), None)
        for seen in series.seen if clean else ():
            before = _score(clean, series.truth, seen.group.target_task)
            after = _score(seen, series.truth, seen.group.target_task)
            if before and after is not None:
                taken.append(1 - min(1.0, float(share_kept(before, after))))
    return float(np.mean(taken)) if taken else 0.0


def _score(seen: SeenImage | None, truth: Truth, task: str) -> float | None:
    """How good a prediction for one image is, better up: right or not, IoU, or one over RMSE."""
    if seen is None:
        return None
    if task == "classification":
        guesses = seen.example.predictions.get("classification") or [[None, 0.0]]
        return float(guesses[0][0] == truth.name)
    if task == "segmentation":
        return image_iou(seen.mask, truth.mask)
    error = _rmse(seen.depth, truth.depth) if task == "depth" else None
    return 1 / error if error else None


def _sheet(title: str, series: EncoderImages, scale: Scale | None) -> ViewerSheet:
    truth, seen = series.truth, series.seen
    clean = next((s for s in seen if s.group.attack_key.is_clean), None)
    names = next((s.group.classes["segmentation"] for s in seen if "segmentation" in s.group.classes), [])
    colours = class_colours(len(names))
    true_mask = true_depth = None
    if truth.mask is not None:
        true_mask = Picture(mask_uri(truth.mask, colours), f"{title}: true classes, {_shares(truth.mask, names)}")
    if truth.depth is not None and scale is not None:
        true_depth = Picture(depth_uri(truth.depth, scale), f"{title}: true depth, {_range(truth.depth)}")
    return ViewerSheet(
        encoder=series.encoder,
        name=truth.name,
        mask=true_mask,
        depth=true_depth,
        panels=[_panel(title, s, clean, truth, colours, names, scale) for s in seen],
        legend=_legend(series, colours, names),
    )


def _panel(
    title: str,
    seen: SeenImage,
    clean: SeenImage | None,
    truth: Truth,
    colours: Pixels,
    names: list[str],
    scale: Scale | None,
) -> Panel:
    where, attack = f"{title}, {seen.label}", seen.group.attack
    is_clean = seen.group.attack_key.is_clean
    guesses = [Guess(str(n), float(p), n == truth.name) for n, p in seen.example.predictions.get("classification", [])]
    missed = bool(guesses) and truth.name is not None and not any(g.right for g in guesses)
    eps = eps_text(attack) if attack.eps else ""
    return Panel(
        label=seen.label,
        attack=seen.label.replace(f" {eps}", "", 1) if eps else seen.label,
        eps=eps,
        origin=_origin(seen),
        image=Picture(png_uri(seen.image), f"{where}: the image" if is_clean else f"{where}: the attacked image"),
        change="" if is_clean or clean is None else _change(clean.image, seen.image),
        guesses=guesses,
        guesses_note=f"{truth.name} is not among these" if missed else "",
        mask=_mask(where, seen, clean, truth, colours, names),
        depth=_depth(where, seen, truth, scale),
    )


def _origin(seen: SeenImage) -> str:
    key = seen.group.attack_key
    if key.target_task:
        return f"made for {key.target_task}"
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


def _mask(
    where: str, seen: SeenImage, clean: SeenImage | None, truth: Truth, colours: Pixels, names: list[str]
) -> Picture | None:
    if seen.mask is None:
        return None
    said = []
    if (iou := image_iou(seen.mask, truth.mask)) is not None:
        said.append(f"IoU {iou:.2f}")
    if clean is not None and clean is not seen and clean.mask is not None and clean.mask.shape == seen.mask.shape:
        said.append(f"{percent_text((clean.mask != seen.mask).mean())} of pixels changed")
    note = ", ".join(said)
    alt = f"{where}: predicted classes, {_shares(seen.mask, names)}"
    return Picture(mask_uri(seen.mask, colours), f"{alt}; {note}" if note else alt, note)


def _depth(where: str, seen: SeenImage, truth: Truth, scale: Scale | None) -> Picture | None:
    if seen.depth is None or scale is None:
        return None
    rmse = _rmse(seen.depth, truth.depth)
    error = "" if rmse is None else f"RMSE {rmse:.2f} m"
    alt = f"{where}: predicted depth, {_range(seen.depth)}"
    return Picture(depth_uri(seen.depth, scale), f"{alt}; {error}" if error else alt, error)


def _rmse(depth: NDArray[Any] | None, truth: NDArray[Any] | None) -> float | None:
    if depth is None or truth is None or depth.shape != truth.shape or not (truth > 0).any():
        return None
    return float(np.sqrt(((depth - truth)[truth > 0] ** 2).mean()))


def _shares(mask: NDArray[Any], names: list[str]) -> str:
    """The three largest classes in words, as in `floor 52 %, wall 30 %, box 18 %`."""
    counted = mask[mask < len(names)]
    if not counted.size:
        return "none known"
    classes, counts = np.unique(counted, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    return ", ".join(f"{names[classes[k]]} {percent_text(counts[k] / counted.size)}" for k in order)


def _range(depth: NDArray[Any]) -> str:
    valid = depth[depth > 0]
    return (
        f"{valid.min():.1f} m to {valid.max():.1f} m, median {np.median(valid):.1f} m" if valid.size else "none valid"
    )


def _legend(series: EncoderImages, colours: Pixels, names: list[str]) -> list[tuple[str, str]]:
    """Name and colour of the classes that occur anywhere on a sheet."""
    present: set[int] = set()
    for mask in _masks(series):
        present.update(int(c) for c in np.unique(mask) if c < len(names))
    shown = legend_colours(colours)
    return [(names[c], shown[c]) for c in sorted(present)]


def _masks(series: EncoderImages) -> Iterator[NDArray[Any]]:
    for mask in (series.truth.mask, *(s.mask for s in series.seen)):
        if mask is not None:
            yield mask
