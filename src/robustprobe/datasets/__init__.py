"""Datasets: labelled images in their official layouts. One file is one dataset; `base.py` is the contract."""

from robustprobe.datasets.base import SPLITS, Dataset, RawSample, Split, batches, find_dataset, load_dataset

__all__ = ["SPLITS", "Dataset", "RawSample", "Split", "batches", "find_dataset", "load_dataset"]
