"""What every encoder is, and how a name becomes one."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from robustprobe.core.arguments import checked_types
from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.registry import sources
from robustprobe.core.shared_names import split_name
from robustprobe.core.types import FeatureDims, Features
from robustprobe.core.user_code import source_digest
from robustprobe.core.usual_mode import usual_mode
from robustprobe.encoders._contract import check_not_lazy, check_usable, checked_features, failures, identity, unchanged
from robustprobe.encoders._meant import meant
from robustprobe.encoders._plain_attributes import plain_attributes

_OWN_ATTRIBUTES = frozenset(("_digest", "_attributes", "_seen"))


class EncoderCard(BaseModel):
    """What is known of an encoder beside its weights.

    `revision` is the commit the weights were published at, where they come from a hub; `fixed_size` says that only
    images of `input_size` (H, W) are taken; `notes` what was done to load the weights; `spec` what it was loaded from,
    where `name` is one that the user gave. Of a hardened encoder `teacher`
    is the name of the one it was hardened from, `method` the defence, `epoch` the one after which the weights were kept
    (0: the teacher's), and `run` names the hardening run, so that its checkpoints are known to belong together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    spec: str = ""
    source: str = ""
    licence: str = "unknown"
    revision: str = ""
    notes: str = ""
    teacher: str = ""
    method: str = ""
    epoch: int | None = None
    run: str = ""
    patch_size: int
    input_size: tuple[int, int]
    fixed_size: bool = False
    widths: FeatureDims


class TextTower(NamedTuple):
    """What embeds texts in the space of an encoder's images.

    `embed` maps N texts to (N, D). Images have the class token (B, width) for an embedding, or where there is `pool`
    what that makes of the patch tokens (B, N, width); `projection` (D, width) follows. Logits are `scale` times the
    cosine of both, plus `bias`. `digest` names the weights and the tokenizer.
    """

    embed: Callable[[Sequence[str]], Tensor]
    digest: str
    scale: float
    bias: float = 0.0
    projection: Tensor | None = None
    pool: nn.Module | None = None


class Encoder(nn.Module, ABC):
    """A frozen vision encoder: images (B, 3, H, W) in [0, 1] to `Features`.

    Everything that belongs to the weights, such as normalisation, happens inside. `cls` is the class token, or where
    the model has none the mean of the patch tokens after the final norm; register tokens are in neither.
    Derived classes fill `features`.
    """

    def __init__(self, card: EncoderCard) -> None:
        super().__init__()
        self.card = card
        self._digest: tuple[object, str] | None = None
        self._attributes: str | None = None
        self._seen: set[bool] = set()

    @abstractmethod
    def features(self, images: Tensor) -> Features:
        """Features of images whose size has been checked."""

    def layers(self, images: Tensor, which: Sequence[int]) -> list[Features]:
        """Features after some of the blocks inside, counted from 0, or from -1 backwards.

        Raises:
            UserError: the encoder does not show them, or has no such block.
        """
        raise UserError(f"{self.card.name} does not show the features of its layers; fill Encoder.layers to do so.")

    def text_tower(self) -> TextTower:
        """The text tower that was trained with this image tower, from the same place as its weights.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        raise UserError(
            f"{self.card.name} has no text tower, so templates cannot be embedded. Take a CLIP or SigLIP model with "
            "both towers, as hf:ORG/NAME, or give a safetensors file of text embeddings."
        )

    def readable_blocks(self, count: int) -> int:
        """How many of the last `count` blocks `layers` can give side by side: with the width and grid of the last one.

        By default all where a derived class fills `layers`, else 1.
        """
        return 1 if type(self).layers is Encoder.layers else count

    @final  # type: ignore[misc]
    def forward(self, images: Tensor) -> Features:
        """Features of images (B, 3, H, W) in [0, 1].

        Raises:
            UserError: another shape, a height or width that is no multiple of the patch size, or not the one size
                that an encoder of fixed size takes; or features that are not what the card says.
        """
        patch = self.card.patch_size
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % patch or images.shape[3] % patch:
            own = self.card.input_size
            remedy = f"Resize the images, for instance to {own}."
            if own[0] % patch or own[1] % patch:
                remedy = f"Correct its card: input_size {own} is no multiple of patch_size {patch} itself."
            raise UserError(
                f"{self.card.name} got images of shape {tuple(images.shape)}; it takes (B, 3, H, W) with H and W "
                f"multiples of {patch}. {remedy}"
            )
        if self.card.fixed_size and images.shape[2:] != self.card.input_size:
            raise UserError(
                f"{self.card.name} got images of shape {tuple(images.shape)}; its position embeddings are for "
                f"{self.card.input_size} only. Resize the images to that (--image-size {self.card.input_size[0]}, or "
                f"size={self.card.input_size[0]} in Python), or take an encoder of variable size."
            )
        # A copy: code that writes into its input must not change the caller's images.
        given = images.clone()
        if self.training or torch.is_grad_enabled() in self._seen:
            with failures(self, self.card.name, images):
                found = self.features(given)
        else:
            with unchanged(self, self.card.name), failures(self, self.card.name, images):
                found = self.features(given)
            self._seen.add(torch.is_grad_enabled())
        return checked_features(found, images, self.card.name, patch, self.card.widths)

    @final
    def freeze(self) -> "Encoder":
        """Evaluation mode, and no parameter that asks for a gradient.

        Raises:
            UserError: it could not be attacked so, see `check_usable`.
        """
        check_not_lazy(self, self.card.name)
        self.eval().requires_grad_(False)
        check_usable(self, self.card.name, type(self).forward is Encoder.forward)
        self._plain_attributes()
        return self

    @final
    def freeze_again(self) -> "Encoder":
        """As `freeze`, of an encoder whose attributes the user may have changed since."""
        self._attributes = None
        return self.freeze()

    def _plain_attributes(self) -> str:
        """As they were when the encoder was frozen: a network may count its calls."""
        if self._attributes is None:
            self._attributes = plain_attributes(self, _OWN_ATTRIBUTES)
        return self._attributes

    def settings(self) -> list[int | float | str]:
        """What the features depend on beside weights and buffers, such as the number of attention heads."""
        return []

    @property
    def digest(self) -> str:
        """SHA-256 of names, shapes, types and values of the weights, and of what else makes the encoder.

        That is its settings, and of a user's own classes the files they come from and the numbers and words that they
        held when the encoder was frozen. Computed again once weights have changed.
        """
        seen = (self._plain_attributes(), *(identity(value) for value in self.state_dict().values()))
        if self._digest is None or self._digest[0] != seen:
            self._digest = (seen, self._hash())
        return self._digest[1]

    def _hash(self) -> str:
        kind = type(self)
        state = hashlib.sha256(f"{kind.__qualname__}{self.settings()}".encode())
        state.update(source_digest(kind, *(type(part) for part in self.modules())).encode())
        state.update(self._plain_attributes().encode())
        for name, tensor in _tensors(self.state_dict()):
            state.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return state.hexdigest()


def _tensors(state: Mapping[str, object]) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name, those of quantised layers as whole numbers; what is no tensor is left to their settings."""
    for name, value in sorted(state.items()):
        parts = value if isinstance(value, tuple) else (value,)
        for part in parts:
            if isinstance(part, Tensor):
                yield name, part.int_repr() if part.is_quantized else part


class Source(ABC):
    """A place encoders come from, named by the part of a spec before the colon."""

    @abstractmethod
    def load(self, name: str) -> Encoder:
        """The encoder called `name` at this source. Raises UserError where there is none."""


SHORT_NAMES = {
    "dino_vitb16": "timm:vit_base_patch16_224.dino",
    "dinov2_vits14": "timm:vit_small_patch14_dinov2.lvd142m",
    "dinov2_vitb14": "timm:vit_base_patch14_dinov2.lvd142m",
}


def full_name(spec: str) -> str:
    """SOURCE:NAME for a short name, also for `SHORT.random` and `SHORT@REVISION`; other specs as they are."""
    parts = re.fullmatch(r"(\w+)(\.\w+)?(@.+)?", spec)
    if not parts or parts[1] not in SHORT_NAMES:
        return spec
    architecture, _, tag = SHORT_NAMES[parts[1]].partition(".")
    return f"{architecture}{parts[2] or '.' + tag}{parts[3] or ''}"


@checked_types(spec="the name of an encoder, such as bundled:photos")
@usual_mode()
def load_encoder(spec: str) -> Encoder:
    """The frozen encoder a spec names.

    `timm:NAME.tag[@REVISION]`, `hf:ORG/NAME[@REVISION]`, `hub:OWNER/REPO[:REF]:NAME`, `file:DIR`,
    `file:CHECKPOINT?arch=NAME`, `bundled:NAME`, `my.py:Class` or `my.py:factory`, or one of
    `SHORT_NAMES`; `NAME=SPEC` names the encoder.

    Raises:
        UserError: unknown source or name, missing or unreadable weights, weights of another architecture.

    Example:
        >>> import robustprobe as rp
        >>> encoder = rp.load_encoder("bundled:photos")
        >>> features = encoder(images)  # (B, 3, H, W) in [0, 1] to Features(cls, patches)
    """
    given, spec = split_name(spec)
    head, colon, name = full_name(spec).partition(":")
    if not colon or not name:
        known = ", ".join(sources.names())
        raise UserError(
            f"'{spec}' names no encoder source.{meant(spec, SHORT_NAMES)} Write SOURCE:NAME, such as bundled:scenes. "
            f"Sources: {known}. "
            f"Short names: {', '.join(SHORT_NAMES)}."
        )
    if head.endswith(".py"):
        head, name = "python", spec
    if head not in sources.names():
        raise unknown_name("encoder source", head, sources.names())
    source = cast(type[Source], sources.get(head))
    encoder = source().load(name).freeze()
    if given or full_name(spec) != spec:
        encoder.card = encoder.card.model_copy(update={"name": given or spec, "spec": full_name(spec)})
    return encoder
