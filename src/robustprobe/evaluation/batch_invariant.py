"""Batch-invariant inference: an image gets the same bits alone, in any batch and in any partial result.

On a CPU, kernels for float32 matrix products and convolutions are chosen by the size of the batch, and another kernel
rounds differently. An attack amplifies that: a gradient value with another sign makes another image. So on a CPU in
float32 heads answer for one image at a time, and encoders see batches only of sizes that were measured to give each
image the bits it has alone.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.types import Features
from robustprobe.core.views import Size
from robustprobe.encoders import Encoder
from robustprobe.evaluation.evaluate import EvaluationSpec
from robustprobe.probing.surrogate_heads import SurrogateHeads
from robustprobe.tasks import Head, Model

# Pixels and images that are shown at once at most: where a CPU gains no more from a larger batch.
MOST_PIXELS, MOST_IMAGES = 2**20, 32
# Shapes of images for which sizes are tried; images of further shapes are seen alone.
MOST_SHAPES = 3


@final
class BatchInvariantEncoder(Encoder):
    """An encoder that gives each image on the CPU the features and gradients it would have alone.

    Batches are cut into sizes that were tried for that shape of image, with random images: forward, with and without a
    gradient, and backward.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder.card)
        self.whole = encoder
        self.tried: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.freeze()

    @property
    def digest(self) -> str:
        return self.whole.digest

    def features(self, images: Tensor) -> Features:
        parts = [self.whole(part) for part in self._cut(images)]
        return _joined(parts)

    def layers(self, images: Tensor, which: Sequence[int]) -> list[Features]:
        parts = [self.whole.layers(part, which) for part in self._cut(images)]
        return [_joined(list(of_one)) for of_one in zip(*parts, strict=True)]

    def _cut(self, images: Tensor) -> list[Tensor]:
        # Copied, since kernels may also look at where in memory an image begins.
        if len(images) == 1:
            return [images.clone()]
        return [part.clone() for part in images.split(cuts(len(images), self._sizes(images.shape[1:])))]

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if shape not in self.tried:
            steady = invariant_sizes(self.whole, shape) if len(self.tried) < MOST_SHAPES else (1,)
            self.tried[shape] = steady
        return self.tried[shape]


def cuts(count: int, sizes: Sequence[int]) -> list[int]:
    """Sizes of the parts of a batch of `count`, each one of `sizes`, the largest first; 1 is among them."""
    parts = []
    for size in sorted(sizes, reverse=True):
        parts += [size] * (count // size)
        count %= size
    return parts


def invariant_sizes(encoder: Encoder, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Powers of two at which a batch of images of `shape` (3, H, W) gives each the bits it has alone; 1 always.

    Encoders that give no gradient see images alone: what stands in for it in an attack is not known here.
    """
    most = max(1, min(MOST_IMAGES, MOST_PIXELS // (shape[-1] * shape[-2])))
    images = torch.rand(most, *shape, generator=torch.Generator().manual_seed(0))
    try:
        alone = [_seen(encoder, image[None]) for image in images]
    except UserError:
        return (1,)
    whole = tuple(torch.cat(parts) for parts in zip(*alone, strict=True))
    sizes = [2**power for power in range(1, most.bit_length())]
    same = [size for size in sizes if _all_equal(_seen(encoder, images[:size].clone()), whole)]
    return (1, *same)


def _all_equal(found: tuple[Tensor, ...], whole: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(part, of_all[: len(part)]) for part, of_all in zip(found, whole, strict=True))


def _seen(encoder: Encoder, images: Tensor) -> tuple[Tensor, ...]:
    """Features with and without a graph, and a gradient."""
    with fast_linear():
        with torch.no_grad():
            plain = encoder(images)
        with torch.enable_grad():
            images = images.requires_grad_(True)
            traced = encoder(images)
            total = sum(f.square().sum() for f in traced)
            (gradient,) = torch.autograd.grad(total, images)
    return (*plain, *(f.detach() for f in traced), gradient)


def _joined(parts: list[Features]) -> Features:
    """Features of parts of a batch as those of the batch, laid out in one way whatever the parts were."""
    cls, patches = (torch.cat(values) if len(values) > 1 else values[0] for values in zip(*parts, strict=True))
    return Features(cls.contiguous(), patches.contiguous())


@final
class BatchInvariantHead(Head):
    """A head that answers for one image at a time: head by head a small part of the work."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.whole = head

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        answers = [self.whole(one, size) for one in _ones(features)]
        return torch.cat(answers) if len(answers) > 1 else answers[0]


def _ones(features: Features) -> list[Features]:
    return [
        Features(cls.clone(), patches.clone()) for cls, patches in zip(*(f.split(1) for f in features), strict=True)
    ]


def batch_invariant(work: EvaluationSpec) -> EvaluationSpec:
    """The work with an encoder and heads whose answers for an image on the CPU do not depend on the rest of the batch.

    Surrogate heads are fitted on the encoder as it is, since fits have batches of their own.
    """
    encoder, fit = BatchInvariantEncoder(work.encoder), work.surrogates or SurrogateHeads(work.encoder, work.device)
    models = {task: _steady_model(encoder, model) for task, model in work.models.items()}

    def surrogates(size: Size) -> list[Head]:
        return [BatchInvariantHead(head) for head in fit(size)]

    return work._replace(encoder=encoder, models=models, surrogates=surrogates)


def _steady_model(encoder: Encoder, model: Model) -> Model:
    knn_head = BatchInvariantHead(model.knn_head) if model.knn_head else None
    return Model(encoder, BatchInvariantHead(model.head), model.task, model.view, knn_head).eval()
