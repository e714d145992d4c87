"""The adversarial viewer's contents: pictures, words and bars for each image, encoder and attack."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.report._examples import Gallery, Seen, Series, Subject, Truth
from robustprobe.report._matrix import percent_text, size_text
from robustprobe.report._pictures import (
    AMPLIFICATION,
    IGNORED_CLASS,
    Picture,
    Pixels,
    Scale,
    amplified,
    class_colours,
    depth_uri,
    difference,
    legend_colours,
    overlay,
    png_uri,
    scale_uri,
)


class Guess(NamedTuple):
    """One of the most probable classes; `share` is its probability in [0, 1]."""

    name: str
    share: float
    right: bool


class Panel(NamedTuple):
    """One column of a sheet: an image under one attack, and what each head said of it."""

    label: str
    origin: str
    image: Picture
    perturbation: Picture | None
    guesses: list[Guess]
    guesses_note: str
    mask: Picture | None
    depth: Picture | None


class Sheet(NamedTuple):
    """One image and one encoder: the truth, then a panel an attack."""

    encoder: str
    name: str | None
    mask: Picture | None
    depth: Picture | None
    panels: list[Panel]
    legend: list[tuple[str, str]]


class Exhibit(NamedTuple):
    """One image: its sheets share the colour scale of depths."""

    id: str
    name: str | None
    size: str
    wide: bool
    thumbnail: Picture
    scale: Scale | None
    scale_picture: Picture | None
    sheets: list[Sheet]


class Room(NamedTuple):
    """The exhibits of one dataset."""

    dataset: str
    exhibits: list[Exhibit]


WIDE = 160


def rooms(galleries: Iterable[Gallery]) -> list[Room]:
    """Everything the viewer shows, rendered."""
    return [Room(g.dataset, [_exhibit(g.dataset, subject) for subject in g.subjects]) for g in galleries]


def _exhibit(dataset: str, subject: Subject) -> Exhibit:
    scale = _scale(subject)
    first = subject.series[0].seen[0]
    height, width = first.image.shape[:2]
    title = f"{dataset} {subject.id}"
    return Exhibit(
        id=subject.id,
        name=next((s.truth.name for s in subject.series if s.truth.name), None),
        size=size_text((height, width)),
        wide=width > WIDE,
        thumbnail=Picture(png_uri(first.image), ""),
        scale=scale,
        scale_picture=Picture(scale_uri(), f"colours from {scale.low:.1f} m to {scale.high:.1f} m") if scale else None,
        sheets=[_sheet(title, series, scale) for series in subject.series],
    )


def _scale(subject: Subject) -> Scale | None:
    """One scale for all depths of an image, rounded outwards to tenths of a metre."""
    maps = [m for s in subject.series for m in (s.truth.depth, *(seen.depth for seen in s.seen)) if m is not None]
    valid = [m[m > 0] for m in maps if (m > 0).any()]
    if not valid:
        return None
    low, high = min(m.min() for m in valid), max(m.max() for m in valid)
    return Scale(float(np.floor(low * 10) / 10), float(np.ceil(high * 10) / 10))


def _sheet(title: str, series: Series, scale: Scale | None) -> Sheet:
    truth, seen = series.truth, series.seen
    clean = next((s for s in seen if s.group.attack.name == "clean"), None)
    names = next((s.group.classes["segmentation"] for s in seen if "segmentation" in s.group.classes), [])
    colours = class_colours(len(names))
    true_mask = None
    if clean is not None and truth.mask is not None:
        alt = f"{title}: true classes, {_shares(truth.mask, names)}"
        true_mask = Picture(png_uri(_over(clean.image, truth.mask, colours)), alt)
    true_depth = None
    if truth.depth is not None and scale is not None:
        true_depth = Picture(depth_uri(truth.depth, scale), f"{title}: true depth, {_range(truth.depth)}")
    return Sheet(
        encoder=series.encoder,
        name=truth.name,
        mask=true_mask,
        depth=true_depth,
        panels=[_panel(title, s, clean, truth, colours, names, scale) for s in seen],
        legend=_legend(series, colours, names),
    )


def _panel(
    title: str, seen: Seen, clean: Seen | None, truth: Truth, colours: Pixels, names: list[str], scale: Scale | None
) -> Panel:
    where = f"{title}, {seen.label}"
    is_clean = seen.group.attack.name == "clean"
    guesses = [Guess(str(n), float(p), n == truth.name) for n, p in seen.example.predictions.get("classification", [])]
    missed = bool(guesses) and truth.name is not None and not any(g.right for g in guesses)
    return Panel(
        label=seen.label,
        origin=_origin(seen),
        image=Picture(png_uri(seen.image), f"{where}: the image" if is_clean else f"{where}: the attacked image"),
        perturbation=None if is_clean or clean is None else _perturbation(where, clean.image, seen.image),
        guesses=guesses,
        guesses_note=f"{truth.name} is not among these" if missed else "",
        mask=_mask(where, seen, truth, colours, names),
        depth=_depth(where, seen, truth, scale),
    )


def _origin(seen: Seen) -> str:
    if seen.group.made_for:
        return f"made for {seen.group.made_for}"
    return {"clean": "no attack", "noise": "random"}.get(seen.group.attack.name, "saw no head")


def _perturbation(where: str, clean: Pixels, attacked: Pixels) -> Picture | None:
    if clean.shape != attacked.shape:
        return None
    delta = difference(clean, attacked)
    largest = int(np.abs(delta).max())
    note = f"× {AMPLIFICATION}, max |δ| {largest}"
    alt = (
        f"{where}: change of the image, {AMPLIFICATION} times around grey; largest change {largest} of 255 grey levels"
    )
    return Picture(png_uri(amplified(delta)), alt, note)


def _mask(where: str, seen: Seen, truth: Truth, colours: Pixels, names: list[str]) -> Picture | None:
    if seen.mask is None:
        return None
    agreement = ""
    if (
        truth.mask is not None
        and truth.mask.shape == seen.mask.shape
        and (counted := truth.mask != IGNORED_CLASS).any()
    ):
        agreement = f"{percent_text((seen.mask == truth.mask)[counted].mean())} of pixels right"
    alt = f"{where}: predicted classes, {_shares(seen.mask, names)}"
    return Picture(
        png_uri(_over(seen.image, seen.mask, colours)), f"{alt}; {agreement}" if agreement else alt, agreement
    )


def _depth(where: str, seen: Seen, truth: Truth, scale: Scale | None) -> Picture | None:
    if seen.depth is None or scale is None:
        return None
    error = ""
    if truth.depth is not None and truth.depth.shape == seen.depth.shape and (counted := truth.depth > 0).any():
        rmse = float(np.sqrt(((seen.depth - truth.depth)[counted] ** 2).mean()))
        error = f"RMSE {rmse:.2f} m"
    alt = f"{where}: predicted depth, {_range(seen.depth)}"
    return Picture(depth_uri(seen.depth, scale), f"{alt}; {error}" if error else alt, error)


def _over(image: Pixels, mask: NDArray[Any], colours: Pixels) -> Pixels:
    """Overlay of a mask of any size, which is brought to the size of the image by the nearest pixel."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(image.shape, mask.shape, strict=False))
    return overlay(image, mask[np.ix_(rows, columns)], colours)


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


def _legend(series: Series, colours: Pixels, names: list[str]) -> list[tuple[str, str]]:
    """Name and colour of the classes that occur anywhere on a sheet."""
    present: set[int] = set()
    for mask in _masks(series):
        present.update(int(c) for c in np.unique(mask) if c < len(names))
    shown = legend_colours(colours)
    return [(names[c], shown[c]) for c in sorted(present)]


def _masks(series: Series) -> Iterator[NDArray[Any]]:
    for mask in (series.truth.mask, *(s.mask for s in series.seen)):
        if mask is not None:
            yield mask
