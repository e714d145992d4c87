"""Which example images belong together: one dataset's image, for each encoder the clean and the attacked versions."""

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from robustprobe.report._matrix import attack_labels, attack_order, data_key, data_names, distinctions
from robustprobe.report._pictures import Pixels, read_array
from robustprobe.store import Example, Group, Record, Store


class Seen(NamedTuple):
    """One image under one attack, and what each head said. Masks (H, W) are class indices, depth (H, W) in metres."""

    label: str
    group: Group
    example: Example
    image: Pixels
    mask: NDArray[Any] | None
    depth: NDArray[Any] | None


class Truth(NamedTuple):
    """What an image shows; None where that is not known."""

    name: str | None
    mask: NDArray[Any] | None
    depth: NDArray[Any] | None


class Series(NamedTuple):
    """One image, one encoder: what every attack made of it, the clean image first if there is one."""

    encoder: str
    truth: Truth
    seen: list[Seen]


class Subject(NamedTuple):
    """One image and what all encoders said of it."""

    id: str
    series: list[Series]


class Gallery(NamedTuple):
    """The example images of one dataset."""

    dataset: str
    subjects: list[Subject]


class _Shelf(NamedTuple):
    """Groups of one encoder on one choice of images."""

    encoder: str
    groups: list[Group]


def galleries(store: Store, records: Iterable[Record]) -> list[Gallery]:
    """Everything there is to show, read from the store. Groups that no finished cell belongs to are left out.

    Raises:
        UserError: an image that cannot be read.
    """
    witness = {record.group: record for record in records}
    groups = sorted((g for g in store.groups() if g.group in witness), key=lambda g: (g.dataset, g.encoder))
    by_data: dict[Hashable, list[Group]] = {}
    for group in groups:
        by_data.setdefault(data_key(witness[group.group]), []).append(group)
    names = data_names([witness[some[0].group] for some in by_data.values()])
    return [
        Gallery(name, _subjects(store, _shelves(some, witness)))
        for name, some in zip(names, by_data.values(), strict=True)
    ]


def _shelves(groups: list[Group], witness: dict[str, Record]) -> list[_Shelf]:
    by_encoder: dict[Hashable, list[Group]] = {}
    for group in groups:
        record = witness[group.group]
        by_encoder.setdefault((record.encoder, record.encoder_digest, record.precision), []).append(group)
    first = [witness[some[0].group] for some in by_encoder.values()]
    facts = [{"weights": r.encoder_digest[:8], "precision": r.precision} for r in first]
    endings = distinctions([r.encoder for r in first], facts)
    return [
        _Shelf(record.encoder + ending, sorted(some, key=lambda g: attack_order(g.attack, g.made_for)))
        for record, ending, some in zip(first, endings, by_encoder.values(), strict=True)
    ]


def _subjects(store: Store, shelves: list[_Shelf]) -> list[Subject]:
    ids = dict.fromkeys(e.id for shelf in shelves for group in shelf.groups for e in group.examples)
    return [Subject(i, [s for shelf in shelves if (s := _series(store, shelf, i)).seen]) for i in ids]


def _series(store: Store, shelf: _Shelf, image_id: str) -> Series:
    found = [(g, e) for g in shelf.groups for e in g.examples if e.id == image_id]
    labels = attack_labels([(g.attack, g.made_for) for g, _ in found])
    seen = [_seen(store, label, g, e) for label, (g, e) in zip(labels, found, strict=True)]
    clean = [(g, e) for g, e in found if g.attack.name == "clean"]
    truth = _truth(store, *clean[0]) if clean else Truth(None, None, None)
    return Series(shelf.encoder, truth, seen)


def _seen(store: Store, label: str, group: Group, example: Example) -> Seen:
    image = read_array(store.image(group.group, f"{example.place}.png"))
    mask, depth = _maps(store, group, example.predictions)
    return Seen(label, group, example, image, mask, depth)


def _truth(store: Store, group: Group, example: Example) -> Truth:
    return Truth(example.truth.get("classification"), *_maps(store, group, example.truth))


def _maps(store: Store, group: Group, files: dict[str, Any]) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    mask = read_array(store.image(group.group, files["segmentation"])) if "segmentation" in files else None
    depth = read_array(store.image(group.group, files["depth"])) / 1000 if "depth" in files else None
    return mask, depth
