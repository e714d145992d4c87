"""Distances of embeddings as objectives: `l2`, `cosine-cls`, `l2-patch@2,3`, `towards-l2` and so on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustprobe.attacks._search import Entries, LossValues, Objective
from robustprobe.attacks.base import Victim
from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.sums import sum_of
from robustprobe.core.types import Features
from robustprobe.losses import embedding

DISTANCES = {
    "l2": embedding.embedding_distance,
    "l2-cls": embedding.class_distance,
    "l2-patch": embedding.patch_distance,
    "cosine": embedding.embedding_cosine,
    "cosine-cls": embedding.class_cosine,
    "cosine-patch": embedding.patch_cosine,
}
TOWARDS = "towards-"


class Distance(NamedTuple):
    """The parts of an objective's name: distance, layers (empty: the last) and direction (away or towards)."""

    measure: Callable[[Features, Features], Tensor]
    layers: tuple[int, ...]
    towards: bool


def read_distance(name: str) -> Distance:
    """The distance of a name. Raises UserError for an unknown name."""
    kind, at, numbers = name.removeprefix(TOWARDS).partition("@")
    if kind not in DISTANCES:
        raise unknown_name("embedding objective", kind, DISTANCES)
    try:
        layers = tuple(int(n) for n in numbers.split(",")) if at else ()
    except ValueError:
        raise UserError(f"'{name}' names no valid layers; write their numbers, as in {kind}@2,3.") from None
    return Distance(DISTANCES[kind], layers, name.startswith(TOWARDS))


def embedding_objective(victim: Victim, name: str, images: Tensor) -> Objective:
    """The objective that moves the embedding away from the clean one, or towards that of `victim.goals`.

    Distances in several layers are divided by the squared norm of the clean features of the layer, and added.

    Raises:
        UserError: an unknown name, layers of a model without access to layers, or no goals.
    """
    distance = read_distance(name)
    if distance.towards and victim.goals is None:
        raise UserError(f"objective {name} needs target images; give them as goals=.")
    function = _layers(victim, distance.layers)
    with torch.no_grad():
        origin = function(victim.goals.to(images) if distance.towards and victim.goals is not None else images)

    def judge(x: Tensor, entries: Entries, progress: float) -> LossValues:
        parts = [_distance(distance, f, _rows(o, entries.rows)) for f, o in zip(function(x), origin, strict=True)]
        value = sum_of(parts)
        value = -value if distance.towards else value
        return LossValues(value, value, value, torch.zeros_like(value, dtype=torch.bool))

    return judge


def _layers(victim: Victim, layers: tuple[int, ...]) -> Callable[[Tensor], list[Any]]:
    if not layers:
        return lambda x: [victim.function(x)]
    show = victim.layers
    if show is None:
        raise UserError("this model gives no access to features of its layers; leave @ out of the objective.")
    return lambda x: show(x, layers)


def _rows(features: Any, rows: Tensor) -> Any:
    return Features(*(f[rows] for f in features)) if isinstance(features, Features) else features[rows]


def _distance(distance: Distance, features: Any, origin: Any) -> Tensor:
    if not isinstance(features, Features):
        return embedding.squared_distance(features, origin)
    value = distance.measure(features, origin)
    if not distance.layers:
        return value
    size = distance.measure(origin, Features(*(torch.zeros_like(o) for o in origin)))
    return value / size.clamp(min=torch.finfo(size.dtype).tiny)
