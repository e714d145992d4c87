"""Test-time defences in front of an encoder: what they make of images (B, 3, H, W) in [0, 1]."""

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustprobe.corruptions import corrupted


class InputDefence(nn.Module, ABC):
    """Changes images before the encoder sees them. `votes` answers of the encoder are averaged."""

    votes: ClassVar[int] = 1

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """The changed images, of the same shape."""


@final
class Jpeg(InputDefence):
    """JPEG of quality 25, written and read again (Dziugaite et al. 2016). Its gradient is 0."""

    def forward(self, images: Tensor) -> Tensor:
        # Compression draws nothing at random.
        unused, given = torch.Generator(), images.detach().float().cpu()
        read = [corrupted(image, "jpeg_compression", 1, unused) for image in given]
        return torch.stack(read).to(images) + 0 * images


@final
class BitDepth(InputDefence):
    """Three bits per channel (feature squeezing, Xu et al. 2018). Its gradient is 0."""

    levels: ClassVar[int] = 8

    def forward(self, images: Tensor) -> Tensor:
        return (images * (self.levels - 1)).round() / (self.levels - 1)


@final
class NoiseVotes(InputDefence):
    """Gaussian noise of 0.1 at every call, mean over eight answers (after Cohen et al. 2019)."""

    votes: ClassVar[int] = 8
    sigma: ClassVar[float] = 0.1

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.sigma * torch.randn_like(images)).clamp(0, 1)


@final
class Dithering(InputDefence):
    """Four grey levels after uniform noise of one level. Random, and with a gradient of 0."""

    levels: ClassVar[int] = 4

    def forward(self, images: Tensor) -> Tensor:
        steps = self.levels - 1
        return (images * steps + torch.rand_like(images) - 0.5).round().clamp(0, steps) / steps


@final
class Views(InputDefence):
    """A random view: mirrored or not, and moved by up to an eighth of the side; mean over eight answers.

    After the averaging over augmented views of R-TPT (Sheng et al. 2025), without its tuning of prompts. In images that
    are mirrored or moved patch tokens are those of other places, so this suits heads on the class token.
    """

    votes: ClassVar[int] = 8

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        most = (height // 8, width // 8)
        padded = F.pad(images, (most[1], most[1], most[0], most[0]), mode="reflect")
        top, left = (int(torch.randint(0, 2 * m + 1, ())) for m in most)
        view = padded[..., top : top + height, left : left + width]
        return view.flip(-1) if bool(torch.rand(()) < 0.5) else view


DEFENCES: dict[str, type[InputDefence]] = {
    "jpeg": Jpeg,
    "bit-depth": BitDepth,
    "noise": NoiseVotes,
    "dithering": Dithering,
    "views": Views,
}
