"""A checkpoint, file:PATH?arch=NAME, or a folder with card.json and encoder.safetensors, file:DIR"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, final

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from robustprobe.core.errors import UserError
from robustprobe.core.faults import faults_text
from robustprobe.core.fingerprints import fingerprint
from robustprobe.core.types import FeatureDims
from robustprobe.encoders._checkpoint import OPTIONS, architecture_name, load_checkpoint
from robustprobe.encoders._file_kinds import ENDINGS, check_is_weights, folder_hint
from robustprobe.encoders._low_rank import LowRankEncoder as LowRankEncoder
from robustprobe.encoders._options import split_options
from robustprobe.encoders._timm import Norm, TimmMap, TimmViT, create_at, wrap
from robustprobe.encoders.base import Encoder, EncoderCard, Source

CARD, WEIGHTS = "card.json", "encoder.safetensors"
DIRECTIONS = TypeAdapter(PositiveInt | None)


Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Architecture(BaseModel):
    """Arguments of timm's VisionTransformer, and the normalisation before it; within what such encoders have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    img_size: int = Field(ge=1, le=8192)
    patch_size: int = Field(ge=1, le=512)
    embed_dim: int = Field(ge=1, le=32768)
    depth: int = Field(ge=0, le=512)
    num_heads: int = Field(ge=1, le=1024)
    mean: tuple[Number, Number, Number] = (0.5, 0.5, 0.5)
    std: tuple[Positive, Positive, Positive] = (0.25, 0.25, 0.25)

    @property
    def least_weights(self) -> int:
        """As many weights as such a network has in its matrices."""
        tokens = (self.img_size // self.patch_size) ** 2
        return self.embed_dim * (12 * self.depth * self.embed_dim + tokens + 3 * self.patch_size**2)


class NamedArchitecture(BaseModel):
    """An architecture by its name in timm, the size of images its weights are for, and the normalisation before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timm: str
    img_size: int = Field(ge=1, le=8192)
    mean: tuple[Number, Number, Number]
    std: tuple[Positive, Positive, Positive]


class Hardening(BaseModel):
    """What a card says of the hardening run that made an encoder; what else it says is not read."""

    model_config = ConfigDict(frozen=True)

    method: str = ""
    epoch: int | None = Field(default=None, ge=0)
    settings: dict[str, Any] = {}
    teacher_digest: str = ""
    data_digest: str = ""
    images: int = 0


@final
class FileSource(Source):
    """Checkpoints of other projects, and folders that robustprobe's own training writes.

    Options behind a question mark: `arch`, a timm name or a short one; `branch`, which of several encoders in the file,
    such as `student`; `norm`, the normalisation of the images where the architecture leaves a choice.
    """

    def load(self, name: str) -> Encoder:
        path, options = split_options(name, OPTIONS)
        if options or Path(path).is_file():
            return load_checkpoint(Path(path), f"file:{name}", options)
        return load_folder(Path(path), f"file:{name}")


def load_folder(folder: Path, name: str) -> Encoder:
    """The encoder of a folder that holds `card.json` and `encoder.safetensors`.

    Raises:
        UserError: a missing or unreadable file, or weights that do not fit the card's architecture.
    """
    card = read_card(folder)
    try:
        architecture, feature_rank = read_architecture(card), DIRECTIONS.validate_python(card.get("feature_rank"))
    except ValidationError as error:
        faults = faults_text(error)
        raise UserError(f"{folder / CARD} has no readable 'architecture' and 'feature_rank': {faults}.") from error
    if (folder / WEIGHTS).is_file():
        check_is_weights(folder / WEIGHTS)
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder / WEIGHTS} cannot be read as safetensors: {error}. Give a folder with intact weights."
        ) from error
    stored = sum(tensor.numel() for tensor in weights.values())
    if isinstance(architecture, Architecture) and architecture.least_weights > 4 * stored + 10**6:
        # Asked before anything is built: a card can describe an encoder of any size.
        raise UserError(
            f"{folder / WEIGHTS} holds weights of another architecture: {stored:,} numbers, and {CARD} describes "
            f"{architecture.least_weights:,} or more. Correct the card or the weights."
        )
    try:
        encoder = build(architecture, name, str(card.get("licence", "unknown")))
    except (AssertionError, ValueError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{folder / CARD} describes an architecture that cannot be built: {error}.") from error
    encoder.card = encoder.card.model_copy(update=_origin(card, folder / CARD))
    whole = _low_rank(encoder, feature_rank, folder / CARD) if feature_rank else encoder
    module = weights_module(whole)
    check_keys(module, weights, folder / WEIGHTS)
    module.load_state_dict(weights)
    return whole


def _origin(card: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Fields of an `EncoderCard` that say how an encoder was hardened."""
    try:
        hardening = Hardening.model_validate(card.get("hardening", {}))
    except ValidationError as error:
        raise UserError(f"{path} has no readable 'hardening': {faults_text(error)}. Correct the card.") from error
    run = fingerprint(hardening.model_dump(mode="json", exclude={"method", "epoch"})) if hardening.settings else ""
    return {"teacher": str(card.get("teacher", "")), "method": hardening.method, "epoch": hardening.epoch, "run": run}


def _low_rank(encoder: TimmViT | TimmMap, feature_rank: int, card: Path) -> LowRankEncoder:
    if feature_rank > min(encoder.card.widths):
        raise UserError(f"{card} says {feature_rank} directions of {min(encoder.card.widths)} channels; correct it.")
    return LowRankEncoder(encoder, feature_rank)


def weights_module(encoder: Encoder) -> nn.Module:
    """What of an encoder a folder's weights are: the model of timm, or all of one that was narrowed."""
    return encoder.model if isinstance(encoder, TimmViT | TimmMap) else encoder


def read_architecture(card: Mapping[str, Any]) -> Architecture | NamedArchitecture:
    """What a card says of the architecture. Raises ValidationError where it cannot be read."""
    said = card.get("architecture")
    kind = NamedArchitecture if isinstance(said, dict) and "timm" in said else Architecture
    return kind.model_validate(said)


def build(architecture: Architecture | NamedArchitecture, name: str, licence: str = "unknown") -> TimmViT | TimmMap:
    """An untrained encoder of an architecture. Raises UserError for a name that timm does not know."""
    if isinstance(architecture, NamedArchitecture):
        model = create_at(architecture_name(architecture.timm), architecture.img_size)
        norm = Norm(architecture.mean, architecture.std)
        return wrap(name, model, source=name.partition(":")[0], licence=licence, norm=norm)
    return _plain(architecture, name, licence)


def _plain(architecture: Architecture, name: str, licence: str) -> TimmViT:
    options = architecture.model_dump(exclude={"mean", "std"})
    model = VisionTransformer(num_classes=0, dynamic_img_size=True, **options)
    size = (architecture.img_size, architecture.img_size)
    card = EncoderCard(
        name=name,
        source=name.partition(":")[0],
        licence=licence,
        patch_size=architecture.patch_size,
        input_size=size,
        widths=FeatureDims(architecture.embed_dim, architecture.embed_dim),
    )
    return TimmViT(card, model, architecture.mean, architecture.std)


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an encoder folder, as a dictionary."""
    path = folder / CARD
    if folder.suffix in ENDINGS and not folder.exists():
        raise UserError(f"no file {folder}; give the path of a checkpoint, as file:PATH?arch=NAME.")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {path}; an encoder folder holds {CARD} and {WEIGHTS}.{folder_hint(folder)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise UserError(f"{path} holds a {type(card).__name__}; a card is a JSON object.")
    return card


def check_keys(model: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Raises UserError unless names and shapes of the weights are those of the model."""
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in weights.items()}
    if own == given:
        return
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    shapes = [f"{k} {given[k]} instead of {own[k]}" for k in sorted(own.keys() & given.keys()) if own[k] != given[k]]
    found = [
        f"{what} {', '.join(keys[:3])}"
        for what, keys in (("missing", missing), ("unknown", extra), ("shape", shapes))
        if keys
    ]
    raise UserError(
        f"{path} holds weights of another architecture: {'; '.join(found)}. Correct the card or the weights."
    )
