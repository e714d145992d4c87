"""What tests share: tiny encoders, heads on generated scenes, and a head cache of their own."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings

from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.views import Resized
from robustprobe.datasets.scenes import Scenes
from robustprobe.encoders import Encoder
from robustprobe.encoders.file import Architecture, build
from robustprobe.probing import Fitted, TrainData, fit_probes, train_data
from robustprobe.probing.recipes import Preprocessing
from robustprobe.tasks import Model

# Sums of several threads round otherwise, and tests compare bits; here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

settings.register_profile("robustprobe", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("robustprobe")

TINY = Architecture(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
SHORT = HeadSpec(train_limit=24, epochs=1, batch_size=8, learning_rates=(3e-3,))


def whole(size: tuple[int, int]) -> Preprocessing:
    """Scenes at a size, seen whole."""
    return Preprocessing(size, dict.fromkeys(Scenes.labels, Resized(size=size)))


class SceneProbes(NamedTuple):
    """Heads of every task on the tiny encoder, and what they were fitted on."""

    encoder: Encoder
    data: TrainData
    spec: HeadSpec
    fitted: Mapping[str, tuple[Model, Fitted]]


@pytest.fixture(scope="session", autouse=True)
def head_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTPROBE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_encoder() -> Encoder:
    """A random encoder for 16 x 16 images with 2 x 2 patch tokens. Copy it before changing it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(TINY, "file:tiny").freeze()


@pytest.fixture(scope="session")
def scene_probes(tiny_encoder: Encoder, head_cache: Path) -> SceneProbes:
    data = train_data("scenes", Path("nowhere"), whole((16, 16)), SHORT)
    device = torch.device("cpu")
    fitted = fit_probes(tiny_encoder, data, list(data.train.labels), spec=SHORT, device=device)
    return SceneProbes(tiny_encoder, data, SHORT, fitted)
