"""A ranking of encoders from many folders of results: an index and a page per encoder."""

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from robustprobe.core.errors import UserError
from robustprobe.report.page.render import assets, download, environment, render_page, script, write_text
from robustprobe.report.tables.board import Board, TaskOnDatasetKey, boards
from robustprobe.report.tables.chance import chances
from robustprobe.results.archive import ENDING, unpack
from robustprobe.results.labels import USUAL_HEADS, record_label
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from robustprobe.results.union import finished, union_groups

TITLE = "Leaderboard: how robust are vision encoders?"
MEGABYTES = 6.0
NEVER_COMPARED = frozenset({"name", "objective", "eps", "norm"})
"""These name the column of an attack; all its other settings are its version."""


class Refusal(NamedTuple):
    """An encoder that cannot be compared with the others: in which cell and field, and what was expected."""

    encoder: str
    cell: str
    field: str
    own: str
    expected: str


class Standing(NamedTuple):
    """The ranking of one suite at each eps, the largest first, and the encoders left out of it."""

    suite: str
    version: str
    boards: list[Board]
    refusals: list[Refusal]

    @property
    def board(self) -> Board:
        """The ranking at the largest eps."""
        return self.boards[0]

    @property
    def links(self) -> dict[str, str]:
        """Where the page of each row's encoder is, from the index."""
        names = [item for board in self.boards for item in board.names.items()]
        return {name: f"encoders/{page_name(str(key[0]), str(key[1]))}" for key, name in names}


def write_leaderboard(folder: Path, output: Path, title: str = TITLE) -> Path:
    """Write the site of every folder of results in a folder, at any depth.

    Args:
        folder: holds what several `robustprobe run --out` wrote, or files of `robustprobe submit`.
        output: folder of the site: index.html, and a page per encoder in encoders/.
        title: its heading.

    Returns:
        The index.

    Raises:
        UserError: no results, different results for one cell, a damaged file, or one that cannot be written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _write_site(_folders(folder, Path(scratch)), output, title)


def _folders(folder: Path, scratch: Path) -> list[Path]:
    """Folders of results in a folder, and in the archives there, which are unpacked into `scratch`."""
    found = sorted(path.parent for path in [folder / "cells", *folder.glob("**/cells")] if path.is_dir())
    archives = sorted(folder.glob(f"**/*{ENDING}"))
    found += [unpack(archive, scratch / str(number)).folder for number, archive in enumerate(archives)]
    if not found:
        raise UserError(
            f"no results in {folder} or below; give a folder that holds what `robustprobe run --out` or `submit` wrote."
        )
    return list(dict.fromkeys(found))


def _write_site(folders: Sequence[Path], output: Path, title: str) -> Path:
    from robustprobe.report.page.examples import ImageLimit

    found, groups = finished(folders, "rank"), union_groups([Store(path) for path in folders])
    records, chance = [f.record for f in found], chances(found)
    pages: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        pages.setdefault((record.encoder, record.encoder_digest), []).append(record)
    for (name, digest), own in pages.items():
        content = render_page(own, groups, ImageLimit(24, MEGABYTES), "../index.html", chance)
        write_text(output / "encoders" / page_name(name, digest), content, "page")
    write_text(output / "index.html", _index(standings(records, chance), records, title), "site")
    return output / "index.html"


def page_name(encoder: str, digest: str) -> str:
    """A readable and unique file name for an encoder."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", encoder).strip("-")[:60]
    own = hashlib.sha256(f"{encoder}\n{digest}".encode()).hexdigest()[:8]
    return f"{readable}-{own}.html"


def standings(
    records: Iterable[Record], chance: Mapping[TaskOnDatasetKey, float] = MappingProxyType({})
) -> list[Standing]:
    """A board for each suite, of the encoders whose cells are all of its prevailing version.

    The version of a cell that most encoders have prevails, of equals the newest.
    """
    by_suite: dict[str, list[Record]] = {}
    for record in records:
        by_suite.setdefault(record.suite, []).append(record)
    return [_standing(suite, own, chance) for suite, own in sorted(by_suite.items())]


def _standing(suite: str, records: list[Record], chance: Mapping[TaskOnDatasetKey, float]) -> Standing:
    slots: dict[Hashable, list[Record]] = {}
    for record in records:
        slots.setdefault(_slot(record), []).append(record)
    accepted: list[Record] = []
    refusals: dict[tuple[str, str], Refusal] = {}
    for own in slots.values():
        reference = _prevailing(own)
        fitting = [r for r in own if version(r) == version(reference)]
        accepted += fitting
        known = {_encoder(r) for r in fitting}
        for record in own:
            if _encoder(record) not in known:
                refusals.setdefault(_encoder(record), _refusal(record, reference))
    kept = [r for r in accepted if _encoder(r) not in refusals]
    versions = Counter(r.provenance.versions.get("robustprobe", "unknown") for r in kept)
    return Standing(suite, ", ".join(sorted(versions)), boards(kept, chance), list(refusals.values()))


def _encoder(record: Record) -> tuple[str, str]:
    return (record.encoder, record.encoder_digest)


def _slot(record: Record) -> tuple[Hashable, ...]:
    attack = record.attack
    return (
        record.dataset,
        record.task,
        record.target_task,
        record.source_encoder,
        attack.label,
        attack.norm if attack.eps else "",
        attack.eps,
    )


def version(record: Record) -> dict[str, str]:
    """What must be the same for two encoders to share a column; images may be of the size an encoder prefers."""
    attack = record.attack.model_dump(mode="json") if record.attack.eps else {}
    facts: dict[str, Any] = {
        "robustprobe": record.provenance.versions.get("robustprobe", "unknown"),
        "dataset_digest": record.content_digest,
        "split": record.split,
        "n": record.n,
        "image_ids_digest": record.image_ids_digest,
        "metric": record.metric,
        "precision": record.precision,
        "attack_at": record.attack_at,
        "head.recipe": record.head.recipe.get("recipe"),
        **{f"head.{name}": record.head.recipe.get(name, usual) for name, usual in USUAL_HEADS.items()},
        "head.train_images": record.head.train_images,
        **{f"attack.{key}": value for key, value in attack.items() if key not in NEVER_COMPARED},
    }
    return {key: str(value) for key, value in facts.items()}


def _prevailing(records: Sequence[Record]) -> Record:
    encoders: dict[Hashable, set[Hashable]] = {}
    for record in records:
        encoders.setdefault(tuple(version(record).items()), set()).add(_encoder(record))
    return max(records, key=lambda r: (len(encoders[tuple(version(r).items())]), r.provenance.started, r.fingerprint))


def _refusal(record: Record, reference: Record) -> Refusal:
    own, expected = version(record), version(reference)
    field = next(key for key in {**expected, **own} if own.get(key) != expected.get(key))
    label = record_label(record)
    cell = f"{record.task} on {record.dataset}, {label}"
    return Refusal(record.encoder, cell, field, own.get(field, "nothing"), expected.get(field, "nothing"))


def _index(found: list[Standing], records: list[Record], title: str) -> str:
    encoders = len({_encoder(r) for r in records})
    return (
        environment()
        .get_template("leaderboard.html.j2")
        .render(
            **assets([script("matrix.js")]),
            standings=found,
            title=title,
            encoders=encoders,
            downloads=[download(records, "json", "application/json"), download(records, "csv", "text/csv")],
        )
    )
