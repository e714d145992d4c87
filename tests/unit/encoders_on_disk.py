"""What tests of encoder sources share: a laid-out hub cache, and a machine without a network."""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from robustprobe import Encoder
from robustprobe.core.types import Features

COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def lay_out(cache: Path, repository: str, files: Mapping[str, object], commit: str = COMMIT) -> Path:
    """A repository in the hub's cache, as a download leaves it: files are tensors by name, or JSON; its snapshot."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    for name, content in files.items():
        if name.endswith(".safetensors"):
            save_file(plain(cast(Mapping[str, Tensor], content)), snapshot / name)
        else:
            (snapshot / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return snapshot


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def without_network(patch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Caches in a folder, HF_HUB_OFFLINE=1, and every socket an error; the hub's cache."""

    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise AssertionError(f"a connection was tried: {arguments[-1]}")

    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("TORCH_HOME", str(folder / "torch"))
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        patch.setattr(socket, name, refuse)
    (folder / "hub").mkdir(parents=True, exist_ok=True)
    return folder / "hub"


def noise(model: nn.Module) -> Any:
    """The model with every weight and buffer that is a float moved, so that nothing is 0, 1 or shared by chance."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator))
    return model.eval().requires_grad_(False)


def inner(encoder: Encoder) -> Any:
    """The library's model inside an encoder."""
    return cast(Any, encoder).model


def some_images(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def normalised(images: Tensor, norm: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in norm)
    return (images - mean) / std


def assert_features(
    encoder: Encoder, images: Tensor, tokens: Tensor, *, prefix: int, cls: Callable[[Tensor], Tensor] | None = None
) -> Features:
    """The encoder's features are the library's tokens (B, prefix + h w, D), `cls` of them the class vector."""
    features: Features = encoder(images)
    height, width = (s // encoder.card.patch_size for s in images.shape[-2:])
    assert features.patches.shape[-2:] == (height, width)
    close(features.patches.flatten(2).transpose(1, 2), tokens[:, prefix:])
    close(features.cls, cls(tokens) if cls else tokens[:, 0])
    return features


def assert_first_layer(encoder: Encoder, blocks: nn.ModuleList, norm: Any, images: Tensor, *, prefix: int) -> None:
    """Layer 0 is what leaves the first of the blocks inside the encoder, normed, without the prefix."""
    left: list[Any] = []
    hook = blocks[0].register_forward_hook(lambda module, arguments, output: left.append(output))
    layer = encoder.layers(images, [-1, 0])[1]
    hook.remove()
    tokens = left[0][0] if isinstance(left[0], tuple) else left[0]
    close(layer.patches.flatten(2).transpose(1, 2), norm(tokens)[:, prefix:])


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
