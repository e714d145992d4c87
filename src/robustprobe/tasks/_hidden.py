"""The hidden layer of heads that are not linear: features to features, so that every task's own head can follow it."""

from typing import cast, final

import torch
from torch import Tensor, nn

from robustprobe.core.types import FeatureDims, Features, HeadDesign


@final
class HiddenVector(nn.Module):
    """A linear layer and ReLU on CLS, or on CLS and the mean patch token: what heads of pooled features read."""

    def __init__(self, dims: FeatureDims, design: HeadDesign) -> None:
        super().__init__()
        self.pooling = design.pooling
        width = dims.cls + (dims.patch if design.pooling == "cls+patch" else 0)
        self.norm = nn.BatchNorm1d(width, affine=False) if design.standardise else nn.Identity()
        self.linear = nn.Linear(width, design.hidden)

    def forward(self, features: Features) -> Features:
        """The hidden layer (B, hidden) as a class token, and as the one patch token."""
        pooled = features.cls
        if self.pooling == "cls+patch":
            pooled = torch.cat([pooled, features.patches.mean((2, 3))], dim=1)
        hidden = cast(Tensor, self.linear(self.norm(pooled))).relu()
        return Features(hidden, hidden[:, :, None, None])


@final
class HiddenMaps(nn.Module):
    """A 3x3 convolution and ReLU on patch tokens, or on each of them beside CLS: what dense heads read."""

    def __init__(self, dims: FeatureDims, design: HeadDesign) -> None:
        super().__init__()
        self.pooling = design.pooling
        width = dims.patch + (dims.cls if design.pooling == "cls+patch" else 0)
        self.norm = nn.BatchNorm2d(width) if design.standardise else nn.Identity()
        self.conv = nn.Conv2d(width, design.hidden, 3, padding=1)

    def forward(self, features: Features) -> Features:
        """The hidden maps (B, hidden, h, w) as patch tokens, and their mean as a class token."""
        maps = features.patches
        if self.pooling == "cls+patch":
            maps = torch.cat([maps, features.cls[:, :, None, None].expand(-1, -1, *maps.shape[-2:])], 1)
        hidden = cast(Tensor, self.conv(self.norm(maps))).relu()
        return Features(hidden.mean((2, 3)), hidden)
