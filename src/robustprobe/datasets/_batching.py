"""Samples read ahead and put together into batches."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

import torch

from robustprobe.core.types import Batch, Sample
from robustprobe.datasets.base import Dataset


def stack(samples: Sequence[Sample]) -> Batch:
    """Samples of equal shapes as one batch."""
    tasks = samples[0].targets
    targets = {task: torch.stack([s.targets[task] for s in samples]) for task in tasks}
    return Batch([s.id for s in samples], torch.stack([s.image for s in samples]), targets)


def batches(
    dataset: Dataset,
    batch_size: int,
    order: Sequence[int] | None = None,
    change: Callable[[Sample], Sample] = lambda sample: sample,
) -> Iterator[Batch]:
    """The dataset, the next batch being read, and changed, while the current one is used.

    A batch ends early where the next image, or one of its labels, has another size: nothing is padded.

    Args:
        order: places in the dataset; all, in its own order, by default.
    """
    positions = range(len(dataset)) if order is None else order
    starts = range(0, len(positions), batch_size)

    def read(position: int) -> Sample:
        return change(dataset[position])

    with ThreadPoolExecutor(dataset.reading_threads) as pool:

        def request(start: int) -> list[Future[Sample]]:
            return [pool.submit(read, position) for position in positions[start : start + batch_size]]

        pending = request(0)
        for start in starts:
            current, pending = pending, request(start + batch_size)
            for _, samples in groupby((future.result() for future in current), shapes):
                yield stack(list(samples))


def shapes(sample: Sample) -> list[tuple[int, ...]]:
    """Shapes of the image and of its labels."""
    return [tuple(sample.image.shape), *(tuple(target.shape) for target in sample.targets.values())]
