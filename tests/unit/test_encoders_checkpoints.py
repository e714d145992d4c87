"""file:PATH?arch=NAME: official layouts give the model's own features, and every key is accounted for."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from robustprobe import UserError, load_encoder
from robustprobe.cli import main
from robustprobe.encoders import with_arch
from robustprobe.results.store import Store
from tests.unit.encoders_on_disk import IMAGENET, assert_features, close, inner, noise, normalised, plain, some_images

pytestmark = pytest.mark.unit

State = dict[str, Tensor]
VIT = "test_vit.r160_in1k"
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def tiny(name: str = VIT, **options: Any) -> Any:
    return noise(timm.create_model(name, num_classes=0, dynamic_img_size=True, **options))


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def other(state: Mapping[str, Tensor]) -> State:
    """Other weights of the same names: what must not be taken."""
    return {name: tensor + 1 for name, tensor in state.items()}


def head(*names: str) -> State:
    return {name: torch.zeros(3) for name in names}


def write(path: Path, checkpoint: object) -> Path:
    torch.save(checkpoint, path)
    return path


LAYOUTS: dict[str, Callable[[State], object]] = {
    "plain": lambda s: s,
    "DINO, whole training": lambda s: {
        "student": under("module.backbone.", other(s)) | head("module.head.mlp.0.weight"),
        "teacher": under("backbone.", s) | head("head.mlp.0.weight", "head.last_layer.weight_g"),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_base", patch_size=16),
    },
    "DINOv2, whole training": lambda s: {
        "teacher": under("backbone.", s)
        | head("backbone.mask_token", "dino_head.mlp.0.weight", "ibot_head.last.weight"),
        "iteration": 5,
    },
    "iBOT": lambda s: {"state_dict": s | head("masked_embed"), "epoch": 3},
    "MAE": lambda s: {"model": s | head("mask_token", "decoder_embed.weight", "decoder_blocks.0.norm1.weight")},
    "MoCo v3": lambda s: {
        "state_dict": under("module.base_encoder.", s)
        | under("module.momentum_encoder.", other(s))
        | head("module.base_encoder.head.0.weight", "module.predictor.0.weight"),
        "arch": "vit_base",
    },
    "MoCo": lambda s: {
        "state_dict": under("module.encoder_q.", s)
        | under("module.encoder_k.", other(s))
        | head("module.encoder_q.fc.0.weight", "module.queue", "module.queue_ptr")
    },
    "SimSiam": lambda s: {
        "state_dict": under("module.encoder.", s) | head("module.encoder.fc.0.weight", "module.predictor.0.weight")
    },
    "SwAV": lambda s: under("module.", s) | head("module.projection_head.0.weight", "module.prototypes.weight"),
    "solo-learn": lambda s: {
        "state_dict": under("backbone.", s)
        | under("momentum_backbone.", other(s))
        | head("classifier.weight", "projector.0.weight", "momentum_projector.0.weight"),
        "hyper_parameters": {"lr": 0.3},
    },
    "torch.compile": lambda s: {"model": under("_orig_mod.", s)},
    "of a larger model, a prefix nobody listed": lambda s: {
        "state_dict": under("image_encoder.", s) | head("image_neck.0.weight", "prompt_encoder.weight"),
    },
    "in a torch.nn.Sequential": lambda s: under("feature_extractor.0.", s),
    "timm, EMA beside plain": lambda s: {"epoch": 9, "state_dict": other(s), "state_dict_ema": s},
    "Lightning, EMA module beside plain": lambda s: {"state_dict": under("model.", other(s)) | under("ema_model.", s)},
    "Lightning, EMA callback": lambda s: {
        "state_dict": under("model.", other(s)),
        "callbacks": {"EMA": {"weights": s}},
    },
    "SWA beside plain": lambda s: {
        "model": other(s),
        "swa_model": under("module.", s) | {"n_averaged": torch.tensor(3)},
    },
    "a schema is no EMA": lambda s: {"model": s, "schema": {"weight": torch.ones(1)}},
    "ConvNeXt, EMA beside plain": lambda s: {"model": other(s), "model_ema": s, "optimizer": {"lr": 0.1}},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("arch", [VIT, "test_resnet.r160_in1k"])
def test_every_layout_gives_the_models_own_features(tmp_path: Path, layout: Any, arch: str) -> None:
    model = tiny(arch) if arch == VIT else noise(timm.create_model(arch, num_classes=0))
    path = write(tmp_path / "c.pth", layout(plain(model.state_dict())))
    encoder = load_encoder(f"file:{path}?arch={arch}")
    assert (encoder.card.name, encoder.card.source) == (f"file:{path}?arch={arch}", "file")
    images = some_images(64, 96)
    found = model.forward_features(normalised(images, HALF))
    if arch == VIT:
        assert_features(encoder, images, found, prefix=1)
    else:
        close(encoder(images).patches, found)
    assert f"{len(model.state_dict())} keys matched" in encoder.card.notes


def test_the_branch_that_is_named_for_the_weights_beside_an_average_gives_them(tmp_path: Path) -> None:
    state = plain(tiny().state_dict())
    path = write(tmp_path / "last.ckpt", {"state_dict": under("model.", other(state)) | under("ema_model.", state)})
    spec = f"file:{path}?arch={VIT}"
    assert "&branch=model takes those" in load_encoder(spec).card.notes
    assert torch.equal(inner(load_encoder(f"{spec}&branch=model")).cls_token, other(state)["cls_token"])


def test_weights_of_zeros_only_are_refused(tmp_path: Path) -> None:
    state = plain(tiny().state_dict())
    path = write(tmp_path / "empty.pth", {name: torch.zeros_like(tensor) for name, tensor in state.items()})
    with pytest.raises(UserError, match=r"empty\.pth holds zeros only"):
        load_encoder(f"file:{path}?arch={VIT}")


def test_the_moving_average_is_taken_as_timm_does_and_either_can_be_chosen(tmp_path: Path) -> None:
    model = tiny()
    state = plain(model.state_dict())
    path = write(tmp_path / "last.pth.tar", {"state_dict": under("module.", other(state)), "state_dict_ema": state})
    spec = f"file:{path}?arch={VIT}"
    for branch, kept in (("", state), ("&branch=state_dict_ema", state), ("&branch=state_dict", other(state))):
        encoder = load_encoder(spec + branch)
        assert torch.equal(inner(encoder).cls_token, kept["cls_token"])
    said = r"moving average \(state_dict_ema\) was taken, as timm does, .*&branch=state_dict takes those"
    assert re.search(said, load_encoder(spec).card.notes)
    assert "moving average" not in load_encoder(f"{spec}&branch=state_dict").card.notes
    write(path, {"state_dict_ema": state})
    assert "moving average" not in load_encoder(spec).card.notes


def test_two_encoders_under_prefixes_nobody_listed_are_asked_for(tmp_path: Path) -> None:
    state = plain(tiny().state_dict())
    path = write(tmp_path / "c.pth", under("camera_net.", state) | under("lidar_net.", other(state)))
    with pytest.raises(UserError, match=r"holds several encoders: camera_net\., lidar_net\..*Choose one with &branch"):
        load_encoder(f"file:{path}?arch={VIT}")
    encoder = load_encoder(f"file:{path}?arch={VIT}&branch=lidar_net")
    assert torch.equal(inner(encoder).cls_token, other(state)["cls_token"])


@pytest.mark.parametrize("numbering", ["through all chunks, as DINOv2 does", "within each chunk"])
def test_blocks_in_chunks(tmp_path: Path, numbering: str) -> None:
    model = tiny("test_vit.r160_in1k", depth=5)

    def chunked(name: str) -> str:
        first, _, rest = name.removeprefix("blocks.").partition(".")
        if not name.startswith("blocks."):
            return name
        within = int(first) % 2 if numbering.startswith("within") else int(first)
        return f"blocks.{int(first) // 2}.{within}.{rest}"

    state = {chunked(n): t for n, t in plain(model.state_dict()).items()}
    path = write(tmp_path / "eval.pth", {"teacher": under("backbone.", state)})
    real = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", lambda name, **given: real(name, **{**given, "depth": 5}))
        encoder = load_encoder(f"file:{path}?arch={VIT}")
    images = some_images(48, 64)
    assert_features(encoder, images, model.forward_features(normalised(images, HALF)), prefix=1)
    assert "names of DINOv2 in chunks of blocks converted" in encoder.card.notes


@pytest.mark.parametrize("prefix", ["", "state_dict.model.encoder."])
def test_a_resnet_that_was_trained_as_a_sequence_of_its_parts(tmp_path: Path, prefix: str) -> None:
    model = timm.create_model("resnet18", num_classes=0)
    numbers = {name: str(number) for number, (name, _) in enumerate(model.named_children())}
    assert {**numbers, "act1": "", "maxpool": "", "global_pool": "", "fc": ""}.keys() == numbers.keys()
    state = {f"{numbers[n.partition('.')[0]]}.{n.partition('.')[2]}": t for n, t in plain(model.state_dict()).items()}
    path = write(tmp_path / "last.pth", {**under(prefix, state), "projection_head.0.weight": torch.ones(2, 2)})
    loaded: Any = load_encoder(f"file:{path}?arch=resnet18&norm=imagenet")
    assert all(torch.equal(loaded.model.state_dict()[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("word", ["_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"])
@pytest.mark.parametrize("where", ["around each block", "around all blocks"])
def test_words_of_wrappers_between_the_names(tmp_path: Path, word: str, where: str) -> None:
    model = timm.create_model(VIT, num_classes=0)
    name = r"blocks\.(\d+)\." if where == "around each block" else r"(blocks)\."
    state = {re.sub(name, lambda f: f"{f[0]}{word}.", n): t for n, t in plain(model.state_dict()).items()}
    assert any(f".{word}." in n for n in state)
    path = write(tmp_path / "last.pth", {"model": under("module.", state)})
    loaded: Any = load_encoder(f"file:{path}?arch={VIT}")
    assert all(torch.equal(loaded.model.state_dict()[n], t) for n, t in model.state_dict().items())


def official_clip(model: Any) -> State:
    """Weights of timm's vision tower under the names of OpenAI's CLIP, open_clip, FARE and TeCoA."""
    parts = [
        *(("norm_pre.", "ln_pre."), (".norm1.", ".ln_1."), (".norm2.", ".ln_2."), ("mlp.fc1", "mlp.c_fc")),
        *(("mlp.fc2", "mlp.c_proj"), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj")),
        *(
            ("patch_embed.proj.", "conv1."),
            ("blocks.", "transformer.resblocks."),
            ("pos_embed", "positional_embedding"),
        ),
    ]
    state = {}
    for name, tensor in plain(model.state_dict()).items():
        name = "ln_post" + name[4:] if name.startswith("norm.") else name
        for ours, theirs in parts:
            name = name.replace(ours, theirs)
        state[name] = tensor[0] if name == "positional_embedding" else tensor
    state["class_embedding"] = state.pop("cls_token")[0, 0]
    return state | {"proj": torch.zeros(48, 8)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: (
            under("visual.", s) | head("logit_scale", "token_embedding.weight", "transformer.resblocks.0.ln_1.bias")
        ),
        lambda s: {"state_dict": under("module.visual.", s)},
    ],
    ids=["the tower alone, as FARE's and TeCoA's files", "CLIP", "a training of open_clip"],
)
def test_open_clip_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrap: Any) -> None:
    """timm's own reading of such a file is the judge."""
    real, narrow = timm.create_model, {"depth": 2, "embed_dim": 48, "num_heads": 3}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: real(name, **{**given, **narrow}))
    arch = "vit_base_patch16_clip_quickgelu_224.openai"
    model = tiny(arch)
    state = official_clip(model)
    expected = checkpoint_filter_fn(under("visual.", {n: t for n, t in state.items() if n != "proj"}), model)
    assert all(torch.equal(expected[n], t) for n, t in model.state_dict().items())
    path = write(tmp_path / "open_clip_pytorch_model.bin", wrap(state))
    encoder = load_encoder(f"file:{path}?arch={arch}")
    images = some_images(48, 64)
    clip = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    assert_features(encoder, images, model.forward_features(normalised(images, clip)), prefix=1)
    assert "names of open_clip (with QuickGELU) converted to timm's" in encoder.card.notes
    other_activation = load_encoder(f"file:{path}?arch=vit_base_patch16_clip_224.openai")
    assert "FARE and TeCoA need an architecture with quickgelu in its name" in other_activation.card.notes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "w.safetensors",
            "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 346000000\n",
            r"is a Git LFS pointer, which stands for a file of 346,000,000 bytes\. Get the file itself: `git lfs pull`",
        ),
        (
            "pytorch_model.bin.index.json",
            '{"metadata": {}, "weight_map": {"a": "m-1-of-2.bin", "b": "m-2-of-2.bin", "c": "m-1-of-2.bin"}}',
            r"is the index of a checkpoint in 2 shards \(m-1-of-2\.bin, m-2-of-2\.bin\)",
        ),
        ("dino.pth", "<!DOCTYPE html><html>Sign in</html>", "is a web page or XML, not weights"),
        ("settings.pth", '{"arch": "vit"}', "cannot be read as a checkpoint|runs no code of a file"),
    ],
)
def test_what_is_no_file_of_weights_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_encoder(f"file:{tmp_path / name}?arch={VIT}")


