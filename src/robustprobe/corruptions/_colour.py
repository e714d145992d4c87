"""Brightness, contrast and saturation."""

from torch import Generator, Tensor, where

BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""What is added to the value of HSV."""
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
"""The share of the difference from the mean that is left."""
SATURATE = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))
"""What the saturation of HSV is multiplied by, and what is added."""
LUMA = (0.299, 0.587, 0.114)


def brightness(image: Tensor, severity: int, generator: Generator) -> Tensor:
    value = image.amax(0, keepdim=True)
    brighter = (value + BRIGHTNESS[severity - 1]).clamp(0, 1)
    return where(value > 0, image * (brighter / value.clamp(min=1e-12)), brighter.expand_as(image))


def contrast(image: Tensor, severity: int, generator: Generator) -> Tensor:
    mean = image.mean((1, 2), keepdim=True)
    return (image - mean) * CONTRAST[severity - 1] + mean


def saturate(image: Tensor, severity: int, generator: Generator) -> Tensor:
    """Hue and value stay; a grey pixel has the hue of red, as in scikit-image."""
    factor, added = SATURATE[severity - 1]
    value, least = image.amax(0, keepdim=True), image.amin(0, keepdim=True)
    spread = value - least
    saturation = where(value > 0, spread / value.clamp(min=1e-12), 0.0)
    wanted = (saturation * factor + added).clamp(0, 1)
    # Where each channel lies between the least (1) and the greatest (0): that is the hue.
    below = (value - image) / spread.clamp(min=1e-12)
    red = image.new_tensor([0.0, 1.0, 1.0])[:, None, None]
    return value - value * wanted * where(spread > 0, below, red)


def grey(image: Tensor) -> Tensor:
    """Luma (1, H, W) of an image (3, H, W)."""
    return (image * image.new_tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
