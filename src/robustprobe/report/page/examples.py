"""Which example images belong together: one dataset's image, for each encoder the clean and the attacked versions."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from numpy.typing import NDArray

from robustprobe.core.pictures import Pixels, read_array
from robustprobe.report.tables.matrix import attack_order, data_names
from robustprobe.results.example_images import CHOICE_KINDS, RANDOM, Example, ExampleChoice, Group
from robustprobe.results.labels import attack_labels, distinctions, eps_text, head_text
from robustprobe.results.records import Record
from robustprobe.results.union import FoundGroup


class SeenImage(NamedTuple):
    """One image under one attack, and by task what each head answered: class indices (H, W), values (H, W) in the unit
    of the task, or colours (H, W, 3).
    """

    label: str
    group: Group
    example: Example
    image: Pixels
    maps: dict[str, NDArray[Any]]


class Truth(NamedTuple):
    """What an image shows, by task: the name of a class, or a map; nothing where that is not known."""

    names: dict[str, str]
    maps: dict[str, NDArray[Any]]


class EncoderImages(NamedTuple):
    """One image, one encoder: what every attack made of it, the clean image first if there is one."""

    encoder: str
    truth: Truth
    seen: list[SeenImage]


class ExampleImage(NamedTuple):
    """One image, what all encoders said of it, and why it is shown: drawn at random, or chosen by damage."""

    id: str
    series: list[EncoderImages]
    chosen: tuple[ExampleChoice, ...]


class ImageMetric(NamedTuple):
    """The metric that scores of images are in."""

    name: str
    unit: str
    higher_is_better: bool


class DatasetExamples(NamedTuple):
    """The example images of one dataset that are shown, of as many as are `stored`, and the metrics of the tasks."""

    dataset: str
    subjects: list[ExampleImage]
    stored: int
    metrics: dict[str, ImageMetric]


class ImageLimit(NamedTuple):
    """At most so many images of each dataset (None: all), and no more once they take so many megabytes."""

    images: int | None
    megabytes: float


class _EncoderGroups(NamedTuple):
    """Groups of one encoder on one choice of images."""

    encoder: str
    groups: list[FoundGroup]


BASE64 = 4 / 3


def galleries(found: Iterable[FoundGroup], records: Iterable[Record], wish: ImageLimit) -> list[DatasetExamples]:
    """Images to show, read from their stores. Groups that no finished cell belongs to are left out.

    Raises:
        UserError: an image that cannot be read.
    """
    known = list(records)
    witness = {record.group: record for record in known}
    metrics = {r.task: ImageMetric(r.metric, r.unit, r.higher_is_better) for r in known}
    groups = sorted((g for g in found if g.group.group in witness), key=lambda g: (g.group.dataset, g.group.encoder))
    by_data: dict[Hashable, list[FoundGroup]] = {}
    for group in groups:
        record = witness[group.group.group]
        # The same images at the sizes of several encoders are one gallery.
        key = (record.dataset, record.content_digest, record.split, record.image_ids_digest)
        by_data.setdefault(key, []).append(group)
    names = data_names([witness[some[0].group.group] for some in by_data.values()])
    return [
        _gallery(name, _shelves(some, witness), wish._replace(megabytes=wish.megabytes / len(by_data)), metrics)
        for name, some in zip(names, by_data.values(), strict=True)
    ]


def _shelves(groups: list[FoundGroup], witness: dict[str, Record]) -> list[_EncoderGroups]:
    by_encoder: dict[Hashable, list[FoundGroup]] = {}
    for group in groups:
        record = witness[group.group.group]
        key = (record.encoder, record.encoder_digest, record.precision, head_text(record), record.attack_at)
        by_encoder.setdefault(key, []).append(group)
    first = [witness[some[0].group.group] for some in by_encoder.values()]
    facts = [
        {
            "weights": r.encoder_digest[:8],
            "precision": r.precision,
            "heads": head_text(r) or "linear",
            "attacked at": f"{r.attack_at} size",
        }
        for r in first
    ]
    endings = distinctions([r.encoder for r in first], facts)
    return [
        _EncoderGroups(record.encoder + ending, sorted(some, key=lambda g: attack_order(g.group.attack_key)))
        for record, ending, some in zip(first, endings, by_encoder.values(), strict=True)
    ]


def _gallery(
    name: str, shelves: list[_EncoderGroups], wish: ImageLimit, metrics: dict[str, ImageMetric]
) -> DatasetExamples:
    choices = _choices(shelves)
    shown: set[str] = set()
    size = 0.0
    for identity in _by_turns(choices)[: wish.images]:
        size += sum(_megabytes(g, e) for shelf in shelves for g, e in _of(shelf, identity))
        if size > wish.megabytes and shown:
            break
        shown.add(identity)
    subjects = [
        ExampleImage(identity, [s for shelf in shelves if (s := _series(shelf, identity)).seen], why)
        for identity, why in choices.items()
        if identity in shown
    ]
    return DatasetExamples(name, subjects, len(choices), metrics)


def _choices(shelves: Sequence[_EncoderGroups]) -> dict[str, tuple[ExampleChoice, ...]]:
    """Why each image is there: those drawn at random first, then the most damaged, barely broken and survivors."""
    found: dict[str, dict[ExampleChoice, None]] = {}
    for example in (e for shelf in shelves for group in shelf.groups for e in group.group.examples):
        found.setdefault(example.id, {}).update(dict.fromkeys(example.chosen))
    sorted_by_kind = {i: tuple(sorted(why, key=_choice_order)) for i, why in found.items()}
    return dict(sorted(sorted_by_kind.items(), key=lambda item: _choice_order(item[1][0])))


def _choice_order(choice: ExampleChoice) -> tuple[object, ...]:
    return (CHOICE_KINDS.index(choice.kind), choice.task)


def _by_turns(choices: Mapping[str, tuple[ExampleChoice, ...]]) -> list[str]:
    """One drawn at random and one chosen by damage in turn, so that a limit leaves some of both."""
    drawn = [i for i, why in choices.items() if why[0] == RANDOM]
    damaged = [i for i, why in choices.items() if why[0] != RANDOM]
    return [i for pair in zip_longest(drawn, damaged) for i in pair if i]


def choice_text(choice: ExampleChoice) -> str:
    """`drawn at random`, or `most damaged in depth by depthpgd 8/255 on bundled:scenes`."""
    if choice.attack is None:
        return "drawn at random"
    by = f"{choice.attack.label} {eps_text(choice.attack)} on {choice.encoder}"
    return f"survived {by} in {choice.task}" if choice.kind == "survived" else f"{choice.kind} in {choice.task} by {by}"


def _megabytes(found: FoundGroup, example: Example) -> float:
    maps = [name for name in example.predictions.values() if isinstance(name, str)]
    paths = [found.store.image(found.group.group, name) for name in (f"{example.position}.png", *maps)]
    return sum(path.stat().st_size for path in paths if path.exists()) * BASE64 / 1e6


def _of(shelf: _EncoderGroups, image_id: str) -> list[tuple[FoundGroup, Example]]:
    return [(found, e) for found in shelf.groups for e in found.group.examples if e.id == image_id]


def _series(shelf: _EncoderGroups, image_id: str) -> EncoderImages:
    found = _of(shelf, image_id)
    labels = attack_labels([g.group.attack_key for g, _ in found])
    seen = [_seen(label, g, e) for label, (g, e) in zip(labels, found, strict=True)]
    clean = [(g, e) for g, e in found if g.group.attack_key.is_clean]
    truth = _truth(*clean[0]) if clean else Truth({}, {})
    return EncoderImages(shelf.encoder, truth, seen)


def _seen(label: str, found: FoundGroup, example: Example) -> SeenImage:
    image = read_array(found.store.image(found.group.group, f"{example.position}.png"))
    return SeenImage(label, found.group, example, image, _maps(found, example.predictions))


def _truth(found: FoundGroup, example: Example) -> Truth:
    names = {t: str(n) for t, n in example.truth.items() if _kind(found.group, t) == "classes"}
    return Truth(names, _maps(found, example.truth))


def _maps(found: FoundGroup, files: dict[str, Any]) -> dict[str, NDArray[Any]]:
    store, group = found.store, found.group
    arrays = {t: read_array(store.image(group.group, f)) for t, f in files.items() if _kind(group, t) != "classes"}
    scales = {task: group.displays[task].scale for task in arrays}
    return {task: array / scales[task] if scales[task] != 1 else array for task, array in arrays.items()}


def _kind(group: Group, task: str) -> str:
    return group.displays[task].kind if task in group.displays else "classes"