def test_a_key_that_stands_elsewhere_is_not_said_to_be_missing_and_ignored(tmp_path: Path) -> None:
    state = plain(tiny().state_dict())
    inside = {n: t for n, t in state.items() if n != "norm.weight"}
    path = write(tmp_path / "c.pth", {"model": inside, "extra": {"norm.weight": state["norm.weight"]}})
    with pytest.raises(UserError, match=r"under 'model\.'; 1 missing there, though elsewhere in the file \(norm\.wei"):
        load_encoder(f"file:{path}?arch={VIT}")


def test_the_folder_of_an_encoder_with_a_pointer_is_said_to_have_one(tmp_path: Path) -> None:
    card = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    (tmp_path / "card.json").write_text(json.dumps({"architecture": card}))
    (tmp_path / "encoder.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(UserError, match=r"encoder\.safetensors is a Git LFS pointer"):
        load_encoder(f"file:{tmp_path}")


def test_one_shard_alone_is_said_to_be_one(tmp_path: Path) -> None:
    state = {n: t for n, t in plain(tiny().state_dict()).items() if not n.startswith("blocks.1.")}
    save_file(state, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"missing \(blocks\.1\..*It is one of the shards of a checkpoint"):
        load_encoder(f"file:{tmp_path / 'model-00001-of-00002.safetensors'}?arch={VIT}")


def test_papers_dino_from_a_teacher_checkpoint(tmp_path: Path) -> None:
    model = noise(timm.create_model("vit_base_patch16_224.dino", num_classes=0, dynamic_img_size=True))
    path = write(tmp_path / "dino.pth", {"teacher": under("backbone.", plain(model.state_dict()))})
    encoder = load_encoder(f"file:{path}?arch=dino_vitb16")
    images = some_images(64, 80)
    assert_features(encoder, images, model.forward_features(normalised(images)), prefix=1)


def test_papers_dinov2_from_the_official_pth(tmp_path: Path) -> None:
    model = noise(timm.create_model("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True))
    state = plain(model.state_dict())
    path = write(tmp_path / "dinov2_vit_pretrain.pth", state | {"mask_token": torch.zeros(1, model.embed_dim)})
    encoder = load_encoder(f"file:{path}?arch=dinov2_vits14")
    assert "1 ignored (mask_token)" in encoder.card.notes
    images = some_images(56, 70)
    assert_features(encoder, images, model.forward_features(normalised(images)), prefix=1)


@pytest.mark.parametrize("arch", ["vit_small_patch14_reg4_dinov2.lvd142m", "vit_giant_patch14_reg4_dinov2.lvd142m"])
@pytest.mark.parametrize("with_mask_token", [True, False])
def test_dinov2_with_registers_from_the_official_pth(
    tmp_path: Path, arch: str, with_mask_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DINOv2's own names, and a position embedding with a place for the class token; timm's reading is the judge."""
    real, narrow = timm.create_model, {"depth": 2, "embed_dim": 48, "num_heads": 3}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: real(name, **{**given, **narrow}))
    model = tiny(arch)
    state = plain(model.state_dict())
    state = {
        n.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3") if "giant" in arch else n: t
        for n, t in state.items()
    }
    state["register_tokens"] = state.pop("reg_token")
    position = torch.randn(1, 1, 48, generator=torch.Generator().manual_seed(1))
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    mask = {"mask_token": torch.zeros(1, 48)}
    path = write(tmp_path / "reg4.pth", state | (mask if with_mask_token else {}))
    model.load_state_dict(checkpoint_filter_fn(dict(state) | mask, model))
    images = some_images(56, 42)
    encoder = load_encoder(f"file:{path}?arch={arch}")
    assert_features(encoder, images, model.forward_features(normalised(images)), prefix=5)


def official_dinov3(model: Any, bias: float) -> State:
    """DINOv3's own names: one bias of queries, keys and values, of which that of keys is masked."""
    state = {}
    for name, tensor in plain(model.state_dict()).items():
        name = (
            name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma").replace("reg_token", "storage_tokens")
        )
        if not name.endswith(("q_bias", "v_bias", "k_bias")):
            state[name] = tensor
    width = model.embed_dim
    for position, block in enumerate(model.blocks):
        zero = torch.zeros(width)
        query, value = (getattr(block.attn, n, None) for n in ("q_bias", "v_bias"))
        parts = [zero if query is None else query + 0, zero, zero if value is None else value + 0]
        state[f"blocks.{position}.attn.qkv.bias"] = torch.cat(parts) + bias
        state[f"blocks.{position}.attn.qkv.bias_mask"] = torch.ones(3 * width)
    return state | {"mask_token": torch.zeros(1, width), "rope_embed.periods": torch.ones(4)}


@pytest.mark.parametrize("arch", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"])
def test_dinov3_from_the_official_pth(tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, narrow = timm.create_model, {"depth": 2, "embed_dim": 48, "num_heads": 3}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: real(name, **{**given, **narrow}))
    model = tiny(arch)
    spec = f"file:{write(tmp_path / 'dinov3.pth', official_dinov3(model, 0.0))}?arch={arch}"
    images = some_images(48, 64)
    encoder = load_encoder(spec)
    assert_features(encoder, images, model.forward_features(normalised(images)), prefix=5)
    assert "ignored (" in encoder.card.notes
    if not arch.endswith("qkvb"):
        write(tmp_path / "dinov3.pth", official_dinov3(model, 0.1))
        with pytest.raises(UserError, match=r"2 unexpected \(blocks\.0\.attn\.qkv\.bias, blocks\.1"):
            load_encoder(spec)


def test_a_distilled_student_is_asked_for_by_name(tmp_path: Path) -> None:
    """DeACL: the teacher is the encoder before hardening."""
    model = tiny()
    state = plain(model.state_dict())
    path = write(
        tmp_path / "deacl.ckpt",
        {"state_dict": under("student.backbone.", state) | under("teacher.backbone.", other(state)), "epoch": 100},
    )
    with pytest.raises(UserError, match=r"holds several encoders: state_dict\.student.*&branch=student for a distil"):
        load_encoder(f"file:{path}?arch={VIT}")
    with pytest.raises(UserError, match="has no branch 'momentum'; it has backbone, student, teacher"):
        load_encoder(f"file:{path}?arch={VIT}&branch=momentum")
    images = some_images(48, 48)
    for branch, weights in (("student", state), ("teacher", other(state))):
        model.load_state_dict(weights)
        encoder = load_encoder(f"file:{path}?arch={VIT}&branch={branch}")
        assert_features(encoder, images, model.forward_features(normalised(images, HALF)), prefix=1)


def test_safetensors_and_another_image_size(tmp_path: Path) -> None:
    """Position embeddings of a size of their own are kept as they are, not resampled into the architecture's."""
    model = tiny(img_size=64)
    save_file(plain(model.state_dict()), tmp_path / "w.safetensors")
    encoder = load_encoder(f"file:{tmp_path / 'w.safetensors'}?arch={VIT}")
    assert encoder.card.input_size == (64, 64)
    images = some_images(64, 64)
    assert_features(encoder, images, model.forward_features(normalised(images, HALF)), prefix=1)


def test_official_convnext_names(tmp_path: Path) -> None:
    model = noise(timm.create_model("test_convnext.r160_in1k", num_classes=0))
    changes = [
        ("stem.", "downsample_layers.0."),
        ("stages.", "stages."),
        ("head.norm.", "norm."),
        ("conv_dw.", "dwconv."),
        ("mlp.fc1.", "pwconv1."),
        ("mlp.fc2.", "pwconv2."),
    ]
    state = {}
    for name, tensor in plain(model.state_dict()).items():
        parts = name.split(".")
        if parts[0] == "stages" and parts[2] == "downsample":
            name = f"downsample_layers.{parts[1]}.{'.'.join(parts[3:])}"
        for ours, theirs in changes:
            name = name.replace(ours, theirs, 1) if not name.startswith("downsample_layers") else name
        state[name.replace(".blocks.", ".")] = tensor
    path = write(tmp_path / "c.pth", {"model": state})
    encoder = load_encoder(f"file:{path}?arch=test_convnext.r160_in1k")
    images = some_images(64, 96)
    close(encoder(images).cls, model.forward_head(model.forward_features(normalised(images, HALF)), pre_logits=True))


def test_normalisation_is_the_architectures_or_asked_for(tmp_path: Path) -> None:
    model = tiny()
    path = write(tmp_path / "c.pth", plain(model.state_dict()))
    images = some_images(32, 32)
    encoder = load_encoder(f"file:{path}?arch={VIT}&norm=imagenet")
    assert_features(encoder, images, model.forward_features(normalised(images, IMAGENET)), prefix=1)
    assert encoder.digest != load_encoder(f"file:{path}?arch={VIT}").digest
    with pytest.raises(
        UserError, match=r"several normalisations .*&norm=imagenet\|half\|clip\|sat493m\|none .*MoCo v3"
    ):
        load_encoder(f"file:{path}?arch=vit_base_patch16_224")
    with pytest.raises(UserError, match=r"unknown normalisation 'imagnet'\. Did you mean 'imagenet'"):
        load_encoder(f"file:{path}?arch={VIT}&norm=imagnet")


def drop(name: str) -> Callable[[State], State]:
    return lambda s: {n: t for n, t in s.items() if n != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("blocks.1.attn.qkv.weight"), r"does not fit .*1 missing \(blocks\.1\.attn\.qkv\.weight\)"),
        (lambda s: s | head("blocks.0.extra"), r"1 unexpected \(blocks\.0\.extra\)"),
        (lambda s: s | head("norm.weight"), r"1 of another shape \(norm\.weight \(3,\) instead of \(64,\)\)"),
        (lambda s: {n: t for n, t in s.items() if "attn" not in n}, r"missing \(blocks\.0\.attn\.\S+, .*, \.\.\.\)"),
        (lambda s: s | {"patch_embed.proj.weight": torch.zeros(64, 3, 14, 14)}, r"\(64, 3, 14, 14\) instead of"),
        (lambda s: s | {"pos_embed": torch.zeros(1, 12, 64)}, r"pos_embed \(1, 12, 64\) instead of"),
        (
            lambda s: head("a.b", "c"),
            r"has no weights of this architecture, such as patch_embed\.proj\.weight or ln_pre\.weight; it has a",
        ),
        (lambda s: {"epoch": 3}, r"has no weights of this architecture"),
    ],
)
def test_every_key_of_the_encoder_is_accounted_for(tmp_path: Path, change: Any, message: str) -> None:
    path = write(tmp_path / "c.pth", change(plain(tiny().state_dict())))
    with pytest.raises(UserError, match=message):
        load_encoder(f"file:{path}?arch={VIT}")


def test_the_patch_embedding_of_another_patch_size_is_not_resampled(tmp_path: Path) -> None:
    model = tiny("vit_small_patch16_dinov3.lvd1689m", depth=1, embed_dim=48, num_heads=3, patch_size=14)
    path = write(tmp_path / "c.pth", plain(model.state_dict()))
    with pytest.raises(UserError, match=r"of another shape"):
        load_encoder(f"file:{path}?arch=vit_small_patch16_dinov3.lvd1689m")


def test_missing_count_of_batches_is_no_missing_key(tmp_path: Path) -> None:
    model = noise(timm.create_model("test_resnet.r160_in1k", num_classes=0))
    state = {n: t for n, t in plain(model.state_dict()).items() if "num_batches" not in n}
    encoder = load_encoder(f"file:{write(tmp_path / 'c.pth', state)}?arch=test_resnet.r160_in1k")
    images = some_images(64, 64)
    close(encoder(images).patches, model.forward_features(normalised(images, HALF)))


class Trap:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, ("raise SystemExit('the pickle was run')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": {}, "trap": Trap()},
            r"runs no code of a file.*weights_only=False.*safetensors\.torch\.save_file",
        ),
        (nn.Linear(2, 2), "runs no code of a file"),
        (b"not a checkpoint", r"runs no code of a file|cannot be read as a checkpoint"),
        (b"", "cannot be read as a checkpoint"),
    ],
)
def test_files_that_are_no_plain_checkpoint_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "c.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_encoder(f"file:{path}?arch={VIT}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"is a checkpoint; name its architecture, as in file:.*\?arch=dino_vitb16"),
        ("?arch=dino_vitb61", "unknown architecture 'dino_vitb61'. Did you mean 'dino_vitb16'"),
        ("?arch=test_vit.nope", r"unknown tag of test_vit 'nope'.* Known: r160_in1k"),
        ("?archi=test_vit", "unknown option .*'archi'. Did you mean 'arch'"),
        ("?arch=", "without a value"),
        ("?arch=test_vit&arch=test_vit", "twice"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: str, message: str) -> None:
    path = write(tmp_path / "c.pth", {"a": torch.zeros(1)})
    with pytest.raises(UserError, match=message):
        load_encoder(f"file:{path}{options}")


