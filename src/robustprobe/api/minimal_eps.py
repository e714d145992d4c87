"""`robustprobe.minimal_eps`: the smallest perturbation that breaks each image of a model."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from robustprobe.api.attack_images import Images, Labels, attack
from robustprobe.api.inputs import as_images, check_layout, only
from robustprobe.attacks import Attack
from robustprobe.attacks.base import check_images
from robustprobe.attacks.min_eps import broken
from robustprobe.core.arguments import checked_types
from robustprobe.core.attack_spec import LOST_SHARE
from robustprobe.core.eps import default_eps
from robustprobe.core.registry import attacks as known_attacks
from robustprobe.core.sizes import Norm, parse_eps
from robustprobe.core.threat import NORMS
from robustprobe.tasks import Model


@checked_types("model", "images", "targets", "eps", "ids")
def minimal_eps(
    model: Callable[[Tensor], Any],
    images: Images,
    targets: Labels,
    *,
    eps: str | float | None = None,
    norm: Norm = "linf",
    steps: int = 50,
    seed: int = 0,
    ids: Sequence[str | int] | None = None,
    task: str | None = None,
    lost_share: float = LOST_SHARE,
) -> Tensor:
    """The smallest perturbation that breaks each image of a model, by bisection with Auto-PGD to `eps` / 64.

    An upper bound, as every attack's. A classifier's image breaks when its class changes. One of another task breaks
    when it has lost `lost_share` of its clean score, or when its error is 1 / (1 - `lost_share`) times that of the
    clean image. `attack="min-eps"` gives the images too.

    Args:
        model: as for `attack`.
        images: (B, 3, H, W) in [0, 1].
        targets: labels of the images, as for `attack`.
        eps: the largest size tried; by default twice what is usual for the norm and the size of the images.
        norm: `linf`, `l2` or `l1`.
        steps: of Auto-PGD, for each size tried.
        seed: of the random starts.
        ids: names of the images, which random starts depend on; by default their positions.
        task: by default that of a `Model`; any other callable is a classifier where no task is named.
        lost_share: of the clean score, above 0 and below 1.

    Returns:
        (B,): the size in the norm. 0 for images that are wrong from the start, infinity for those that `eps` did not
        break.

    Raises:
        UserError: as `attack`.

    Example:
        >>> import robustprobe as rp
        >>> sizes = rp.minimal_eps(network, images, labels, eps="16/255")
    """
    images = as_images(images)
    check_layout(images)
    check_images(images)
    usual = 2 * default_eps(norm, (images.shape[-2], images.shape[-1]))
    largest = usual if eps is None else parse_eps(only(eps, "eps"))
    options = {"eps": largest, "norm": norm, "steps": steps, "seed": seed, "ids": ids, "lost_share": lost_share}
    found = attack(model, images, targets, attack="min-eps", task=_task_of(model, task), **cast(Any, options))
    if not len(images):
        return found.score
    size = NORMS[norm](largest).size(found.adversarial - images.to(found.adversarial))
    return torch.where(broken(cast(Tensor, found.damage)).to(size.device), size, torch.inf)


def _task_of(model: Callable[[Tensor], Any], task: str | None) -> str | None:
    """The named task, that of a `Model`, or else the one that `pgd` attacks."""
    known = task or (model.task.name if isinstance(model, Model) else None)
    return known or cast(type[Attack], known_attacks.get("pgd")).access
