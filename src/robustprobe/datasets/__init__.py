"""Datasets: labelled images in their official layouts. One file is one dataset."""

from robustprobe.datasets._base import Dataset, load_dataset

__all__ = ["Dataset", "load_dataset"]
