"""Datasets: labelled images in their official layouts. One file is one dataset."""

from robustprobe.datasets.base import Dataset, find_dataset, load_dataset

__all__ = ["Dataset", "find_dataset", "load_dataset"]
