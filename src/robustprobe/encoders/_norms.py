"""Normalisations of images in [0, 1] with which encoders are published, by name."""

from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from robustprobe.core.errors import unknown_name
from robustprobe.encoders._timm import Norm

NORMS = {
    "imagenet": Norm(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "half": Norm(IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD),
    "clip": Norm(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "sat493m": Norm((0.430, 0.411, 0.296), (0.213, 0.156, 0.143)),
    "none": Norm((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""`sat493m`: of the satellite images that some weights of DINOv3 were trained on, as its authors publish it."""


def named_norm(name: str) -> Norm:
    """Raises UserError for an unknown name."""
    if name not in NORMS:
        raise unknown_name("normalisation", name, NORMS)
    return NORMS[name]