def test_wrong_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*gone\.pth; give a checkpoint, or a folder"):
        load_encoder(f"file:{tmp_path / 'gone.pth'}?arch={VIT}")
    (tmp_path / "w.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_encoder(f"file:{tmp_path / 'w.safetensors'}?arch={VIT}")


def test_with_arch_writes_the_spec() -> None:
    assert with_arch("file:a/b.pth", "dino_vitb16") == "file:a/b.pth?arch=dino_vitb16"
    assert with_arch("file:a.pth?branch=student", "x.y") == "file:a.pth?branch=student&arch=x.y"
    assert with_arch("file:a.pth?arch=x", "x") == "file:a.pth?arch=x"
    with pytest.raises(UserError, match="names the architecture x already; y was given too"):
        with_arch("file:a.pth?arch=x", "y")
    with pytest.raises(UserError, match="'timm:a' has its own"):
        with_arch("timm:a", "x")


def test_the_note_is_in_the_record_and_in_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = plain(tiny().state_dict())
    path = write(tmp_path / "last.pth", {"state_dict": other(state), "state_dict_ema": state})
    spec = f"file:{path}?arch={VIT}"
    suite = tmp_path / "s.yaml"
    suite.write_text(
        f"encoders: ['{spec}']\ndatasets: [{{name: scenes, limit: 2}}]\n"
        "tasks: [classification]\nattacks: [clean]\nhead: {train_limit: 20}\nsanity_images: 0\nexamples: 0\n"
    )
    monkeypatch.setattr(sys, "argv", ["robustprobe", "run", str(suite), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    shown = capsys.readouterr().out.replace("\n", "")
    (record,) = Store(tmp_path / "out").records()
    assert "moving average (state_dict_ema) was taken" in record.encoder_notes
    assert f": {record.encoder_notes}" in shown
    assert "note: file:" in shown
