"""Pseudo-labels, after DynACL++ (Luo et al., ICLR 2023): adversarial training on clusters of the teacher's features"""

from typing import Annotated, Any, ClassVar, NamedTuple, cast, final

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from robustprobe.core.errors import UserError
from robustprobe.core.types import Features
from robustprobe.defences._distance import Layers, Tokens
from robustprobe.defences._kmeans import k_means
from robustprobe.defences.base import Defence, FitSurrogates, LayerFeatures, LossTerms, Options, Recipe
from robustprobe.encoders import Encoder

USUAL = (10, 30, 100)
KINDS: dict[Tokens, tuple[str, ...]] = {"cls": ("cls",), "patch": ("patch",), "both": ("cls", "patch")}
POINTS_PER_CLUSTER = 2


def _numbers(given: Any) -> Any:
    """Numbers of a text such as 10,30; anything else as it is."""
    return given.split(",") if isinstance(given, str) else given


@final
class PseudoLabelOptions(Options):
    """`clusters`: numbers of clusters, one clustering and one head for each, such as 10,30; by default 10, 30 and 100,
    as far as the images suffice for two per cluster.
    """

    clusters: Annotated[
        tuple[Annotated[int, Field(ge=2)], ...] | None, Field(min_length=1), BeforeValidator(_numbers)
    ] = None


class _Clustering(NamedTuple):
    kind: str
    centres: Tensor


@final
class PseudoLabels(Defence):
    """Inner attack and loss: the cross-entropy of linear heads on f_R(x'), mean over clusterings; no clean term.

    The label of an image, or of a patch token, is the nearest of the centres that k-means finds in the teacher's
    features; heads start as the nearest-centre classifier, are trained beside the student, and are then thrown away.
    """

    recipe: ClassVar = Recipe(
        optimiser="adamw",
        learning_rate=3e-4,
        weight_decay=1e-4,
        betas=(0.9, 0.95),
        epochs=20,
        batch_size=64,
        eps=8 / 255,
        steps=5,
    )
    options_kind: ClassVar = PseudoLabelOptions
    loss_reads_own: ClassVar = False

    def prepare(self, teacher: Encoder, images: Tensor, fit_surrogates: FitSurrogates) -> None:
        if self.layers != (-1,):
            raise UserError("pseudo-labels reads the last block alone; leave out --layer.")
        with torch.no_grad():
            parts = [teacher(part) for part in images.split(64)]
        self.clusterings: list[_Clustering] = []
        self.heads = nn.ModuleList()
        for kind in KINDS[self.tokens]:
            points = torch.cat([_tokens(part, kind).flatten(0, 1) for part in parts])
            for count in self._counts(kind, len(points)):
                centres = k_means(points, count)
                self.clusterings.append(_Clustering(kind, centres))
                self.heads.append(_nearest_centre(centres, points))

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        return self._cross_entropy(attacked[-1], clean[-1])[0]

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        loss, agreed = self._cross_entropy(seen.attacked[-1], seen.clean[-1])
        return LossTerms(loss, {"agreement": agreed.detach()})

    def _cross_entropy(self, attacked: Features, clean: Features) -> tuple[Tensor, Tensor]:
        """Cross-entropy and share of correct answers (B,), mean over tokens and clusterings."""
        losses, agreed = [], []
        for (kind, centres), head in zip(self.clusterings, self.heads, strict=True):
            labels = torch.cdist(_tokens(clean, kind), centres).argmin(-1)
            logits = head(_tokens(attacked, kind))
            losses.append(F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1))
            agreed.append((logits.argmax(-1) == labels).to(logits.dtype).mean(1))
        return torch.stack(losses).mean(0), torch.stack(agreed).mean(0)

    def _counts(self, kind: str, points: int) -> tuple[int, ...]:
        given, most = cast(PseudoLabelOptions, self.options).clusters, points // POINTS_PER_CLUSTER
        if given is None:
            return tuple(count for count in USUAL if count <= most) or (2,)
        if max(given) > most:
            what = "images" if kind == "cls" else "patch tokens"
            raise UserError(
                f"{max(given)} clusters of {points} {what}: each needs {POINTS_PER_CLUSTER}. Take more images or a "
                f"smaller --option clusters=, at most {most}."
            )
        return given


def _tokens(features: Features, kind: str) -> Tensor:
    """(B, tokens, D): the class token alone, or the patch tokens."""
    return features.cls[:, None] if kind == "cls" else features.patches.flatten(2).transpose(1, 2)


def _nearest_centre(centres: Tensor, points: Tensor) -> nn.Linear:
    """A linear head whose logits are -d(z, c) / (2 s) but for what all classes share: d squared L2, s its mean."""
    scale = torch.cdist(points, centres).min(1).values.square().mean().clamp(min=torch.finfo(points.dtype).tiny)
    head = nn.Linear(centres.shape[1], len(centres)).to(centres.device)
    with torch.no_grad():
        head.weight.copy_(centres / scale)
        head.bias.copy_(-centres.square().sum(1) / (2 * scale))
    return head
