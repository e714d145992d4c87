"""A patch of any pixels on a fixed share of the image, by Auto-PGD on any task (Brown et al., 2017)"""

from typing import ClassVar, NamedTuple, cast, final

import torch
from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._phases import SEARCH_TUNING
from robustprobe.attacks._search import (
    Entries,
    LossValues,
    Objective,
    Passes,
    PerImageRandom,
    Search,
    SearchResult,
    ascent_passes,
    everything,
)
from robustprobe.attacks._task_objectives import default_objective
from robustprobe.attacks.base import Attack, Victim
from robustprobe.core.attack_spec import CENTRE, RANDOM_POSITION, WORST_POSITION, AttackSpec
from robustprobe.core.errors import UserError
from robustprobe.core.patches import box_mask, boxes_at, cut_out, patch_size, put_in
from robustprobe.core.sums import mean_of
from robustprobe.core.threat import WholeBox, image_generator, over_image
from robustprobe.core.types import AttackLosses
from robustprobe.core.views import Size

WORST_OF = 4
"""Places of which `worst` takes the one that does most damage."""
RADIUS = 0.5
"""That of the box around mid-grey: the first step of Auto-PGD is twice as long."""


class _Found(NamedTuple):
    """Patches (n, 3, h, w), their boxes (n, 4), and the gain in damage (n,) over the image at the same pixels."""

    patches: SearchResult
    boxes: Tensor
    gain: Tensor


@final
class Patch(Attack):
    """Maximises a loss of the task over the pixels of a rectangle; labels under it count nowhere.

    Its place is drawn from the image's id alone, so that another seed or encoder meets the same one, or is given, or is
    the worst of four. With `position_samples` the place is not known to the attack: each step averages over so many.
    """

    access: ClassVar = "task"
    warm_start: ClassVar = False
    own_unit: ClassVar = "area"
    citation: ClassVar = "Brown et al., Adversarial Patch, 2017, arXiv:1712.09665"
    steps: ClassVar = 50
    tuning: ClassVar = SEARCH_TUNING | {"position", "position_samples"}

    def __init__(self, spec: AttackSpec) -> None:
        super().__init__(spec)
        if spec.position_samples > 1 and spec.position != RANDOM_POSITION:
            raise UserError(
                f"position_samples {spec.position_samples} are for a patch whose place the attack does not know; it "
                f"got position '{spec.position}'. Give one of the two."
            )

    @property
    def _runs(self) -> int:
        return self.spec.restarts * (WORST_OF if self.spec.position == WORST_POSITION else 1)

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        search = ascent_passes(self.spec.steps).times(self.spec.position_samples)
        return search._replace(forwards=search.forwards + 1).times(self._runs)

    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        best: _Found | None = None
        for run in range(self._runs):
            found = self._run(victim, images, randomness, run)
            best = found if best is None else _worse(best, found)
        assert best is not None
        generators = randomness.named("control").generators(everything(images))
        noise = torch.stack(
            [torch.rand(best.patches.images.shape[1:], generator=one, dtype=torch.float32) for one in generators]
        )
        return best.patches._replace(
            images=put_in(images, best.boxes, best.patches.images),
            boxes=best.boxes,
            control=put_in(images, best.boxes, noise.to(images)),
        )

    def _run(self, victim: Victim, images: Tensor, randomness: PerImageRandom, run: int) -> _Found:
        """One search at one place."""
        size = (images.shape[-2], images.shape[-1])
        boxes = self._boxes(randomness.ids, size, run).to(images.device)
        spec, last = self.spec, self.spec.iterate == "last"
        stop = spec.early_exit and not last
        here = _pasted(victim, spec.objective, images, boxes)
        objective = here if spec.position_samples == 1 else self._anywhere(victim, images, randomness, run)
        search = Search(WholeBox(RADIUS), objective, spec.steps, 0.0, spec.random_start, last, stop, spec.eot_samples)
        entries = everything(images)
        entries = entries._replace(runs=entries.runs + run)
        clean = cut_out(images, boxes)
        found = apgd(search, clean, entries, randomness, None)
        with torch.no_grad():
            before = search._replace(objective=here).judge(clean, entries, 0).damage
        return _Found(found, boxes, found.damage - before)

    def _boxes(self, ids: tuple[str, ...], size: Size, run: int) -> Tensor:
        """Where the patches lie, (n, 4)."""
        position, patch = self.spec.position, patch_size(self.spec.eps, size)
        if position in (RANDOM_POSITION, WORST_POSITION):
            place = run % WORST_OF if position == WORST_POSITION else 0
            drawn = [_place(image_generator(0, name, "patch", place)) for name in ids]
            return boxes_at(torch.stack(drawn), patch, size)
        shares = (0.5, 0.5) if position == CENTRE else tuple(float(part) for part in position.split(","))
        return boxes_at(torch.tensor([shares]).expand(len(ids), 2), patch, size)

    def _anywhere(self, victim: Victim, images: Tensor, randomness: PerImageRandom, run: int) -> Objective:
        """The mean objective over places drawn anew in each step."""
        size = (images.shape[-2], images.shape[-1])
        patch = patch_size(self.spec.eps, size)

        def judge(patches: Tensor, entries: Entries, progress: float) -> LossValues:
            ids, shown = [randomness.ids[row] for row in entries.rows.tolist()], images[entries.rows]
            values = []
            for sample in range(self.spec.position_samples):
                key = ("patch", run, round(progress * self.spec.steps), sample)
                places = torch.stack([_place(image_generator(self.spec.seed, name, *key)) for name in ids])
                boxes = boxes_at(places, patch, size).to(images.device)
                part = victim._replace(targets=cast(Tensor, victim.targets)[entries.rows])
                objective = _pasted(part, self.spec.objective, shown, boxes)
                own = Entries(torch.arange(len(ids), device=images.device), entries.runs)
                values.append(objective(patches, own, progress))
            loss, step_loss, damage = (
                mean_of([getattr(value, name) for value in values]) for name in ("loss", "step_loss", "damage")
            )
            return LossValues(loss, step_loss, damage, torch.stack([value.success for value in values]).all(0))

        return judge


def _place(generator: torch.Generator) -> Tensor:
    return torch.rand(2, generator=generator, dtype=torch.float64)


def _pasted(victim: Victim, loss: str, images: Tensor, boxes: Tensor) -> Objective:
    """A loss of the task as a function of patches in boxes (n, 4) of images (n, 3, H, W)."""
    size = (images.shape[-2], images.shape[-1])
    targets = cast(Tensor, victim.targets)
    if victim.without:
        targets = victim.without(targets, box_mask(boxes, size))
    whole = default_objective(victim._replace(targets=targets), loss, images)

    def judge(patches: Tensor, entries: Entries, progress: float) -> LossValues:
        shown = put_in(images[entries.rows], boxes[entries.rows], patches)
        return whole(shown, entries, progress)

    return judge


def _worse(best: _Found, found: _Found) -> _Found:
    """Image by image the search with more gain: damage itself is that of other pixels."""
    better = found.gain > best.gain
    old, new = best.patches, found.patches
    images = torch.where(over_image(better), new.images, old.images)
    damage, success, rising = (
        torch.where(better, getattr(new, name), getattr(old, name)) for name in ("damage", "success", "rising")
    )
    zeros = torch.fmax(old.zero_gradient, new.zero_gradient)
    boxes = torch.where(better[:, None], found.boxes, best.boxes)
    return _Found(SearchResult(images, damage, success, zeros, rising), boxes, torch.maximum(best.gain, found.gain))
