"""DeACL behind a projector, as in its authors' code; an example of a defence in a user's own file.

    robustprobe harden --encoder bundled:scenes --dataset scenes --method scripts/projected.py:ProjectedDeacl --out OUT

Encoders that can be downloaded come without the projector of their pre-training, so one is fitted to the frozen teacher
first: InfoNCE between two random crops of each image (SimCLR, Chen et al. 2020). The student's
copy is trained with the student.
"""

import copy
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, RandomHorizontalFlip, RandomResizedCrop

from robustprobe import UserError
from robustprobe.core.types import Features
from robustprobe.defences import Defence, FitSurrogates, LayerFeatures, LossTerms, Recipe
from robustprobe.encoders import Encoder

HIDDEN, WIDTH = 512, 128
STEPS, RATE, TEMPERATURE = 200, 1e-3, 0.2
CROPS = 8


@final
class ProjectedDeacl(Defence):
    """DeACL's two terms between projected class tokens. The teacher's projector is frozen after its fit."""

    recipe: ClassVar = Recipe(optimiser="sgd", learning_rate=0.05, epochs=100, batch_size=256, eps=8 / 255, steps=5)

    def prepare(self, teacher: Encoder, images: Tensor, fit_surrogates: FitSurrogates) -> None:
        if self.tokens != "cls" or self.layers != (-1,):
            raise UserError("ProjectedDeacl reads the last class token alone; leave out --tokens and --layer.")
        self.projector = fitted_projector(teacher, images)
        # In a list: a part of this module would be trained.
        self.kept = [copy.deepcopy(self.projector).requires_grad_(False)]

    def raised(self, attacked: list[Features], own: list[Features], clean: list[Features], progress: float) -> Tensor:
        return distance(self.projector, attacked, self.kept[0], clean)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        drift = distance(self.projector, seen.own, self.kept[0], seen.clean)
        moved = distance(self.projector, seen.attacked, self.projector, seen.own)
        return LossTerms(drift + 2 * moved, {"drift": drift, "moved": moved})


def distance(projector: nn.Module, a: list[Features], other: nn.Module, b: list[Features]) -> Tensor:
    """1 - cosine of the last layers' projected class tokens, (B,)."""
    return 1 - F.cosine_similarity(projector(a[-1].cls), other(b[-1].cls), dim=-1)


def fitted_projector(teacher: Encoder, images: Tensor) -> nn.Module:
    """A two-layer projector, trained by InfoNCE to match two random crops of each image (N, 3, H, W)."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        crops = torch.stack([cropped_tokens(teacher, images) for _ in range(CROPS)])
        net = nn.Sequential(nn.Linear(crops.shape[-1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)).to(crops.device)
        optimiser = torch.optim.AdamW(net.parameters(), lr=RATE)
        for _ in range(STEPS):
            first, second = torch.randperm(CROPS)[:2].tolist()
            loss = info_nce(net(crops[first]), net(crops[second]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    print(f"projector: InfoNCE {float(loss.detach()):.2f} of {len(images)} images", flush=True)
    return net


@torch.no_grad()
def cropped_tokens(teacher: Encoder, images: Tensor) -> Tensor:
    """The teacher's class tokens (N, D) of a random crop of each image (N, 3, H, W)."""
    crop = Compose([RandomResizedCrop(list(images.shape[-2:]), scale=(0.25, 1.0)), RandomHorizontalFlip()])
    views = torch.stack([crop(image) for image in images])
    return torch.cat([teacher(part).cls for part in views.split(64)])


def info_nce(a: Tensor, b: Tensor) -> Tensor:
    """Symmetric InfoNCE of matching rows (N, D)."""
    logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / TEMPERATURE
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
