"""Models of torch.hub: hub:OWNER/REPO:NAME or hub:OWNER/REPO:REF:NAME (runs the repository's code)"""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from robustprobe.core.errors import UserError
from robustprobe.core.types import FeatureDims, Features
from robustprobe.encoders._downloads import missing_downloads_named, offline
from robustprobe.encoders._norms import NORMS, named_norm
from robustprobe.encoders._options import split_options
from robustprobe.encoders._timm import Norm, checked_layers
from robustprobe.encoders.base import Encoder, EncoderCard, Source

SIZE = (224, 224)
SATELLITE = "sat493m"
RESNET_LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


@final
class HubEncoder(Encoder):
    """A model of torch.hub with one of three interfaces, with its normalisation inside.

    DINOv2 (`forward_features` returns normalised class and patch tokens by name; also DINOv3 and Franca), DINO
    (`get_intermediate_layers` returns normalised tokens, class token first), or torchvision's ResNet (CLS is the mean
    of the last map).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, card: EncoderCard, model: nn.Module, interface: str, norm: Norm = NORMS["imagenet"]) -> None:
        super().__init__(card)
        self.model, self.interface = model, interface
        self.register_buffer("mean", torch.tensor(norm.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(norm.std)[:, None, None])

    def settings(self) -> list[int | float | str]:
        heads = [cast(Any, m).num_heads for m in self.model.modules() if hasattr(m, "num_heads")]
        return [self.interface, type(self.model).__name__, *heads]

    def features(self, images: Tensor) -> Features:
        model, images = cast(Any, self.model), (images - self.mean) / self.std
        if self.interface == "resnet":
            for name in RESNET_LAYERS:
                images = getattr(model, name)(images)
            return Features(images.mean((2, 3)), images)
        if self.interface == "dino":
            tokens = model.get_intermediate_layers(images, 1)[0]
            return Features(tokens[:, 0], self._map(tokens[:, 1:], images))
        named = model.forward_features(images)
        return Features(named["x_norm_clstoken"], self._map(named["x_norm_patchtokens"], images))

    def readable_blocks(self, count: int) -> int:
        return 1 if self.interface == "resnet" else min(count, len(cast(Any, self.model).blocks))

    def layers(self, images: Tensor, which: Sequence[int]) -> list[Features]:
        if self.interface == "resnet":
            return super().layers(images, which)
        model, normed = cast(Any, self.model), (images - self.mean) / self.std
        count = len(model.blocks)
        which = checked_layers(self.card.name, which, count)
        wanted = list(range(min(which), count))
        if self.interface == "dinov2":
            found = model.get_intermediate_layers(normed, wanted, reshape=True, return_class_token=True, norm=True)
            features = [Features(cls, patches) for patches, cls in found]
        else:
            found = model.get_intermediate_layers(normed, len(wanted))
            features = [Features(tokens[:, 0], self._map(tokens[:, 1:], images)) for tokens in found]
        return [features[wanted.index(n)] for n in which]

    def _map(self, tokens: Tensor, images: Tensor) -> Tensor:
        height, width = (s // self.card.patch_size for s in images.shape[-2:])
        return tokens.transpose(1, 2).reshape(len(images), -1, height, width)


@final
class HubSource(Source):
    """Repositories of GitHub with a hubconf.py, or local folders with one. Their code is run: use only what you trust.

    REF is a branch, a tag or, best, a commit. The option `weights` is passed to the entry point, as Franca needs it;
    `norm` is the normalisation of the images, ImageNet's by default, or where `weights` say so that of `sat493m`.
    """

    def load(self, name: str) -> Encoder:
        spec = f"hub:{name}"
        path, options = split_options(name, ("weights", "norm"))
        norm = _norm(options.pop("norm", ""), options.get("weights", ""))
        repository, _, entry = path.rpartition(":")
        if not repository or not entry:
            raise UserError(f"'{spec}' names no model; write hub:OWNER/REPO:NAME or hub:OWNER/REPO:REF:NAME.")
        local = _local(repository, spec)
        print(f"robustprobe: {spec} runs that repository's code, with your rights.", file=sys.stderr)
        try:
            with missing_downloads_named(spec), contextlib.redirect_stderr(io.StringIO()):
                if local:
                    model = torch.hub.load(str(local), entry, source="local", **options)
                else:
                    model = torch.hub.load(repository, entry, trust_repo=True, verbose=False, **options)
        except UserError:
            raise
        except OSError as error:
            raise UserError(
                f"{spec} cannot be downloaded: {error}. Load it once on a machine with a network and copy "
                f"{torch.hub.get_dir()}, or set TORCH_HOME."
            ) from error
        except Exception as error:
            # The repository's code runs here and may raise any exception.
            raise UserError(f"{spec} cannot be loaded: {type(error).__name__}: {error}.") from error
        _, _, reference = repository.partition(":")
        return _wrap(spec, model, "" if Path(repository).is_dir() else reference, norm)


def _local(repository: str, spec: str) -> Path | None:
    """The folder of a repository, or its copy in torch.hub's cache; None if it must be downloaded first."""
    position, _, reference = repository.partition(":")
    cache = Path(torch.hub.get_dir())
    copies = [cache / f"{position}_{r}".replace("/", "_") for r in ([reference] if reference else ["main", "master"])]
    for folder in (Path(repository), *copies):
        if (folder / "hubconf.py").is_file():
            return folder
    if offline():
        raise UserError(
            f"{spec} needs the repository {repository}, which is not at {copies[0]} (no downloads offline). "
            f"Load it once on a machine with a network and copy {cache}, or set TORCH_HOME."
        )
    return None


def _norm(given: str, weights: str) -> Norm:
    """The normalisation that is named; else by the name of DINOv3's weights, of which some are of satellite images."""
    return named_norm(given or (SATELLITE if SATELLITE in weights.lower() else "imagenet"))


def _wrap(spec: str, model: Any, reference: str, norm: Norm) -> Encoder:
    """The encoder around what a repository returned."""
    try:
        interface, patch, width = _interface(model)
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"{spec} is a {type(model).__name__}, whose features robustprobe cannot read ({error}): it needs "
            "the interface of DINOv2 (forward_features, get_intermediate_layers), DINO (get_intermediate_layers) or "
            "torchvision's ResNet (layer4). Write your own class around it, as my.py:Class."
        ) from error
    card = EncoderCard(
        name=spec,
        source="hub",
        revision=reference,
        patch_size=patch,
        input_size=(SIZE[0] // patch * patch, SIZE[1] // patch * patch),
        widths=FeatureDims(width, width),
    )
    return HubEncoder(card, model, interface, norm)


def _interface(model: Any) -> tuple[str, int, int]:
    """The interface of a model, its patch size and its number of channels."""
    if not isinstance(model, nn.Module):
        raise TypeError("it is not a torch module")
    if all(hasattr(model, n) for n in RESNET_LAYERS):
        # The last block of a ResNet has as many output as input channels.
        return "resnet", 32, int(cast(Any, model).layer4[-1].conv1.in_channels)
    other: Any = model
    if not hasattr(other, "get_intermediate_layers"):
        raise TypeError("it has no get_intermediate_layers")
    size = other.patch_size if hasattr(other, "patch_size") else other.patch_embed.patch_size
    interface = "dinov2" if hasattr(other, "forward_features") else "dino"
    return interface, int(size[0] if isinstance(size, tuple) else size), int(other.embed_dim)
