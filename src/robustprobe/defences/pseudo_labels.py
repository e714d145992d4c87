"""Pseudo-labels, after DynACL++ (Luo et al., ICLR 2023): adversarial training on clusters of the teacher's features"""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast, final

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
from robustprobe.losses import embedding

USUAL = (10, 30, 100)
KINDS: dict[Tokens, tuple[str, ...]] = {"cls": ("cls",), "patch": ("patch",), "both": ("cls", "patch")}
POINTS_PER_CLUSTER = 2


def _numbers(given: Any) -> Any:
    """Numbers of a text such as 10,30; anything else as it is."""
    return given.split(",") if isinstance(given, str) else given


@final
class PseudoLabelOptions(Options):
    """`clusters`: numbers of clusters, one clustering and one head for each, such as 10,30; by default 10, 30 and 100,
    as far as the images suffice for two per cluster. `temperature`: 0 for the nearest centre as the label; above 0 the
    label is the softmax of the teacher's scores divided by it, so below 1 they are sharpened. `patches`: `distance`
    replaces the labels of patch tokens by their squared L2 distance from the teacher's, in units of its variance.
    """

    clusters: Annotated[
        tuple[Annotated[int, Field(ge=2)], ...] | None, Field(min_length=1), BeforeValidator(_numbers)
    ] = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    patches: Literal["labels", "distance"] = "labels"


class _Clustering(NamedTuple):
    """Centres of tokens of a kind, and the mean squared distance of a token from its own."""

    kind: str
    centres: Tensor
    scale: Tensor

    def scores(self, tokens: Tensor) -> Tensor:
        """-d(z, c) / (2 s) for each centre: d squared L2, s the scale."""
        return -torch.cdist(tokens, self.centres).square() / (2 * self.scale)

    def labels(self, tokens: Tensor, temperature: float) -> Tensor:
        """(..., clusters): the nearest centre alone, or the softmax of sharpened scores."""
        scores = self.scores(tokens)
        if temperature:
            return (scores / temperature).softmax(-1)
        return F.one_hot(scores.argmax(-1), len(self.centres)).to(scores.dtype)


@final
class PseudoLabels(Defence):
    """Inner attack and loss: the cross-entropy of linear heads on f_R(x'), mean over clusterings; no clean term.

    The label of an image, or of a patch token, is the nearest of the centres that k-means finds in the teacher's
    features; heads start as the nearest-centre classifier, are trained beside the student, and are then thrown away.
    With `patches=distance` the loss is that of class tokens plus the distance of patch tokens.
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
        if self.patch_distance and self.tokens != "both":
            raise UserError("--option patches=distance is an objective on both kinds of tokens; add --tokens both.")
        with torch.no_grad():
            parts = [teacher(part) for part in images.split(64)]
        self.clusterings: list[_Clustering] = []
        self.heads = nn.ModuleList()
        for kind in KINDS["cls" if self.patch_distance else self.tokens]:
            points = torch.cat([_tokens(part, kind).flatten(0, 1) for part in parts])
            for count in self._counts(kind, len(points)):
                self.clusterings.append(_clustered(kind, points, count))
                self.heads.append(_nearest_centre(self.clusterings[-1]))
        if self.patch_distance:
            patches = torch.cat([_tokens(part, "patch").flatten(0, 1) for part in parts])
            self.patch_variance = (patches - patches.mean(0)).square().sum(1).mean()

    @property
    def patch_distance(self) -> bool:
        """Whether patch tokens are held near the teacher's instead of being given labels."""
        return self._own_options.patches == "distance"

    @property
    def _own_options(self) -> PseudoLabelOptions:
        return cast(PseudoLabelOptions, self.options)

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        return self._terms(attacked[-1], clean[-1]).loss

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        return self._terms(seen.attacked[-1], seen.clean[-1])

    def _terms(self, attacked: Features, clean: Features) -> LossTerms:
        loss, agreed = self._cross_entropy(attacked, clean)
        facts = {"agreement": agreed.detach()}
        if self.patch_distance:
            moved = embedding.patch_distance(attacked, clean) / self.patch_variance
            return LossTerms(loss + moved, facts | {"moved": moved})
        return LossTerms(loss, facts)

    def _cross_entropy(self, attacked: Features, clean: Features) -> tuple[Tensor, Tensor]:
        """Cross-entropy and share of correct answers (B,), mean over tokens and clusterings."""
        losses, agreed = [], []
        for clustering, head in zip(self.clusterings, self.heads, strict=True):
            labels = clustering.labels(_tokens(clean, clustering.kind), self._own_options.temperature)
            logits = head(_tokens(attacked, clustering.kind))
            losses.append(-(labels * logits.log_softmax(-1)).sum(-1).mean(1))
            agreed.append((logits.argmax(-1) == labels.argmax(-1)).to(logits.dtype).mean(1))
        return torch.stack(losses).mean(0), torch.stack(agreed).mean(0)

    def _counts(self, kind: str, points: int) -> tuple[int, ...]:
        given, most = self._own_options.clusters, points // POINTS_PER_CLUSTER
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


def _clustered(kind: str, points: Tensor, count: int) -> _Clustering:
    centres = k_means(points, count)
    scale = torch.cdist(points, centres).min(1).values.square().mean()
    return _Clustering(kind, centres, scale.clamp(min=torch.finfo(points.dtype).tiny))


def _nearest_centre(clustering: _Clustering) -> nn.Linear:
    """A linear head whose logits are the clustering's scores but for what all classes share."""
    centres, scale = clustering.centres, clustering.scale
    head = nn.Linear(centres.shape[1], len(centres)).to(centres.device)
    with torch.no_grad():
        head.weight.copy_(centres / scale)
        head.bias.copy_(-centres.square().sum(1) / (2 * scale))
    return head
