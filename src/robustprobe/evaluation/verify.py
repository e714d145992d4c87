"""Stored adversarial images judged again: whether results are what their records say."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustprobe import probing
from robustprobe.core.errors import UserError
from robustprobe.core.fingerprints import fingerprint
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.images import opened
from robustprobe.core.patches import box_mask
from robustprobe.core.spec import DatasetSpec
from robustprobe.core.threat import THREATS, Threat
from robustprobe.datasets import Dataset, find_dataset, load_dataset
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.evaluation.row_scores import row_scores
from robustprobe.metrics.statistics import PATCH
from robustprobe.results.example_images import Example, Group
from robustprobe.results.labels import record_label
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from robustprobe.tasks import Model

HALF_LEVEL = 0.5 / 255
"""Pictures are stored in 8 bits: a pixel is off by at most half a level."""
TOLERANCE = 0.01
"""Scores that differ by at most this, or by this share, agree: another device rounds differently."""
MOST_DIFFERING = 0.05

Say = Callable[[str], None]


class VerifiedCell(NamedTuple):
    """What judging the stored images of one cell again gave: how many, how many of them are outside of the ball or
    have another score than their row, the largest difference of a score, and whether the number of the record is that
    of its rows.
    """

    label: str
    images: int
    outside: int
    differing: int
    largest: float
    counted: bool

    @property
    def holds(self) -> bool:
        """Whether all images are in the ball, 19 of 20 scores agree, and the number is that of the rows."""
        return self.counted and not self.outside and self.differing <= MOST_DIFFERING * self.images


class _Setting(NamedTuple):
    """An encoder on a dataset as the records of a group describe them."""

    data: Dataset
    positions: dict[str, int]
    models: dict[str, Model]


class Verifier:
    """Loads what the records of a store name, and judges its example images again."""

    def __init__(
        self,
        store: Store,
        root: Path,
        device: torch.device,
        encoders: Sequence[str] = (),
        datasets: Sequence[str] = (),
        say: Say = lambda text: None,
    ) -> None:
        """Load the encoders that are given; all else is loaded when it is needed.

        Args:
            encoders: names of encoders here, where they are not those of the records; found by their digests.
            datasets: the same for datasets, found by their names in tables.

        Raises:
            UserError: an encoder or dataset that is given is not here.
        """
        self.store, self.root, self.device, self.say = store, root, device, say
        self.given = [load_encoder(spec) for spec in encoders]
        self.datasets = {find_dataset(spec, root=root).name: spec for spec in datasets}
        self.encoders: dict[tuple[str, str], Encoder] = {}
        self.settings: dict[Hashable, _Setting] = {}

    def verify(self, images: int) -> list[VerifiedCell]:
        """Judge up to `images` stored images of every cell again.

        Raises:
            UserError: no stored images, or the encoder or images of a record are not here.
        """
        records: dict[str, list[Record]] = {}
        for record in self.store.records():
            records.setdefault(record.group, []).append(record)
        groups = [group for group in self.store.groups() if group.group in records and group.examples]
        if not groups:
            raise UserError(
                f"{self.store.folder} holds no example images to judge again; run the suite with --examples 6 or more."
            )
        return [cell for group in groups for cell in self._group(group, records[group.group], images)]

    def _group(self, group: Group, records: Sequence[Record], images: int) -> Iterable[VerifiedCell]:
        setting = self._setting(records)
        ball = THREATS[group.attack.norm](group.attack.eps)
        shown = [example for example in group.examples if example.id in setting.positions][:images]
        pictures = [self._picture(group, example) for example in shown]
        outside = sum(self._is_outside(setting, ball, *pair) for pair in zip(shown, pictures, strict=True))
        for record in records:
            again = [self._score(setting, record, *pair) for pair in zip(shown, pictures, strict=True)]
            stored = self._stored(record, setting.models[record.task])
            counted = self._is_counted(record, setting.models[record.task])
            differences = [abs(new - stored[example.id]) for new, example in zip(again, shown, strict=True)]
            allowed = [TOLERANCE * max(1.0, abs(stored[example.id])) for example in shown]
            differing = sum(one > most for one, most in zip(differences, allowed, strict=True))
            label = f"{record.encoder}, {record.dataset}, {record.task}, {record_label(record)}"
            yield VerifiedCell(label, len(shown), outside, differing, max(differences, default=0.0), counted)

    def _picture(self, group: Group, example: Example) -> Tensor:
        """The stored image (3, H, W)."""
        with opened(self.store.image(group.group, f"{example.position}.png"), ("PNG",)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        return torch.tensor(pixels).permute(2, 0, 1).float() / 255

    @staticmethod
    def _is_outside(setting: _Setting, ball: Threat, example: Example, picture: Tensor) -> bool:
        clean = setting.data[setting.positions[example.id]].image
        if clean.shape != picture.shape:
            return True
        rounding = ball.size(torch.full_like(clean, HALF_LEVEL)[None])
        return bool(ball.size((picture - clean)[None]) > ball.eps + rounding + 1e-6)

    @torch.no_grad()
    def _score(self, setting: _Setting, record: Record, example: Example, picture: Tensor) -> float:
        model, place = setting.models[record.task], setting.positions[example.id]
        target = setting.data[place].targets[record.task][None]
        if record.is_patch:
            box = torch.tensor([self.store.rows(record.fingerprint).column(PATCH)[place].as_py()])
            target = model.task.without(target, box_mask(box, (picture.shape[-2], picture.shape[-1])))
        rows = model.task.rows(model(picture[None].to(self.device)), target.to(self.device))
        return float(model.task.score({name: column.cpu() for name, column in rows.items()}))

    def _stored(self, record: Record, model: Model) -> dict[str, float]:
        """Scores after rounding to 8 bits by id, from the rows."""
        ids = self.store.rows(record.fingerprint).column("id").to_pylist()
        return dict(zip(ids, map(float, row_scores(self.store, record.fingerprint, model.task)[1]), strict=True))

    def _is_counted(self, record: Record, model: Model) -> bool:
        """Whether the number of a record is what its rows give."""
        rows = self.store.rows(record.fingerprint)
        columns = {name: np.stack(rows.column(name).to_numpy()) for name in rows.column_names if name != "id"}
        value = model.task.estimates(columns)[record.metric].value
        return len(rows) == record.n and abs(value - record.headline.value) <= 1e-6 * max(1.0, abs(value))

    def _setting(self, records: Sequence[Record]) -> _Setting:
        record, tasks = records[0], sorted(record.task for record in records)
        recipe = fingerprint(record.head.recipe)
        images = (record.dataset, record.dataset_digest, record.split, record.image_size, record.attack_at, record.n)
        key = (record.encoder, record.encoder_digest, *images, recipe, tuple(tasks))
        if key not in self.settings:
            self.settings[key] = self._loaded(records, tasks)
        return self.settings[key]

    def _loaded(self, records: Sequence[Record], tasks: Sequence[str]) -> _Setting:
        record, encoder = records[0], self._encoder(records[0])
        spec = HeadSpec.model_validate(record.head.recipe)
        name = self.datasets.get(record.dataset, record.dataset)
        heads = probing.plan_heads(encoder, DatasetSpec(name=name), spec, root=self.root, tasks=tasks)
        size = heads.size
        if record.image_size != size and not isinstance(record.image_size, int):
            size = record.image_size
            if record.attack_at == "served":
                asked = DatasetSpec(name=name, size=size)
                heads = probing.plan_heads(encoder, asked, spec, root=self.root, tasks=tasks)
        data = load_dataset(name, root=self.root, split=record.split, limit=record.n, size=size, tasks=tasks)
        if data.digest() != record.dataset_digest:
            self.say(f"{record.dataset}: files here are not those of the record (another digest)")
        if any(heads.keys[r.task] != r.head.fingerprint for r in records):
            self.say(
                f"{record.encoder} on {record.dataset}: heads are fitted by another version than those that judged"
            )
        models = {task: model for task, (model, _) in heads.fit(self.device, tasks).items()}
        return _Setting(data, {name: place for place, name in enumerate(data.kept_ids)}, models)

    def _encoder(self, record: Record) -> Encoder:
        key = (record.encoder, record.encoder_digest)
        if key not in self.encoders:
            known = [*self.given, *self._of_that_name(record.encoder)]
            found = next((one for one in known if one.digest == record.encoder_digest), None)
            if found is None:
                here = ", ".join(f"{one.card.name} ({one.digest[:12]})" for one in known) or "none of that name"
                raise UserError(
                    f"the results are of {record.encoder} with digest {record.encoder_digest[:12]}, "
                    f"and here is {here}; give the encoder that was evaluated with --encoder SPEC."
                )
            self.encoders[key] = found.freeze().to(self.device)
        return self.encoders[key]

    @staticmethod
    def _of_that_name(name: str) -> list[Encoder]:
        """The encoder of a name, if there is one here: a record may name one by a path of another machine."""
        try:
            return [load_encoder(name)]
        except UserError:
            return []
