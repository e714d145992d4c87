"""A defence on features and, as much, behind a frozen projector, after ProFeAT (Addepalli et al., TMLR 2024)."""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, RandomHorizontalFlip, RandomResizedCrop

from robustprobe.core.errors import UserError
from robustprobe.core.types import FeatureDims, Features
from robustprobe.defences._distance import Layers
from robustprobe.defences.base import Defence, FitSurrogates, LayerFeatures, LossTerms
from robustprobe.encoders import Encoder
from robustprobe.tasks import Head

HIDDEN, WIDTH = 512, 128
STEPS, RATE, TEMPERATURE, CROPS = 200, 1e-3, 0.2, 8


@final
class Projected(Defence):
    """A defence in its own form on the features, and once more on projected ones; attack and loss are the mean of both.

    The projector is fitted to the teacher and then frozen, for teacher and student alike. ProFeAT's weak augmentation
    for the teacher and strong one for the student is left out: both see the same crop.
    """

    def __init__(self, plain: Defence, behind: Defence) -> None:
        super().__init__(plain.tokens, plain.layers, plain.options)
        self.plain, self.behind = plain, behind
        self.attack_reads_own = plain.attack_reads_own  # type: ignore[misc]
        self.loss_reads_own = plain.loss_reads_own  # type: ignore[misc]

    @property
    def own_rate(self) -> float | None:
        return self.plain.own_rate

    def prepare(self, teacher: Encoder, images: Tensor, fit_surrogates: FitSurrogates) -> None:
        self.projector = fitted_projector(teacher, images).requires_grad_(False)
        self.plain.prepare(teacher, images, fit_surrogates)
        self.behind.prepare(_ProjectedEncoder(teacher, self.projector), images, _no_surrogates)

    def redraw(self, step: int, generator: torch.Generator) -> None:
        self.plain.redraw(step, generator)
        self.behind.redraw(step, generator)

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        plain = self.plain.raised(attacked, own, clean, progress)
        behind = self.behind.raised(self._behind(attacked), self._behind(own), self._behind(clean), progress)
        return (plain + behind) / 2

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        plain = self.plain.lowered(seen)
        behind = self.behind.lowered(LayerFeatures(*(self._behind(part) for part in seen)))
        facts = plain.facts | {f"projected_{name}": value for name, value in behind.facts.items()}
        return LossTerms((plain.loss + behind.loss) / 2, facts)

    def _behind(self, layers: Layers) -> Layers:
        return [projected(self.projector, features) for features in layers]


def projected(projector: nn.Module, features: Features) -> Features:
    """Features with class token and each patch token behind a projector."""
    patches = projector(features.patches.movedim(1, -1)).movedim(-1, 1)
    return Features(projector(features.cls), patches)


def fitted_projector(teacher: Encoder, images: Tensor) -> nn.Module:
    """A two-layer projector of class tokens, trained by InfoNCE to match two random crops of each image (N, 3, H, W).

    Encoders that can be downloaded come without the projector of their pre-training, so one is fitted to the frozen
    teacher (SimCLR, Chen et al. 2020).
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        crops = torch.stack([_cropped_tokens(teacher, images) for _ in range(CROPS)])
        net = nn.Sequential(nn.Linear(crops.shape[-1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)).to(crops.device)
        optimiser = torch.optim.AdamW(net.parameters(), lr=RATE)
        for _ in range(STEPS):
            first, second = torch.randperm(CROPS)[:2].tolist()
            loss = _info_nce(net(crops[first]), net(crops[second]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net


@torch.no_grad()
def _cropped_tokens(teacher: Encoder, images: Tensor) -> Tensor:
    """The teacher's class tokens (N, D) of a random crop of each image (N, 3, H, W)."""
    crop = Compose([RandomResizedCrop(list(images.shape[-2:]), scale=(0.25, 1.0)), RandomHorizontalFlip()])
    views = torch.stack([crop(image) for image in images])
    return torch.cat([teacher(part).cls for part in views.split(64)])


def _info_nce(a: Tensor, b: Tensor) -> Tensor:
    """Symmetric InfoNCE of matching rows (N, D)."""
    logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / TEMPERATURE
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@final
class _ProjectedEncoder(Encoder):
    """A teacher behind the projector, on which a defence is prepared."""

    def __init__(self, teacher: Encoder, projector: nn.Module) -> None:
        super().__init__(teacher.card.model_copy(update={"widths": FeatureDims(WIDTH, WIDTH)}))
        self.teacher, self.projector = teacher, projector

    def features(self, images: Tensor) -> Features:
        return projected(self.projector, self.teacher(images))


def _no_surrogates(size: tuple[int, int]) -> Sequence[Head]:
    raise UserError("surrogate heads read no projected features; leave out --projector, or take inner=distance.")
