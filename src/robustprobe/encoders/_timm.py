"""Models of timm as encoders: vision transformers, and networks with feature maps."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast, final

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from robustprobe.core.errors import UserError
from robustprobe.core.types import FeatureDims, Features
from robustprobe.encoders._timm_families import (
    SEVERAL_MAPS,
    as_map,
    has_class_token,
    last_layer,
    norm_after_pooling,
    pooled_and_map,
    served_size,
)
from robustprobe.encoders.base import Encoder, EncoderCard


@final
class TimmViT(Encoder):
    """A timm vision transformer with its own normalisation inside.

    CLS is the class token, whatever pooling the model was published with, or the mean of the patch tokens if there is
    none. Patches are the tokens after class and register tokens, as a map. Both are taken after the model's final norm,
    also where timm applies that norm to the pooled token only (`fc_norm`): of the mean, then, and of each patch token.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        card: EncoderCard,
        model: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        architecture: str = "",
    ) -> None:
        super().__init__(card)
        self.model, self.architecture = model, architecture
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def settings(self) -> list[int | float | str]:
        heads = [cast(Any, m).num_heads for m in self.model.modules() if hasattr(m, "num_heads")]
        return [*heads, self.architecture] if self.architecture else heads

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(cast(Any, self.model).blocks)

    def features(self, images: Tensor) -> Features:
        model = cast(Any, self.model)
        tokens = model.forward_features((images - self.mean) / self.std)
        return self._features(tokens[:, :1], tokens[:, model.num_prefix_tokens :], images)

    def readable_blocks(self, count: int) -> int:
        return min(count, self.depth)

    def layers(self, images: Tensor, which: Sequence[int]) -> list[Features]:
        model = cast(Any, self.model)
        which = checked_layers(self.card.name, which, self.depth)
        found = model.forward_intermediates(
            (images - self.mean) / self.std,
            indices=sorted(set(which)),
            return_prefix_tokens=True,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        by_layer = dict(zip(sorted(set(which)), found, strict=True))
        return [self._layer(by_layer[n], images) for n in which]

    def _layer(self, found: Any, images: Tensor) -> Features:
        patches, prefix = found if isinstance(found, tuple) else (found, found)
        return self._features(prefix[:, :1], patches, images)

    def _features(self, first: Tensor, patches: Tensor, images: Tensor) -> Features:
        norm = norm_after_pooling(self.model)
        pooled = first if has_class_token(self.model) else patches.mean(1, keepdim=True)
        grid = images.shape[2] // self.card.patch_size, images.shape[3] // self.card.patch_size
        return Features(norm(pooled)[:, 0], as_map(norm(patches), grid))


@final
class TimmMap(Encoder):
    """A timm network with a feature map, such as a ResNet, a ConvNeXt or a Hiera, with its own normalisation inside.

    The patch size is the total stride. Patches are the last map; CLS is its mean, or the class token of a network with
    one (PiT, VOLO, CoaT). A norm that the model applies to the pooled vector (ConvNeXt's) or to the class token alone
    (PiT's) is applied to that vector and to each position of the map, as in DINOv3's code. Layers of the classifier,
    such as MobileNetV3's hidden one and CLIP's attention pooling, belong to neither.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, card: EncoderCard, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], architecture: str
    ) -> None:
        super().__init__(card)
        self.model, self.architecture = model, architecture
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def settings(self) -> list[int | float | str]:
        return [self.architecture]

    @property
    def depth(self) -> int:
        """Number of stages."""
        return len(cast(Any, self.model).feature_info)

    def features(self, images: Tensor) -> Features:
        grid = images.shape[2] // self.card.patch_size, images.shape[3] // self.card.patch_size
        layer = last_layer(self.model, (images - self.mean) / self.std, grid)
        return Features(*pooled_and_map(layer, norm_after_pooling(self.model), grid))

    def readable_blocks(self, count: int) -> int:
        return 1

    def layers(self, images: Tensor, which: Sequence[int]) -> list[Features]:
        last = self.depth - 1
        if any(n != last for n in checked_layers(self.card.name, which, self.depth)):
            raise UserError(
                f"the stages of {self.card.name} differ in width and size, so only the last, -1 or {last}, can be "
                f"read; {list(which)} was given."
            )
        return [self(images)] * len(which)


def checked_layers(name: str, which: Sequence[int], count: int) -> list[int]:
    """Indices of layers from 0, negative ones resolved. Raises UserError for an index outside `count`."""
    wrong = [n for n in which if not -count <= n < count]
    if wrong:
        raise UserError(f"{name} has layers 0 to {count - 1}; {wrong[0]} was given.")
    return [n % count for n in which]


def create(name: str, *, pretrained: bool = False, **options: Any) -> Any:
    """A timm model without its classifier, for images of any size if timm supports it; weights that are not loaded are
    random with a fixed seed.
    """
    if not pretrained:
        options["num_classes"] = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = timm.create_model(name, pretrained=pretrained, dynamic_img_size=True, **options)
        except TypeError as error:
            if "dynamic_img_size" not in str(error):
                raise
            torch.manual_seed(0)
            model = timm.create_model(name, pretrained=pretrained, **options)
    if pretrained:
        # Only after loading: without a classifier from the start, timm would leave any missing weight random.
        model.reset_classifier(0)
    return model


def create_at(name: str, size: int) -> Any:
    """A timm model without its classifier, with random weights, for images of `size` x `size`."""
    model = create(name)
    if tuple(model.pretrained_cfg["input_size"][1:]) == (size, size):
        return model
    if isinstance(model, VisionTransformer):
        model = create(name, img_size=size)
    model.pretrained_cfg["input_size"] = (3, size, size)
    return model


class Norm(NamedTuple):
    """Mean and standard deviation per colour channel, for images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def wrap(
    spec: str,
    model: Any,
    *,
    source: str,
    revision: str = "",
    notes: str = "",
    norm: Norm | None = None,
    licence: str | None = None,
) -> TimmViT | TimmMap:
    """The encoder around a timm model.

    Image size, and normalisation and licence unless given, come from timm's configuration of the weights.

    Raises:
        UserError: the model has no feature map, or several.
    """
    family = type(model).__name__
    if family in SEVERAL_MAPS:
        raise UserError(f"{spec} cannot be read: {SEVERAL_MAPS[family]}. Use another model of timm.")
    if not hasattr(model, "feature_info") or not hasattr(model, "forward_intermediates"):
        raise UserError(f"{spec} has no feature map; use another model of timm, such as a vision transformer.")
    config = timm.data.resolve_model_data_config(model)
    norm = norm or Norm(config["mean"], config["std"])
    moving = not model.pretrained_cfg.get("fixed_input_size") or getattr(model, "dynamic_img_size", False)
    architecture = str(model.pretrained_cfg.get("architecture", ""))
    size = served_size(config["input_size"][1:], model.feature_info[-1]["reduction"], fixed=not moving, what=spec)
    card = EncoderCard(
        name=spec,
        source=source,
        licence=licence or (model.pretrained_cfg.get("license") if source == "timm" else None) or "unknown",
        revision=revision,
        notes="; ".join(filter(None, (notes, size.note))),
        patch_size=size.patch,
        input_size=size.size,
        fixed_size=not moving,
        widths=FeatureDims(model.num_features, model.num_features),
    )
    kind = TimmViT if hasattr(model, "num_prefix_tokens") else TimmMap
    return kind(card, model, norm.mean, norm.std, architecture)
