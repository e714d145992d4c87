"""Encoders: images in [0, 1] to features. One file is one source of encoders; `base.py` is the contract."""

from robustprobe.encoders._check import check_encoder, order_doubt
from robustprobe.encoders._downloads import go_offline, offline
from robustprobe.encoders._options import with_arch
from robustprobe.encoders._wrapped import wrap
from robustprobe.encoders.base import SHORT_NAMES, Encoder, EncoderCard, Source, TextTower, full_name, load_encoder
from robustprobe.encoders.defended import Defended

__all__ = [
    "SHORT_NAMES",
    "Defended",
    "Encoder",
    "EncoderCard",
    "Source",
    "TextTower",
    "check_encoder",
    "full_name",
    "go_offline",
    "load_encoder",
    "offline",
    "order_doubt",
    "with_arch",
    "wrap",
]
