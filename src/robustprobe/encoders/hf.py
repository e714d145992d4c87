"""Vision transformers of the transformers library: hf:ORG/NAME or hf:ORG/NAME@REVISION (needs the extra hf)"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from robustprobe.core.errors import UserError
from robustprobe.core.types import FeatureDims, Features
from robustprobe.encoders._downloads import hub_file
from robustprobe.encoders._file_kinds import check_is_weights
from robustprobe.encoders._hf_images import FILES, check_channels, pixel_scale, processor_settings, read_json
from robustprobe.encoders._hf_loading import read_model, transformers_library
from robustprobe.encoders._hf_texts import TEXT_MODELS, Repository, text_tower
from robustprobe.encoders._timm import checked_layers
from robustprobe.encoders.base import Encoder, EncoderCard, Source, TextTower

INDEX = "model.safetensors.index.json"
# Model type in config.json: class of the vision tower, and whether it takes `interpolate_pos_encoding`.
CLASSES = {
    "vit": ("ViTModel", True),
    "vit_mae": ("ViTMAEModel", True),
    "ijepa": ("IJepaModel", True),
    "dinov2": ("Dinov2Model", False),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", False),
    "dinov3_vit": ("DINOv3ViTModel", False),
    "clip": ("CLIPVisionModel", True),
    "clip_vision_model": ("CLIPVisionModel", True),
    "siglip": ("SiglipVisionModel", True),
    "siglip_vision_model": ("SiglipVisionModel", True),
}
WITHOUT_CLASS_TOKEN = {"ijepa", "siglip", "siglip_vision_model"}
NORM_BEFORE_POOLING_ONLY = {"clip", "clip_vision_model"}


@final
class HfViT(Encoder):
    """A vision transformer of transformers with its own normalisation inside.

    CLS is the class token, or the mean of the patch tokens if there is none; both after the final norm, which CLIP
    applies to the class token only. In a masked autoencoder no patch is masked, and patches keep their order.
    """

    mean: Tensor
    std: Tensor
    origin: Repository | None = None
    """Where its weights are from, which may have a text tower too."""

    def __init__(self, card: EncoderCard, model: nn.Module, kind: str, mean: Sequence[float], std: Sequence[float]):
        super().__init__(card)
        self.model, self.kind = model, kind
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def text_tower(self) -> TextTower:
        if self.origin is None or self.kind not in TEXT_MODELS:
            return super().text_tower()
        return text_tower(self.origin, self.kind, self.model)

    def settings(self) -> list[int | float | str]:
        config = cast(Any, self.model).config
        return [self.kind, config.num_attention_heads, str(config.hidden_act), float(config.layer_norm_eps)]

    def features(self, images: Tensor) -> Features:
        return self._features(self._last(self._run(images)), images)

    def readable_blocks(self, count: int) -> int:
        return min(count, int(cast(Any, self.model).config.num_hidden_layers))

    def layers(self, images: Tensor, which: Sequence[int]) -> list[Features]:
        count = cast(Any, self.model).config.num_hidden_layers
        which = checked_layers(self.card.name, which, count)
        output = self._run(images, output_hidden_states=True)
        # Whether the last hidden state includes the final norm depends on version and family.
        tokens = [self._last(output) if n == count - 1 else self._norm(output.hidden_states[n + 1]) for n in which]
        return [self._features(t, images) for t in tokens]

    def _last(self, output: Any) -> Tensor:
        tokens: Tensor = output.last_hidden_state
        return self._norm(tokens) if self.kind in NORM_BEFORE_POOLING_ONLY else tokens

    def _run(self, images: Tensor, **options: Any) -> Any:
        if CLASSES[self.kind][1] and not self.card.fixed_size:
            options["interpolate_pos_encoding"] = True
        if self.kind == "vit_mae":
            patch = self.card.patch_size
            count = (images.shape[2] // patch) * (images.shape[3] // patch)
            # MAE sorts patches by this noise and keeps the first share of them: here all, in order.
            options["noise"] = torch.arange(count, device=images.device).expand(len(images), count)
        return self.model(pixel_values=(images - self.mean) / self.std, **options)

    def _norm(self, tokens: Tensor) -> Tensor:
        model = cast(Any, getattr(self.model, "vision_model", self.model))
        names = ("layernorm", "post_layernorm", "norm")
        normed: Tensor = next(getattr(model, n) for n in names if hasattr(model, n))(tokens)
        return normed

    def _features(self, tokens: Tensor, images: Tensor) -> Features:
        height, width = (s // self.card.patch_size for s in images.shape[-2:])
        patches = tokens[:, tokens.shape[1] - height * width :].transpose(1, 2)
        patches = patches.reshape(len(images), -1, height, width)
        return Features(patches.mean((2, 3)) if self.kind in WITHOUT_CLASS_TOKEN else tokens[:, 0], patches)


@final
class HfSource(Source):
    """Repositories of the Hugging Face hub, or folders of the same layout. Reads safetensors only and runs no code.

    A revision is a branch, a tag or, best, a commit.
    """

    def load(self, name: str) -> Encoder:
        spec = f"hf:{name}"
        transformers_library()
        repository, _, revision = name.partition("@")
        folder, commit = _fetched(spec, repository, revision or None)
        settings = read_json(folder / "config.json", spec)
        kind = str(settings.get("model_type", ""))
        if kind not in CLASSES:
            raise UserError(
                f"{spec} is a model of type '{kind}'; robustprobe reads {', '.join(CLASSES)}. "
                "Use such a model, or write your own class, as my.py:Class."
            )
        pixels = pixel_scale(processor_settings(folder, spec), spec)
        model = _model(folder, kind, spec)
        check_channels(model.config, spec)
        size = model.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if height != width and not CLASSES[kind][1]:
            raise UserError(
                f"{spec} is made for {height} x {width}; a {kind} of transformers takes square images only."
            )
        card = EncoderCard(
            name=spec,
            source="hf",
            licence=_licence(folder),
            revision=commit,
            patch_size=model.config.patch_size,
            input_size=(height, width),
            # transformers can resize position embeddings of a square only.
            fixed_size=height != width,
            notes=pixels.note,
            widths=FeatureDims(model.config.hidden_size, model.config.hidden_size),
        )
        encoder = HfViT(card, model, kind, pixels.mean, pixels.std)
        encoder.origin = Repository(spec, repository, commit, folder)
        return encoder


def _fetched(spec: str, repository: str, revision: str | None) -> tuple[Path, str]:
    """The folder with all files of a repository, and its commit (empty for a local folder)."""
    if Path(repository, "config.json").is_file():
        return Path(repository), ""
    config = hub_file(spec, repository, ["config.json"], revision)
    pinned = config.commit
    hub_file(spec, repository, FILES, pinned)
    weights = hub_file(spec, repository, ["model.safetensors", INDEX], pinned)
    if weights.path.name == INDEX:
        listed = read_json(weights.path, spec).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(shard, str) for shard in listed.values()):
            raise UserError(f"{weights.path} has no 'weight_map' of names to files. Download it again.")
        for shard in sorted(set(listed.values())):
            hub_file(spec, repository, [shard], pinned)
    with suppress(UserError):
        hub_file(spec, repository, ["README.md"], pinned)
    return config.path.parent, pinned


def _model(folder: Path, kind: str, spec: str) -> Any:
    """The vision tower with the weights of a folder. Raises UserError if any weight is missing."""
    options: dict[str, Any] = {"add_pooling_layer": False} if kind in {"vit", "ijepa"} else {}
    if kind == "vit_mae":
        options["mask_ratio"] = 0.0
    for weights in folder.glob("*.safetensors"):
        check_is_weights(weights)
    return read_model(folder, CLASSES[kind][0], spec, "encoder", **options)


def _licence(folder: Path) -> str:
    """The licence in the header of a repository's README, if that is in the cache."""
    path = folder / "README.md"
    lines = path.read_text(errors="replace").split("\n", 60)[:60] if path.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("license:")]
    return named[0] if named and named[0] else "unknown"
