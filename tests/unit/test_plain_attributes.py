"""Numbers and words that an encoder of one's own holds beside its weights are part of what it is."""

import copy
import pickle
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustprobe as rp
from robustprobe.core.types import FeatureDims, Features
from robustprobe.encoders import Encoder, EncoderCard

pytestmark = pytest.mark.unit


class Part(nn.Module):
    """Multiplies by a number that no weight holds."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factors = [factor]

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.factors[0]


@final
class Powers(Encoder):
    """Mean colours of patches, raised to a power; counts its calls."""

    _power: int

    def __init__(self, power: int, factor: float = 1.0, note: str = "") -> None:
        dims = FeatureDims(3, 3)
        super().__init__(EncoderCard(name="powers", patch_size=8, input_size=(16, 16), widths=dims))
        self._power, self.note, self.calls = power, note, 0
        self.part = Part(factor)

    def features(self, images: Tensor) -> Features:
        self.calls += 1
        maps = self.part(F.avg_pool2d(images, 8) ** self._power)
        return Features(maps.mean((2, 3)), maps)


@pytest.mark.parametrize("other", [lambda: Powers(2), lambda: Powers(1, 2.0), lambda: Powers(1, note="b")])
def test_encoders_that_differ_in_one_value_have_two_digests(other: Callable[[], Encoder]) -> None:
    assert Powers(1).digest == Powers(1).digest
    assert other().digest != Powers(1).digest


def test_the_digest_stays_while_an_encoder_is_used_and_sent_elsewhere() -> None:
    encoder = Powers(2)
    encoder.freeze()
    before = encoder.digest
    encoder(torch.rand(1, 3, 16, 16))
    assert encoder.freeze().digest == before
    assert copy.deepcopy(encoder).freeze().digest == before
    assert pickle.loads(pickle.dumps(encoder)).freeze().digest == before
    encoder._power = 3
    assert encoder.freeze_again().digest != before


def test_where_weights_lie_is_no_part_of_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Powers(1, note=str(tmp_path / "a.pth")).digest == Powers(1, note=str(tmp_path)).digest
    before = Powers(1, note="mean").digest
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mean").mkdir()
    (tmp_path / "max").mkdir()
    assert Powers(1, note="mean").digest == before
    assert Powers(1, note="max").digest != before


@dataclass
class Settings:
    layers: tuple[int | None, ...]
    cache: object


class Kind(Enum):
    A = 1
    B = 2


@pytest.mark.parametrize(
    "make",
    [
        lambda number: Settings((None, number), object()),
        lambda number: SimpleNamespace(inside={"number": number, "other": object()}),
        lambda number: Namespace(number=number),
        lambda number: [object(), np.int64(number)],
        Kind,
    ],
)
def test_values_inside_others_count(make: Callable[[int], object]) -> None:
    def digest(number: int) -> str:
        encoder: Any = Powers(1)
        encoder.settings_of_mine = make(number)
        return str(encoder.digest)

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_attributes_of_wrapped_networks_count() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 8, 8), Part(1))
    again, other = copy.deepcopy(network), copy.deepcopy(network)
    part: Any = other[1]
    part.factors = [3]
    first, same, different = (rp.wrap(one, input_size=16).digest for one in (network, again, other))
    assert first == same
    assert first != different


def test_a_changed_value_is_evaluated_anew(tmp_path: Path) -> None:
    encoder = Powers(1)

    def clean() -> float:
        options: dict[str, Any] = {"limit": 6, "head": {"train_limit": 40}, "tasks": ["depth"]}
        found = rp.evaluate(encoder, "scenes", "clean", out=tmp_path / "results", **options)
        return float(found["value"].iloc[0])

    before = clean()
    encoder._power = 6
    after = clean()
    encoder._power = 1
    assert after != before
    assert clean() == before
