"""Ours: keep what any linear head could read of class and patch tokens, under attacks on heads that nobody trained"""

from typing import ClassVar, Literal, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.encoders import Encoder
from robustprobe.hardening._base import Defence, Options, Outcome, Recipe, Seen
from robustprobe.hardening._distance import Layers, Scale, fit_scale, per_channel, scaled, squared_distance
from robustprobe.losses.segmentation import segmentation_pixels, segpgd
from robustprobe.proxies import STRIDE, layout_heads
from robustprobe.tasks import Head
from robustprobe.types import Features

Inner = Literal["distance", "heads", "probes", "alternate"]
TURNS: tuple[Inner, ...] = ("distance", "heads", "probes")
NOTHING_IGNORED = -1
PASS = 64


@final
class AnyheadOptions(Options):
    """What the inner attack raises and what the loss weighs.

    `inner`: the scaled distance, SegPGD's loss of `layout`'s heads fitted on the teacher, movement along a few random
    directions drawn anew each update (linear probes nobody trained), or each in turn. `scale` and `shrinkage`: see
    `fit_scale`. The loss is clean_weight D(f_R(x), f(x)) + D(f_R(x'), f(x)) + head_weight times the divergence of the
    heads' answers to x' from the teacher's to x.
    """

    inner: Inner = "distance"
    scale: Literal["none", "std", "whiten"] = "whiten"
    shrinkage: float = 0.1
    clean_weight: float = 1.0
    head_weight: float = 0.0
    probes: int = 4


@final
class Anyhead(Defence):
    """Distances D are means over channels after the teacher's features were whitened: a linear head whose answers vary
    by 1 over natural tokens moves by at most the square root of the channels times D, whatever it was trained for.

    Plain distances are ruled by directions of large variance, which EmbedAttack raises and dense heads hardly read.
    """

    recipe: ClassVar = Recipe(
        optimiser="adamw",
        learning_rate=3e-4,
        weight_decay=0.0,
        epochs=20,
        batch_size=64,
        eps=8 / 255,
        steps=5,
        protect="both",
    )
    options_kind: ClassVar = AnyheadOptions

    def prepare(self, teacher: Encoder, images: Tensor) -> None:
        chosen = cast(AnyheadOptions, self.options)
        with torch.no_grad():
            passes = [self.look(teacher, part) for part in images.split(PASS)]
        whole = [
            Features(*(torch.cat(parts).cpu() for parts in zip(*layer, strict=True)))
            for layer in zip(*passes, strict=True)
        ]
        self.scales = [fit_scale(layer, chosen.scale, chosen.shrinkage) for layer in whole]
        self.scales = [Scale(*(matrix.to(images.device) for matrix in scale)) for scale in self.scales]
        self.turn: Inner = "distance" if chosen.inner == "alternate" else chosen.inner
        self.size = (images.shape[-2] // STRIDE, images.shape[-1] // STRIDE)
        wanted = chosen.head_weight > 0 or chosen.inner in ("heads", "alternate")
        size = (images.shape[-2], images.shape[-1])
        self.heads: list[Head] = layout_heads(teacher, size, images.device) if wanted else []
        self.directions: list[Scale] = []

    def redraw(self, step: int, generator: torch.Generator) -> None:
        chosen = cast(AnyheadOptions, self.options)
        if chosen.inner == "alternate":
            self.turn = TURNS[step % len(TURNS)]
        if self.turn == "probes":
            self.directions = [
                Scale(*(m @ _directions(len(m), chosen.probes, generator).to(m) for m in scale))
                for scale in self.scales
            ]

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        if self.turn == "heads":
            return self._unsettled(attacked[-1], clean[-1], progress)
        if self.turn == "probes":
            there, here = scaled(attacked, self.directions), scaled(clean, self.directions)
            return squared_distance(there, here, self.protect)
        return self._distance(attacked, clean)

    def lowered(self, seen: Seen) -> Outcome:
        chosen = cast(AnyheadOptions, self.options)
        drift, moved = self._distance(seen.own, seen.clean), self._distance(seen.attacked, seen.clean)
        loss, facts = chosen.clean_weight * drift + moved, {"drift": drift, "moved": moved}
        if chosen.head_weight:
            facts["heads"] = self._divergence(seen.attacked[-1], seen.clean[-1])
            loss = loss + chosen.head_weight * facts["heads"]
        return Outcome(loss, facts)

    def _distance(self, a: Layers, b: Layers) -> Tensor:
        return squared_distance(scaled(a, self.scales), scaled(b, self.scales), self.protect) / per_channel(
            a, self.protect
        )

    def _unsettled(self, attacked: Features, clean: Features, progress: float) -> Tensor:
        values = []
        for head in self.heads:
            answer = head(clean, self.size).argmax(1)
            values.append(segpgd(segmentation_pixels(head(attacked, self.size), answer, NOTHING_IGNORED), progress))
        return torch.stack(values).mean(0)

    def _divergence(self, attacked: Features, clean: Features) -> Tensor:
        values = []
        for head in self.heads:
            with torch.no_grad():
                goal = head(clean, self.size).log_softmax(1)
            found = head(attacked, self.size).log_softmax(1)
            values.append(F.kl_div(found, goal, reduction="none", log_target=True).sum(1).flatten(1).mean(1))
        return torch.stack(values).mean(0)


def _directions(width: int, count: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal columns (width, count)."""
    columns: Tensor = torch.linalg.qr(torch.randn(width, min(count, width), generator=generator))[0]
    return columns
