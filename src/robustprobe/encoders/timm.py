"""Any vision transformer of timm with a class token, as timm:NAME.tag"""

from collections.abc import Sequence
from typing import Any, cast, final

import timm
import torch
from torch import Tensor, nn

from robustprobe.encoders._base import Encoder, EncoderCard, Source
from robustprobe.errors import UserError, unknown_name
from robustprobe.types import Features, Widths


@final
class TimmViT(Encoder):
    """A timm vision transformer with its own normalisation inside.

    CLS is the first prefix token, whatever pooling the model was published with; patches are the remaining tokens
    after the final norm, as a map.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, card: EncoderCard, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(card)
        self.model = model
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def settings(self) -> list[int | float | str]:
        return [cast(Any, m).num_heads for m in self.model.modules() if hasattr(m, "num_heads")]

    def features(self, images: Tensor) -> Features:
        model = cast(Any, self.model)
        tokens = model.forward_features((images - self.mean) / self.std)
        height, width = (s // self.card.patch_size for s in images.shape[-2:])
        patches = tokens[:, model.num_prefix_tokens :].transpose(1, 2)
        return Features(tokens[:, 0], patches.reshape(len(images), -1, height, width))

    def layers(self, images: Tensor, which: Sequence[int]) -> list[Features]:
        model, count = cast(Any, self.model), len(cast(Any, self.model).blocks)
        wrong = [n for n in which if not -count <= n < count]
        if wrong:
            raise UserError(f"{self.card.name} has layers 0 to {count - 1}; it was asked for {wrong[0]}.")
        found = model.forward_intermediates(
            (images - self.mean) / self.std,
            indices=sorted({n % count for n in which}),
            return_prefix_tokens=True,
            norm=True,
            intermediates_only=True,
        )
        by_layer = dict(zip(sorted({n % count for n in which}), found, strict=True))
        return [Features(prefix[:, 0], patches) for patches, prefix in (by_layer[n % count] for n in which)]


def create(name: str, pretrained: bool) -> Any:
    """A timm model without its classifier; untrained weights are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)


@final
class TimmSource(Source):
    """Weights come from the network; without a tag they are timm's default ones, with the tag `random` seeded noise."""

    def load(self, name: str) -> Encoder:
        architecture, _, tag = name.partition(".")
        if architecture not in timm.list_models():
            raise unknown_name("timm model", name, timm.list_models(pretrained=True))
        try:
            model = create(architecture if tag == "random" else name, pretrained=tag != "random")
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).rstrip(".")
            raise UserError(f"timm:{name} cannot be had: {reason}. Its weights come from the network.") from error
        if getattr(model, "num_prefix_tokens", 0) < 1:
            raise UserError(f"timm:{name} has no class token; robustprobe reads vision transformers with one.")
        config = timm.data.resolve_model_data_config(model)
        card = EncoderCard(
            name=f"timm:{name}",
            source="timm",
            licence=model.pretrained_cfg.get("license") or "unknown",
            patch_size=model.patch_embed.patch_size[0],
            input_size=config["input_size"][1:],
            widths=Widths(model.embed_dim, model.embed_dim),
        )
        return TimmViT(card, model, config["mean"], config["std"])
