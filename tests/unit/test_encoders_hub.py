"""hub: the three tongues that models of torch.hub speak, from a local folder and from torch.hub's cache."""

from pathlib import Path

import pytest
import torch
from timm.models import get_pretrained_cfg

from robustprobe import UserError, load_encoder
from robustprobe.encoders._norms import NORMS
from tests.unit.encoders_on_disk import assert_features, close, inner, normalised, some_images, without_network

pytestmark = pytest.mark.unit

HUBCONF = """
import timm
import torch
from torch import nn

URL = "https://example.org/weights/tiny.pth"

class DINO(nn.Module):
    def __init__(self, registers=0):
        super().__init__()
        self.inner = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True, reg_tokens=registers)
        self.patch_embed, self.blocks, self.embed_dim = self.inner.patch_embed, self.inner.blocks, 64
    def _layers(self, x, which):
        found = self.inner.forward_intermediates(
            x, indices=which, norm=True, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True)
        return [(patches, prefix) for patches, prefix in found]
    def get_intermediate_layers(self, x, n=1):
        return [torch.cat([prefix, patches], 1) for patches, prefix in self._layers(x, n)]

class DINOv2(DINO):
    patch_size = 16
    def forward_features(self, x):
        tokens = self.inner.forward_features(x)
        return {"x_norm_clstoken": tokens[:, 0], "x_norm_patchtokens": tokens[:, 5:], "x_prenorm": None}
    def get_intermediate_layers(self, x, n, reshape=False, return_class_token=False, norm=True):
        h, w = x.shape[2] // 16, x.shape[3] // 16
        return tuple((p.transpose(1, 2).reshape(len(x), -1, h, w), c[:, 0]) for p, c in self._layers(x, n))

def dino(pretrained=True):
    torch.manual_seed(0)
    return DINO()

def dinov2():
    torch.manual_seed(0)
    return DINOv2(registers=4)

def resnet():
    from torchvision.models import resnet18
    torch.manual_seed(0)
    return resnet18(weights=None)

def named(weights="first"):
    torch.manual_seed({"first": 0, "second": 1}[weights])
    return DINO()

def downloading():
    model = DINO()
    model.load_state_dict(torch.hub.load_state_dict_from_url(URL, map_location="cpu"))
    return model

def satellite(weights="LVD1689M"):
    return dinov2()

def linear():
    return nn.Linear(2, 2)

def number():
    return 3

def failing():
    raise KeyError("weights")
"""


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Torch.hub's folder with one repository, as torch.hub lays it out; no network."""
    without_network(monkeypatch, tmp_path)
    folder = tmp_path / "torch" / "hub" / "owner_repo_main"
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text(HUBCONF)
    return tmp_path / "torch" / "hub"


@pytest.mark.parametrize("repository", ["owner/repo", "owner/repo:main", "local"])
@pytest.mark.parametrize(("name", "prefix"), [("dino", 1), ("dinov2", 5)])
def test_transformers_give_their_own_features(cached: Path, repository: str, name: str, prefix: int) -> None:
    position = str(cached / "owner_repo_main") if repository == "local" else repository
    encoder = load_encoder(f"hub:{position}:{name}")
    card = encoder.card
    assert (card.name, card.source, card.patch_size, card.widths) == (f"hub:{position}:{name}", "hub", 16, (64, 64))
    assert card.revision == ("main" if repository.endswith(":main") else "")
    for size in ((64, 96), (160, 160)):
        images = some_images(*size)
        tokens = inner(encoder).inner.forward_features(normalised(images))
        features = assert_features(encoder, images, tokens, prefix=prefix)
        last, before = encoder.layers(images, [-1, 0])
        close(last.cls, features.cls)
        close(last.patches, features.patches)
        assert not torch.allclose(before.patches, last.patches, atol=1e-3)
    with pytest.raises(UserError, match="99 was given"):
        encoder.layers(some_images(64, 64), [99])


def test_resnets_give_the_last_map_and_its_mean(cached: Path) -> None:
    encoder = load_encoder("hub:owner/repo:resnet")
    assert (encoder.card.patch_size, encoder.card.widths) == (32, (512, 512))
    images = some_images(64, 96)
    features = encoder(images)
    assert features.patches.shape == (2, 512, 2, 3)
    model = inner(encoder)
    model.fc = torch.nn.Identity()
    close(features.cls, model(normalised(images)))


def test_weights_are_passed_on_and_nothing_else(cached: Path) -> None:
    digests = {load_encoder(f"hub:owner/repo:named{w}").digest for w in ("", "?weights=first", "?weights=second")}
    assert len(digests) == 2
    with pytest.raises(UserError, match="unknown option of 'owner/repo:named\\?wait=1'"):
        load_encoder("hub:owner/repo:named?wait=1")


def test_a_missing_download_is_named(cached: Path) -> None:
    with pytest.raises(
        UserError, match=r"needs https://example\.org/weights/tiny\.pth, which is not at (\S+)"
    ) as caught:
        load_encoder("hub:owner/repo:downloading")
    assert str(cached / "checkpoints" / "tiny.pth") in str(caught.value)
    (cached / "checkpoints").mkdir(exist_ok=True)
    weights = inner(load_encoder("hub:owner/repo:dino")).state_dict()
    torch.save(weights, cached / "checkpoints" / "tiny.pth")
    assert load_encoder("hub:owner/repo:downloading").digest == load_encoder("hub:owner/repo:dino").digest


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hub:owner/other:dino", r"needs the repository owner/other, which is not at .*owner_other_main .*TORCH_HOME"),
        ("hub:owner/repo:v2:dino", r"needs the repository owner/repo:v2, which is not at .*owner_repo_v2"),
        ("hub:dino", "names no model; write hub:OWNER/REPO:NAME"),
        ("hub:owner/repo:nope", "hub:owner/repo:nope cannot be loaded: .*nope"),
        ("hub:owner/repo:failing", "cannot be loaded: KeyError: 'weights'"),
        ("hub:owner/repo:linear", r"is a Linear, whose features robustprobe cannot read .*as my\.py:Class"),
        ("hub:owner/repo:number", "is a int, whose features .*not a torch module"),
    ],
)
def test_what_is_no_encoder_is_refused(cached: Path, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_encoder(spec)


@pytest.mark.parametrize(
    ("options", "norm"),
    [
        ("", "imagenet"),
        ("?weights=LVD1689M", "imagenet"),
        ("?weights=SAT493M", "sat493m"),
        ("?weights=/weights/dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth", "sat493m"),
        ("?weights=SAT493M&norm=half", "half"),
        ("?norm=clip", "clip"),
    ],
)
def test_images_are_normalised_as_the_weights_were_trained(cached: Path, options: str, norm: str) -> None:
    """Weights of DINOv3 that were trained on satellite images have another mean and deviation than ImageNet's."""
    encoder = load_encoder(f"hub:owner/repo:satellite{options}")
    seen: list[torch.Tensor] = []
    patchify = next(module for module in encoder.modules() if isinstance(module, torch.nn.Conv2d))
    patchify.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    images = some_images(64, 64)
    encoder(images)
    close(seen[0], normalised(images, NORMS[norm]))


def test_the_satellite_normalisation_is_that_of_the_library() -> None:
    config = get_pretrained_cfg("vit_large_patch16_dinov3.sat493m")
    assert NORMS["sat493m"] == (config.mean, config.std)


def test_an_unknown_normalisation_is_named(cached: Path) -> None:
    with pytest.raises(UserError, match="unknown normalisation 'satellite'"):
        load_encoder("hub:owner/repo:satellite?norm=satellite")
