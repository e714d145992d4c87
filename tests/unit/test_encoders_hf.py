"""hf: features equal the library's own forward on tiny models of every family, saved as the library saves them."""

import builtins
import json
import re
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from huggingface_hub import constants, hf_hub_download
from torch import Tensor

from robustprobe import UserError, load_encoder
from robustprobe.core import network
from robustprobe.encoders import _downloads
from tests.unit.encoders_on_disk import (
    COMMIT,
    assert_features,
    assert_first_layer,
    close,
    lay_out,
    noise,
    normalised,
    some_images,
    without_network,
)

pytestmark = pytest.mark.unit

PREPROCESSOR = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], "do_normalize": True}
README = "---\nlicense: cc-by-nc-4.0\n---\n# Tiny"
NORM = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 48,
    "patch_size": 8,
}


def whole(model: Any, images: Tensor) -> Tensor:
    tokens: Tensor = model(pixel_values=images, interpolate_pos_encoding=True).last_hidden_state
    return tokens


def as_it_is(model: Any, images: Tensor) -> Tensor:
    tokens: Tensor = model(pixel_values=images).last_hidden_state
    return tokens


def unmasked(model: Any, images: Tensor) -> Tensor:
    """The library's own masking at ratio 0 shuffles the patches; here they are put back in their places."""
    out = model(pixel_values=images, interpolate_pos_encoding=True)
    order = out.ids_restore[:, :, None].expand(-1, -1, out.last_hidden_state.shape[-1])
    patches = torch.gather(out.last_hidden_state[:, 1:], 1, order)
    return torch.cat([out.last_hidden_state[:, :1], patches], 1)


def clip_normed(model: Any, images: Tensor) -> Tensor:
    tower = getattr(model, "vision_model", model)
    out = tower(pixel_values=images, interpolate_pos_encoding=True)
    tokens: Tensor = tower.post_layernorm(out.last_hidden_state)
    close(tokens[:, 0], out.pooler_output)
    return tokens


class Kind(NamedTuple):
    """A family: its configuration and class as published, the vision tower in it, and the library's own tokens."""

    config: str
    published: str
    tokens: Callable[[Any, Tensor], Tensor]
    prefix: int = 1
    class_token: bool = True
    tower: str = ""
    extra: Mapping[str, Any] = MappingProxyType({})


