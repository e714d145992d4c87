"""Random projections of pooled patches, as pool:CHANNELS"""

from typing import final

import torch
from torch import Tensor, nn

from robustprobe import Encoder, EncoderCard, FeatureDims, Features, UserError
from robustprobe.encoders import Source

PATCH = 8


@final
class PoolEncoder(Encoder):
    """A random convolution over patches of 8 pixels; the class token is the mean of the patch tokens."""

    def __init__(self, channels: int) -> None:
        dims = FeatureDims(channels, channels)
        super().__init__(EncoderCard(name=f"pool:{channels}", patch_size=PATCH, input_size=(32, 32), widths=dims))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, channels, PATCH, PATCH)

    def features(self, images: Tensor) -> Features:
        patches = self.conv(images - 0.5).tanh()
        return Features(patches.mean((2, 3)), patches)


@final
class PoolSource(Source):
    """Makes the encoder; there is nothing to load."""

    def load(self, name: str) -> Encoder:
        if not name.isdigit() or not int(name):
            raise UserError(f"pool:{name} has no number of channels; write such as pool:16.")
        return PoolEncoder(int(name))
