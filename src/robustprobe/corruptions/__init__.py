"""Common corruptions of images (Hendrycks & Dietterich 2019), by their published parameters, in memory."""

from robustprobe.corruptions._apply import CORRUPTIONS, corrupted

__all__ = ["CORRUPTIONS", "corrupted"]
