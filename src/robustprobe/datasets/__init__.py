"""Datasets: labelled images in their official layouts. One file is one dataset; `base.py` is the contract."""

from robustprobe.datasets._batching import batches
from robustprobe.datasets._check import SAMPLE, Findings, SplitFindings
from robustprobe.datasets._check import check as check_dataset
from robustprobe.datasets._label_report import LabelReport, batch_doubts, label_report
from robustprobe.datasets._loading import find_dataset, load_dataset
from robustprobe.datasets.base import SPLITS, Dataset, RawSample, Split

__all__ = [
    "SAMPLE",
    "SPLITS",
    "Dataset",
    "Findings",
    "LabelReport",
    "RawSample",
    "Split",
    "SplitFindings",
    "batch_doubts",
    "batches",
    "check_dataset",
    "find_dataset",
    "label_report",
    "load_dataset",
]
