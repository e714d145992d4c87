"""Checkpoints are known by their content; what is no checkpoint, or holds unusable weights, is named for what it is."""

import bz2
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from robustprobe import UserError
from robustprobe.encoders import load_encoder
from tests.unit.encoders_on_disk import plain

pytestmark = pytest.mark.unit

VIT = "test_vit.r160_in1k"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return plain(timm.create_model(VIT, num_classes=0).state_dict())


def load(path: Path) -> Any:
    return load_encoder(f"file:{path}?arch={VIT}")


def packed(state: State, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["weights.pt", "pytorch_model.bin", "a.safetensors", "last.ckpt", "no-ending"])
@pytest.mark.parametrize("safe", [True, False])
def test_the_ending_of_a_name_says_nothing(state: State, tmp_path: Path, name: str, safe: bool) -> None:
    save_file(state, tmp_path / name) if safe else torch.save({"state_dict": state}, tmp_path / name)
    assert torch.equal(load(tmp_path / name).model.cls_token, state["cls_token"])


def as_tar(state: State, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(packed(state, path.with_suffix(".inner")), "weights.pth")


def as_zip(state: State, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(packed(state, path.with_suffix(".inner")), "export/weights.pth")


def as_script(state: State, path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 4, 2)), str(path))


def as_program(state: State, path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


def cut(state: State, path: Path) -> None:
    content = packed(state, path).read_bytes()
    path.write_bytes(content[: len(content) // 3])


def with_network(state: State, path: Path) -> None:
    torch.save({"epoch": 3, "net": nn.Conv2d(3, 4, 2)}, path)


def as_arrays(state: State, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, *[tensor.numpy() for tensor in state.values()])


NO_CHECKPOINT: dict[str, tuple[Callable[[State, Path], object], str]] = {
    "bzip2": (lambda s, p: p.write_bytes(bz2.compress(save(s))), "is compressed by bzip2; unpack it"),
    "tar": (as_tar, "is a tar archive; unpack it"),
    "zip": (as_zip, r"is a ZIP archive \(export/weights\.pth\)"),
    "arrays": (as_arrays, r"is arrays of NumPy \(.*npy, .*\)"),
    "HDF5": (lambda s, p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is an HDF5 file, as Keras writes them"),
    "bytes": (lambda s, p: p.write_bytes(bytes(range(200, 256)) * 9), "begins with the bytes c8 c9"),
    "refusal": (lambda s, p: p.write_text(json.dumps({"message": "Not Found"})), 'text that begins with \'{"message"'),
    "empty": (lambda s, p: p.write_bytes(b""), "it is empty"),
    "cut": (cut, "is cut short. Download it again"),
    "TorchScript": (as_script, r"is a compiled network .*state_dict\(\)"),
    "torch.export": (as_program, "is a compiled network"),
    "network": (with_network, r"more than weights \(objects of torch\.nn\.modules\.conv\.Conv2d\), and .*no code"),
    "list": (lambda s, p: torch.save(list(s.values()), p), "holds a list and no dictionary"),
    "tensor": (lambda s, p: torch.save(s["cls_token"], p), "holds a Tensor and no dictionary, so it"),
    "pair": (
        lambda s, p: torch.save((s, {"epoch": 1}), p),
        r"a tuple and no dictionary \(a part of it is one with weights\)",
    ),
    "numbers": (
        lambda s, p: torch.save({"epoch": 1, "loss": [0.1]}, p),
        "dictionary of epoch, loss without one tensor",
    ),
    "nothing": (lambda s, p: torch.save({}, p), "holds an empty dictionary"),
}


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("last.ckpt", r"Give the file itself, such as file:.*last\.ckpt\?arch=NAME"),
        ("__0_0.distcp", r"distributed checkpoint of torch: .*dcp_to_torch .* FILE makes one file"),
        ("config.json", "It looks like a model of transformers: give it as hf:"),
        ("notes.txt", r"encoder\.safetensors\.$"),
    ],
)
@pytest.mark.parametrize("options", ["", f"?arch={VIT}"])
def test_a_folder_of_another_program_is_told_what_to_give(tmp_path: Path, file: str, says: str, options: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(UserError, match=says):
        load_encoder(f"file:{tmp_path}{options}")


@pytest.mark.parametrize("case", NO_CHECKPOINT)
def test_what_is_no_checkpoint_is_named(state: State, tmp_path: Path, case: str) -> None:
    write, says = NO_CHECKPOINT[case]
    write(state, tmp_path / "vit.pth")
    with pytest.raises(UserError, match=says) as found:
        load(tmp_path / "vit.pth")
    assert "\n" not in str(found.value)
    assert "weights_only` set" not in str(found.value)


def spoiled(value: float) -> Callable[[State], State]:
    def change(state: State) -> State:
        bias = state["norm.bias"].clone()
        bias[1] = value
        return {**state, "norm.bias": bias}

    return change


WEIGHTS: dict[str, tuple[Callable[[State], State], str]] = {
    "NaN": (spoiled(torch.nan), r"holds NaN or infinity in norm\.bias \(1 of 64 values\)"),
    "infinity": (spoiled(-torch.inf), r"NaN or infinity in norm\.bias"),
    "NaN in 8 bits": (
        lambda s: {**s, "norm.bias": torch.full((64,), torch.nan).to(torch.float8_e5m2)},
        r"NaN or infinity in norm\.bias \(64 of 64",
    ),
    "whole numbers": (
        lambda s: {n: (t * 99).to(torch.int8) for n, t in s.items()},
        "holds cls_token as torch.int8, where torch.float32 is expected",
    ),
    "quantised": (
        lambda s: {**s, "norm.weight": torch.quantize_per_tensor(s["norm.weight"], 0.1, 0, torch.qint8)},
        r"holds norm\.weight quantised \(torch\.qint8\)",
    ),
    "adapters": (
        lambda s: (
            {n.replace("qkv.", "qkv.base_layer."): t for n, t in s.items()}
            | {"blocks.0.attn.qkv.lora_A.default.weight": torch.zeros(2, 64)}
        ),
        "does not fit .* merge them into the weights",
    ),
    "first weight missing": (
        lambda s: {n: t for n, t in s.items() if n != "patch_embed.proj.weight"},
        r"does not fit .*1 missing \(patch_embed\.proj\.weight\)",
    ),
    "registers": (
        lambda s: {**s, "register_tokens": torch.zeros(1, 4, 64)},
        r"does not fit .*: 78 keys matched under ''; 1 unexpected \(register_tokens\)",
    ),
    "transformers": (
        lambda s: {"vit.embeddings.patch_embeddings.projection.weight": torch.zeros(64, 3, 16, 16)},
        "These are names of transformers: give its folder or repository as hf:",
    ),
    "torchvision": (
        lambda s: {"encoder.layers.encoder_layer_0.ln_1.weight": torch.zeros(64)},
        r"names of torchvision: .*robustprobe\.wrap",
    ),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_cannot_be_meant_are_refused(state: State, tmp_path: Path, case: str) -> None:
    change, says = WEIGHTS[case]
    with pytest.raises(UserError, match=says):
        load(packed(change(state), tmp_path / "vit.pth"))
