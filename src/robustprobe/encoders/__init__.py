"""Encoders: images in [0, 1] to features. One file is one source of encoders."""

from robustprobe.encoders._base import Encoder, EncoderCard, Source, load_encoder

__all__ = ["Encoder", "EncoderCard", "Source", "load_encoder"]