CLIP_PARTS = {
    "vision_config": SMALL,
    "text_config": {**SMALL, "vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 0},
    "projection_dim": 16,
}
KINDS = {
    "DINO": Kind("ViTConfig", "ViTModel", whole),
    "DINOv2": Kind("Dinov2Config", "Dinov2Model", as_it_is),
    "DINOv2 with registers": Kind("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", as_it_is, prefix=5),
    "DINOv3": Kind("DINOv3ViTConfig", "DINOv3ViTModel", as_it_is, prefix=5, extra={"num_register_tokens": 4}),
    "MAE": Kind(
        "ViTMAEConfig",
        "ViTMAEForPreTraining",
        unmasked,
        tower="vit",
        extra={"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2},
    ),
    "I-JEPA": Kind("IJepaConfig", "IJepaModel", whole, prefix=0, class_token=False),
    "CLIP": Kind("CLIPConfig", "CLIPModel", clip_normed, tower="vision_model", extra=CLIP_PARTS),
    "CLIP, vision only": Kind("CLIPVisionConfig", "CLIPVisionModel", clip_normed),
    "SigLIP2": Kind(
        "SiglipConfig", "SiglipModel", whole, prefix=0, class_token=False, tower="vision_model", extra=CLIP_PARTS
    ),
}


def publish(kind: Kind, cache: Path, repository: str = "org/tiny", preprocessor: object = None) -> Any:
    """A tiny model of a family in the cache, saved by the library itself; the model."""
    sizes = {} if kind.extra is CLIP_PARTS else SMALL
    config = getattr(transformers, kind.config)(**{**sizes, **kind.extra})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = noise(getattr(transformers, kind.published)(config))
    snapshot = lay_out(
        cache, repository, {"preprocessor_config.json": preprocessor or PREPROCESSOR, "README.md": README}
    )
    model.save_pretrained(snapshot)
    return model


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return without_network(monkeypatch, tmp_path)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_family_gives_the_librarys_own_features(cache: Path, kind: Kind) -> None:
    model = publish(kind, cache)
    encoder = load_encoder("hf:org/tiny")
    card = encoder.card
    assert (card.name, card.source, card.revision) == ("hf:org/tiny", "hf", COMMIT)
    assert card.licence == "cc-by-nc-4.0"
    assert (card.patch_size, card.input_size, card.widths) == (8, (48, 48), (32, 32))
    if kind.tower:
        model = getattr(model, kind.tower)
    if kind.published == "ViTMAEForPreTraining":
        model.config.mask_ratio = 0.0
    for size in ((48, 48), (32, 56)):
        images = some_images(*size)
        tokens = kind.tokens(model, normalised(images, NORM))
        first = (lambda t: t[:, 0]) if kind.class_token else (lambda t: t[:, kind.prefix :].mean(1))
        features = assert_features(encoder, images, tokens, prefix=kind.prefix, cls=first)
        last = encoder.layers(images, [-1])[0]
        close(last.cls, features.cls)
        close(last.patches, features.patches)
        blocks = next(m for m in encoder.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
        norm = next(
            m for n, m in encoder.named_modules() if n.split(".")[-1] in {"layernorm", "post_layernorm", "norm"}
        )
        assert_first_layer(encoder, blocks, norm, images, prefix=kind.prefix)
        assert torch.equal(encoder(images).cls, features.cls)
    with pytest.raises(UserError, match="has layers 0 to 2; 3 was given"):
        encoder.layers(images, [3])


def test_a_revision_is_looked_for_and_recorded(cache: Path) -> None:
    publish(KINDS["DINO"], cache)
    assert load_encoder(f"hf:org/tiny@{COMMIT}").card.revision == COMMIT
    with pytest.raises(UserError, match=r"hf:org/tiny@v2 needs config\.json .* at v2; .*--revision v2"):
        load_encoder("hf:org/tiny@v2")


def test_sharded_weights_and_local_folders(cache: Path, tmp_path: Path) -> None:
    model = publish(KINDS["DINO"], cache)
    snapshot = next((cache / "models--org--tiny" / "snapshots").iterdir())
    (snapshot / "model.safetensors").unlink()
    model.save_pretrained(snapshot, max_shard_size="20KB")
    shards = sorted(snapshot.glob("model-*.safetensors"))
    assert len(shards) > 1
    images = some_images(48, 48)
    tokens = whole(model, normalised(images, NORM))
    assert_features(load_encoder("hf:org/tiny"), images, tokens, prefix=1)
    shutil.copytree(snapshot, tmp_path / "copy")
    local = load_encoder(f"hf:{tmp_path / 'copy'}")
    assert local.card.revision == ""
    assert_features(local, images, tokens, prefix=1)
    shards[0].unlink()
    with pytest.raises(UserError, match=rf"needs {shards[0].name} of the Hugging Face repository org/tiny"):
        load_encoder("hf:org/tiny")


def test_digest_follows_heads_and_activation(cache: Path) -> None:
    digests = set()
    changes: list[dict[str, Any]] = [{}, {"num_attention_heads": 2}, {"hidden_act": "relu"}]
    for position, change in enumerate(changes):
        publish(KINDS["DINO"]._replace(extra=change), cache, f"org/{position}")
        digests.add(load_encoder(f"hf:org/{position}").digest)
    assert len(digests) == 3


def test_no_normalisation_is_taken_at_its_word(cache: Path) -> None:
    model = publish(KINDS["DINO"], cache, preprocessor={"do_normalize": False})
    images = some_images(48, 48)
    assert_features(load_encoder("hf:org/tiny"), images, whole(model, images), prefix=1)


def test_missing_repository_says_what_to_fetch_and_where_it_was_looked_for(cache: Path) -> None:
    with pytest.raises(UserError, match=r"`hf download facebook/dino-vitb16 config\.json`") as caught:
        load_encoder("hf:facebook/dino-vitb16")
    assert str(cache) in str(caught.value)


@pytest.mark.parametrize("spec", ["hf:facebook/dino-vitb16", "timm:resnet50"])
def test_without_a_network_nothing_is_tried_again(cache: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror("not known")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(network, "getproxies", dict)
    asked = []
    real = hf_hub_download

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append(options["local_files_only"])
        return real(*arguments, **options)

    monkeypatch.setattr(_downloads, "hf_hub_download", noted)
    with pytest.raises(UserError, match=r"no network: the name .* cannot be resolved.*hf download"):
        load_encoder(spec)
    assert set(asked) == {True}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"model_type": "bert"}, "is a model of type 'bert'; robustprobe reads vit, vit_mae"),
        ("config.json", "not json", r"config\.json cannot be read"),
        ("config.json", [1], "holds a list"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "gives no image_mean and image_std of 3 numbers"),
        ("preprocessor_config.json", None, r"needs preprocessor_config\.json or processor_config\.json"),
        (
            "preprocessor_config.json",
            {**PREPROCESSOR, "rescale_factor": "1/255"},
            "rescale_factor of '1/255'; expected a",
        ),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\nsize 7\n", "is a Git LFS pointer"),
        ("model.safetensors", "broken", "hf:org/tiny cannot be read from"),
        ("model.safetensors", None, r"needs model\.safetensors or model\.safetensors\.index\.json"),
    ],
)
def test_spoilt_repositories_are_refused(cache: Path, file: str, content: object, message: str) -> None:
    publish(KINDS["DINO"], cache)
    path = next((cache / "models--org--tiny" / "snapshots").iterdir()) / file
    path.unlink()
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_encoder("hf:org/tiny")


