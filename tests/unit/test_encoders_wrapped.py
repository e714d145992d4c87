"""`robustprobe.wrap`: any network becomes an encoder that keeps the contract."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import robustprobe as rp
from robustprobe.encoders import check_encoder

pytestmark = pytest.mark.unit
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Tokens(nn.Module):
    """A class token and patch tokens of 8 pixels, in a dictionary as transformers answer."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 6, 8, 8)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        tokens = self.cut(images).flatten(2).transpose(1, 2)
        return {"pooler_output": tokens.mean(1), "last_hidden_state": torch.cat([2 * tokens.mean(1, True), tokens], 1)}


def plain() -> nn.Module:
    maps = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


NETWORKS: dict[str, tuple[Any, dict[str, Any], int, int]] = {
    "plain": (plain, {"input_size": 32}, 4, 12),
    "resnet18": (torchvision.models.resnet18, {"input_size": 64}, 32, 512),
    "transformer of timm": (lambda: timm.create_model("test_vit"), {"input_size": 160}, 16, 64),
    "tokens": (Tokens, {"input_size": (48, 48), "patch_size": 8}, 8, 6),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_pass_every_check(name: str) -> None:
    make, options, patch, width = NETWORKS[name]
    torch.manual_seed(0)
    encoder = rp.wrap(make(), **IMAGENET, **options)
    assert encoder.card.patch_size == patch
    assert encoder.card.widths == (width, width)
    found = check_encoder(encoder)
    assert all(check.passed for check in found), found


def test_features_are_those_of_the_layer_on_normalised_images() -> None:
    network = plain().eval()
    encoder = rp.wrap(network, mean=0.5, std=0.25, input_size=32, layer="3")
    images = torch.rand(2, 3, 40, 32)
    expected = nn.Sequential(*list(network.children())[:4])((images - 0.5) / 0.25)
    torch.testing.assert_close(encoder(images).patches, expected)
    torch.testing.assert_close(encoder(images).cls, expected.mean((2, 3)))
    tokens = Tokens()
    wrapped = rp.wrap(tokens, input_size=48, patch_size=8)
    torch.testing.assert_close(wrapped(images[:, :, :, :32]).cls, tokens(images)["last_hidden_state"][:, 0])


def test_what_is_not_a_weight_is_part_of_the_digest() -> None:
    torch.manual_seed(0)
    one, other = plain(), plain()
    other.load_state_dict(one.state_dict())
    assert rp.wrap(one, input_size=32).digest == rp.wrap(other, input_size=32).digest
    other.add_module("4", nn.GELU())
    assert rp.wrap(one, input_size=32).digest != rp.wrap(other, input_size=32).digest
    assert rp.wrap(one, input_size=32).digest != rp.wrap(one, input_size=32, mean=0.5, std=0.5).digest


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (lambda x: x, {}, "wrap takes a network .* not a function"),
        (plain(), {"layer": "33", "input_size": 32}, "unknown layer of Sequential '33'"),
        (plain(), {"std": 0, "input_size": 32}, "expected numbers above 0"),
        (plain(), {"mean": (1, 2), "input_size": 32}, "one for each of the three channels"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), {"input_size": 32}, "no patch tokens found"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)),
            {"input_size": 30},
            r"does not take images of \(30, 30\)",
        ),
    ],
)
def test_mistakes_are_refused(network: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(rp.UserError, match=message):
        rp.wrap(network, **options)


MINE = """
import torch
import robustprobe as rp

class Plain(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 8, 8)

def factory():
    return rp.wrap(Plain(), mean=0.5, std=0.5, input_size=32)

def network():
    return Plain()

def broken():
    return rp.nothing

ready = factory()

class Args(rp.Encoder):
    def __init__(self, path):
        super().__init__(rp.EncoderCard(name="a", patch_size=8, input_size=(32, 32), widths=rp.FeatureDims(4, 4)))
    def features(self, images):
        return None
"""


def test_a_file_may_hold_a_factory_or_an_instance(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    for name in ("factory", "ready"):
        assert rp.load_encoder(f"{tmp_path}/mine.py:{name}")(torch.rand(1, 3, 32, 32)).patches.shape == (1, 4, 4, 4)
    for name, message in {
        "network": r"is a Plain, not an encoder.*robustprobe\.wrap",
        "Plain": "is the class Plain, not an encoder",
        "broken": "cannot be made: AttributeError",
        "Args": r"needs arguments \(path\); give them defaults, or add a function.*return Args\(",
    }.items():
        with pytest.raises(rp.UserError, match=message):
            rp.load_encoder(f"{tmp_path}/mine.py:{name}")
