"""Heads: small trainable maps from frozen features to an output."""

from abc import ABC, abstractmethod
from typing import cast, final

from torch import Tensor, nn

from robustprobe.core.types import Features
from robustprobe.tasks._hidden import HiddenMaps, HiddenVector


class Head(nn.Module, ABC):
    """A small trainable map from frozen features to an output for images of a given size."""

    @abstractmethod
    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Output for images of `size` (H, W)."""


@final
class MlpHead(Head):
    """A hidden layer, and the head that a task has for linear probing on it."""

    def __init__(self, hidden: HiddenVector | HiddenMaps, head: Head) -> None:
        super().__init__()
        self.hidden, self.head = hidden, head

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        return cast(Tensor, self.head(self.hidden(features), size))