def test_pickled_weights_are_not_read(cache: Path) -> None:
    model = publish(KINDS["DINO"], cache)
    snapshot = next((cache / "models--org--tiny" / "snapshots").iterdir())
    (snapshot / "model.safetensors").unlink()
    torch.save(model.state_dict(), snapshot / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"needs model\.safetensors"):
        load_encoder("hf:org/tiny")


def test_weights_that_lack_a_key_are_refused(cache: Path) -> None:
    model = publish(KINDS["DINO"], cache)
    snapshot = next((cache / "models--org--tiny" / "snapshots").iterdir())
    state = {n: t for n, t in model.state_dict().items() if "layernorm.weight" not in n}
    model.save_pretrained(snapshot, state_dict=state)
    with pytest.raises(UserError, match=r"lacks .* weights of its encoder: .*layernorm\.weight"):
        load_encoder("hf:org/tiny")


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install 'robustprobe\[hf\]'"):
        load_encoder("hf:facebook/dino-vitb16")


PROCESSORS = {
    "ViTImageProcessor": "DINO",
    "ViTImageProcessorPil": "DINO",
    "CLIPImageProcessor": "CLIP, vision only",
    "CLIPImageProcessorPil": "CLIP, vision only",
    "SiglipImageProcessor": "SigLIP2",
    "SiglipImageProcessorPil": "SigLIP2",
    "BitImageProcessor": "DINOv2",
    "BitImageProcessorPil": "DINOv2 with registers",
    "DINOv3ViTImageProcessor": "DINOv3",
    "DeiTImageProcessor": "DINO",
    "BeitImageProcessor": "MAE",
    "ConvNextImageProcessor": "I-JEPA",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "as the class has them": {},
    "another factor, not normalised": {"rescale_factor": 1 / 127.5, "do_normalize": False},
    "statistics in units of 255": {
        **{"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}
    },
    "neither": {"do_rescale": False, "do_normalize": False},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_pixels_reach_the_network_as_the_repositorys_own_processor_gives_them(
    cache: Path, processor: str, settings: dict[str, Any]
) -> None:
    """Saved, and asked, by the library itself; the image has the size of the model, so nothing is resized."""
    if not hasattr(transformers, processor):
        pytest.skip(f"this version of transformers has no {processor}")
    publish(KINDS[PROCESSORS[processor]], cache)
    snapshot = next((cache / "models--org--tiny" / "snapshots").iterdir())
    size = {"shortest_edge": 48} if processor.startswith(("CLIP", "Bit", "ConvNext")) else {"height": 48, "width": 48}
    options = {"do_resize": False, "do_center_crop": False, "size": size, **settings}
    getattr(transformers, processor)(**options).save_pretrained(snapshot)
    levels = torch.randint(0, 256, (48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).numpy()
    own = transformers.AutoImageProcessor.from_pretrained(snapshot)
    # DINOv3's takes whole numbers only if it rescales them.
    given = levels.astype("float32") if settings.get("do_rescale") is False else levels
    expected = torch.as_tensor(own(given, return_tensors="pt", input_data_format="channels_last")["pixel_values"])
    encoder: Any = load_encoder("hf:org/tiny")
    images = torch.from_numpy(levels).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close((images - encoder.mean) / encoder.std, expected.float(), rtol=1e-5, atol=1e-4)


def test_images_that_are_normalised_but_not_scaled_are_noted(cache: Path) -> None:
    publish(KINDS["DINO"], cache, preprocessor={**PREPROCESSOR, "do_rescale": False})
    said = r"does not scale pixels to \[0, 1\] .* the network sees values up to 1,273"
    assert re.search(said, load_encoder("hf:org/tiny").card.notes)
    publish(KINDS["DINO"], cache, "org/usual")
    assert load_encoder("hf:org/usual").card.notes == ""


def test_a_repository_whose_processor_file_is_the_only_one(cache: Path) -> None:
    """transformers 5 saves the image processor as a part of the processor."""
    model = publish(KINDS["CLIP, vision only"], cache)
    snapshot = next((cache / "models--org--tiny" / "snapshots").iterdir())
    settings = json.loads((snapshot / "preprocessor_config.json").read_text())
    (snapshot / "preprocessor_config.json").unlink()
    whole_processor = {"image_processor": settings, "processor_class": "CLIPProcessor"}
    (snapshot / "processor_config.json").write_text(json.dumps(whole_processor))
    images = some_images(48, 48)
    expected = clip_normed(model, normalised(images, NORM))
    assert_features(load_encoder("hf:org/tiny"), images, expected, prefix=1)
    (snapshot / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    with pytest.raises(UserError, match=r"processor_config\.json of hf:org/tiny describes no image processor"):
        load_encoder("hf:org/tiny")


def test_a_rectangular_model_is_served_at_its_size(cache: Path) -> None:
    model = publish(KINDS["DINO"]._replace(extra={"image_size": [32, 56]}), cache)
    encoder = load_encoder("hf:org/tiny")
    assert (encoder.card.input_size, encoder.card.fixed_size) == ((32, 56), True)
    images = some_images(32, 56)
    assert_features(encoder, images, as_it_is(model, normalised(images, NORM)), prefix=1)
    with pytest.raises(UserError, match=r"\(32, 56\) only"):
        encoder(some_images(48, 48))
    publish(KINDS["DINOv2"]._replace(extra={"image_size": [32, 56]}), cache, "org/dinov2")
    with pytest.raises(UserError, match="made for 32 x 56; a dinov2 of transformers takes square images only"):
        load_encoder("hf:org/dinov2")


def test_models_of_other_channels_are_refused(cache: Path) -> None:
    publish(KINDS["DINO"]._replace(extra={"num_channels": 1}), cache)
    with pytest.raises(UserError, match="takes images of 1 channel; robustprobe's images have 3"):
        load_encoder("hf:org/tiny")
