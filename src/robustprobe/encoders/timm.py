"""Any vision transformer of timm with a class token, as timm:NAME.tag"""

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


@final
class TimmSource(Source):
    """A name with a tag fetches its weights from the network; a bare architecture has random weights."""

    def load(self, name: str) -> Encoder:
        if name.split(".")[0] not in timm.list_models():
            raise unknown_name("timm model", name, timm.list_models(pretrained=True))
        try:
            model = timm.create_model(name, pretrained="." in name, num_classes=0, dynamic_img_size=True)
        except (OSError, RuntimeError, TypeError) as error:
            raise UserError(
                f"timm:{name} could not be loaded: {error}. Its weights are fetched from the network."
            ) from error
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
