"""timm: and the short names: features equal timm's own on weights laid out as the hub leaves them."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from robustprobe import UserError, load_encoder
from robustprobe.encoders import SHORT_NAMES, full_name
from tests.unit.encoders_on_disk import (
    COMMIT,
    assert_features,
    assert_first_layer,
    close,
    inner,
    lay_out,
    noise,
    normalised,
    plain,
    some_images,
    without_network,
)

pytestmark = pytest.mark.unit


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return without_network(monkeypatch, tmp_path)


@pytest.fixture
def tidy() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize("short", sorted(SHORT_NAMES))
def test_papers_encoders_give_timms_own_features(cache: Path, short: str) -> None:
    name = SHORT_NAMES[short].removeprefix("timm:")
    model = noise(timm.create_model(name, num_classes=0, dynamic_img_size=True))
    lay_out(cache, f"timm/{name}", {"model.safetensors": model.state_dict()})
    encoder = load_encoder(short)
    card = encoder.card
    assert (card.name, card.source, card.revision, card.licence) == (short, "timm", COMMIT, "apache-2.0")
    patch = 16 if short.startswith("dino_") else 14
    assert (card.patch_size, card.input_size) == ((16, (224, 224)) if patch == 16 else (14, (518, 518)))
    images = some_images(4 * patch, 5 * patch)
    with torch.no_grad():
        assert_features(encoder, images, model.forward_features(normalised(images)), prefix=1)


def test_short_names_take_tags_and_revisions() -> None:
    assert full_name("dinov2_vits14") == "timm:vit_small_patch14_dinov2.lvd142m"
    assert full_name("dinov2_vits14.random") == "timm:vit_small_patch14_dinov2.random"
    assert full_name("dino_vitb16@abc") == "timm:vit_base_patch16_224.dino@abc"
    assert full_name("bundled:scenes") == "bundled:scenes"
    assert full_name("my.py:Class") == "my.py:Class"


class Family(NamedTuple):
    """One small member of a family: tokens before the patches, whether the first is a class token, image size."""

    name: str
    prefix: int
    class_token: bool
    patch: int


NARROW = {"embed_dim": 48, "depth": 2, "num_heads": 3}
FAMILIES = {
    "DINO": Family("vit_small_patch16_224.dino", 1, True, 16),
    "DINOv2": Family("vit_small_patch14_dinov2.lvd142m", 1, True, 14),
    "DINOv2 with registers": Family("vit_small_patch14_reg4_dinov2.lvd142m", 5, True, 14),
    "DINOv3": Family("vit_small_patch16_dinov3.lvd1689m", 5, True, 16),
    "EUPE": Family("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", 5, True, 16),
    "MAE": Family("vit_base_patch16_224.mae", 1, True, 16),
    "CLIP": Family("vit_base_patch16_clip_224.openai", 1, True, 16),
    "SigLIP2": Family("vit_base_patch16_siglip_224.v2_webli", 0, False, 16),
    "SigLIP2, averaged": Family("vit_base_patch16_siglip_gap_224.v2_webli", 0, False, 16),
    "C-RADIO": Family("vit_base_patch16_radio_v3.c_radio", 8, True, 16),
    "PE": Family("vit_pe_core_tiny_patch16_384.fb", 1, True, 16),
    "TIPSv2": Family("vit_base_patch14_reg1_tipsv2.webli", 2, True, 14),
    "EVA-02": Family("eva02_tiny_patch14_224.mim_in22k", 1, True, 14),
    "supervised": Family("vit_base_patch16_224.augreg_in21k", 1, True, 16),
    "registers but no class token": Family("vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k", 4, False, 16),
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_family_of_transformers(cache: Path, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The family's own configuration at a small width: prefix, class vector, norm, map, layers, other sizes."""
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **given: real(name, **{**given, **NARROW}))
    model = noise(timm.create_model(family.name, dynamic_img_size=True))
    lay_out(cache, f"timm/{family.name}", {"model.safetensors": model.state_dict()})
    encoder = load_encoder(f"timm:{family.name}")
    config = timm.data.resolve_model_data_config(model)
    assert encoder.card.patch_size == family.patch
    assert encoder.card.input_size == config["input_size"][1:]
    assert not encoder.card.fixed_size
    for size in ((3, 4), (5, 2)):
        images = some_images(size[0] * family.patch, size[1] * family.patch)
        tokens = model.forward_features(normalised(images, (config["mean"], config["std"])))
        pooled = tokens[:, 0] if family.class_token else tokens[:, family.prefix :].mean(1)
        tokens = model.fc_norm(tokens)
        pooled = model.fc_norm(pooled)
        features = encoder(images)
        close(features.cls, pooled)
        close(features.patches.flatten(2).transpose(1, 2), tokens[:, family.prefix :])
        last = encoder.layers(images, [-1])[0]
        close(last.cls, features.cls)
        close(last.patches, features.patches)
        blocks, norms = inner(encoder).blocks, torch.nn.Sequential(model.norm, model.fc_norm)
        assert_first_layer(encoder, blocks, norms, images, prefix=family.prefix)


def test_ijepa_comes_from_its_url_through_torch_hubs_cache(cache: Path, tmp_path: Path) -> None:
    """A small I-JEPA, registered as timm registers the large ones, in the layout of the official checkpoints."""
    url = "https://dl.fbaipublicfiles.com/ijepa/IN1K-tiny.pth.tar"
    options = {
        "patch_size": 16,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
    }

    def robustprobe_ijepa(pretrained: bool = False, **given: Any) -> Any:
        return build_model_with_cfg(
            VisionTransformer,
            "robustprobe_ijepa",
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            **{**options, **given},
        )

    robustprobe_ijepa.__module__ = __name__
    generate = {
        "robustprobe_ijepa.in1k": {"url": url, "num_classes": 0, "input_size": (3, 64, 64), "fixed_input_size": True}
    }
    globals()["default_cfgs"] = generate_default_cfgs(generate)
    if "robustprobe_ijepa" not in timm.list_models():
        register_model(robustprobe_ijepa)
    with pytest.raises(UserError, match=r"needs https://dl\.fbaipublicfiles.*not at .*checkpoints/IN1K-tiny.pth.tar"):
        load_encoder("timm:robustprobe_ijepa.in1k")
    model = noise(timm.create_model("robustprobe_ijepa", num_classes=0, img_size=64, dynamic_img_size=True))
    official = {"encoder": {f"module.{n}": t for n, t in model.state_dict().items()}, "epoch": 3}
    position = tmp_path / "torch" / "hub" / "checkpoints"
    position.mkdir(parents=True, exist_ok=True)
    torch.save(official, position / "IN1K-tiny.pth.tar")
    encoder = load_encoder("timm:robustprobe_ijepa.in1k")
    images = some_images(48, 64)
    tokens = model.forward_features(normalised(images))
    assert_features(encoder, images, tokens, prefix=0, cls=lambda t: t.mean(1))
    with pytest.raises(UserError, match="has no revisions; leave out @abc"):
        load_encoder("timm:robustprobe_ijepa.in1k@abc")


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_convnext.r160_in1k"])
def test_convolutional_networks_give_a_map_and_its_mean(cache: Path, name: str) -> None:
    model = noise(timm.create_model(name))
    lay_out(cache, f"timm/{name}", {"model.safetensors": model.state_dict()})
    encoder = load_encoder(f"timm:{name}")
    assert encoder.card.patch_size == 32
    assert not encoder.card.fixed_size
    config = timm.data.resolve_model_data_config(model)
    for size in ((64, 96), (160, 160)):
        images = some_images(*size)
        last = model.forward_features(normalised(images, (config["mean"], config["std"])))
        features = encoder(images)
        close(features.cls, model.forward_head(last, pre_logits=True))
        close(features.patches, model.head.norm(last) if "convnext" in name else last)
        close(encoder.layers(images, [-1])[0].patches, features.patches)
    with pytest.raises(UserError, match=r"the stages of .* differ in width and size, so only the last, -1 or [34]"):
        encoder.layers(some_images(64, 64), [0, -1])


def test_models_of_one_size_are_served_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real, slim = timm.create_model, {"embed_dim": 12, "stages": (1, 1, 1, 1), "num_heads": 1}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: real(name, **{**given, **slim}))
    encoder = load_encoder("timm:hiera_tiny_224.random")
    images = some_images(224, 224)
    config = timm.data.resolve_model_data_config(inner(encoder))
    last = inner(encoder).forward_features(normalised(images, (config["mean"], config["std"])))
    features = encoder(images)
    close(features.cls, inner(encoder).forward_head(last, pre_logits=True))
    assert features.patches.shape == (2, encoder.card.widths.patch, 7, 7)
    with pytest.raises(UserError, match=r"position embeddings are for \(224, 224\) only. Resize the images"):
        encoder(some_images(192, 224))


def test_a_revision_is_looked_for_and_recorded(cache: Path) -> None:
    name, other = "test_vit.r160_in1k", "f" * 40
    for commit in (other, COMMIT):
        model = timm.create_model(name)
        model.pos_embed.data.fill_(float(int(commit[1], 16)))
        lay_out(cache, f"timm/{name}", {"model.safetensors": model.state_dict()}, commit)
    pinned, newest = load_encoder(f"timm:{name}@{other}"), load_encoder(f"timm:{name}")
    assert (pinned.card.revision, newest.card.revision) == (other, COMMIT)
    assert pinned.card.name == f"timm:{name}@{other}"
    assert pinned.digest != newest.digest
    with pytest.raises(UserError, match="--revision 1234"):
        load_encoder(f"timm:{name}@1234")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dinov2_vits14", r"needs model\.safetensors .*timm/vit_small_patch14_dinov2\.lvd142m; it is not in .*hub"),
        ("dinov2_vits14", r"`hf download timm/vit_small_patch14_dinov2\.lvd142m model\.safetensors`"),
        ("timm:vit_base_patch16_224.nope", "unknown tag of vit_base_patch16_224 'nope'.*Known: .*dino"),
        ("timm:test_vit4", "timm has no weights for test_vit4"),
        ("dinov2", "'dinov2' names no encoder source.*Short names: dino_vitb16"),
    ],
)
def test_what_is_missing_is_named(cache: Path, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(spec)
    if "needs" in str(caught.value):
        assert str(cache) in str(caught.value)


def test_weights_that_lack_a_key_are_refused(cache: Path) -> None:
    """timm itself leaves what is missing at random where it drops a classifier."""
    state = plain(timm.create_model("test_vit.r160_in1k").state_dict())
    state.pop("blocks.0.attn.qkv.weight")
    lay_out(cache, "timm/test_vit.r160_in1k", {"model.safetensors": state})
    with pytest.raises(UserError, match=r"cannot be loaded: (?s:.*)blocks\.0\.attn\.qkv\.weight"):
        load_encoder("timm:test_vit.r160_in1k")


def test_what_is_in_the_cache_is_used_without_a_connection(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the program may fetch: a repository that moves on does not move numbers."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    model = timm.create_model("test_vit.r160_in1k")
    lay_out(cache, "timm/test_vit.r160_in1k", {"model.safetensors": model.state_dict()})
    assert load_encoder("timm:test_vit.r160_in1k").card.revision == COMMIT
    with pytest.raises(AssertionError, match="a connection was tried"):
        load_encoder("timm:test_vit2.r160_in1k")
