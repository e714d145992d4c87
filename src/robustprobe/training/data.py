"""Training images for hardening: images of any datasets, with new random crops every epoch. Labels are never used."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.fingerprints import fingerprint
from robustprobe.core.resize import resized
from robustprobe.core.threat import image_generator
from robustprobe.datasets import Dataset, find_dataset, load_dataset
from robustprobe.datasets.base import Split

AREA = (0.25, 1.0)
ASPECT = (0.8, 1.25)


class ImageBatch(NamedTuple):
    """Images that one process works on at once: their ids, and (B, 3, H, W) in [0, 1]. May be empty."""

    ids: list[str]
    images: Tensor


@final
class ImagePool:
    """Images of several datasets as one, by index, with ids that start with the name of the dataset."""

    def __init__(self, datasets: Sequence[Dataset], size: tuple[int, int], augment: bool = True) -> None:
        self.datasets, self.size, self.augment = datasets, size, augment
        self.starts = [0, *accumulate(len(d) for d in datasets)]
        self.threads = min(d.reading_threads for d in datasets)

    def __len__(self) -> int:
        return self.starts[-1]

    def digest(self) -> str:
        """Fingerprint of the images in the pool."""
        return fingerprint([d.digest() for d in self.datasets])

    def read(self, position: int) -> tuple[str, Tensor]:
        """Id and image (3, h, w) at an index."""
        which = next(i for i, end in enumerate(self.starts[1:]) if position < end)
        data = self.datasets[which]
        sample = data[position - self.starts[which]]
        return f"{data.name}/{sample.id}", sample.image

    def view(self, position: int, seed: int, epoch: int) -> tuple[str, Tensor]:
        """Id and random crop (3, H, W), which follows seed, image and epoch; without `augment` the whole image."""
        identity, image = self.read(position)
        if not self.augment:
            return identity, resized(image, self.size)
        return identity, random_view(image, self.size, image_generator(seed, identity, "crop", epoch))

    def whole(self, count: int) -> ImageBatch:
        """The first `count` images of the pool, from each dataset in turn, resized without a crop."""
        positions = sorted(range(len(self)), key=lambda p: self._rank(p))[:count]
        read = [self.read(position) for position in positions]
        images = [resized(image, self.size) for _, image in read]
        return ImageBatch([identity for identity, _ in read], torch.stack(images))

    def _rank(self, position: int) -> tuple[int, int]:
        which = next(i for i, end in enumerate(self.starts[1:]) if position < end)
        return position - self.starts[which], which


def open_pool(
    names: Sequence[str], root: Path, split: Split, limit: int | None, size: tuple[int, int], augment: bool = True
) -> ImagePool:
    """Images of one split of several datasets; large images are read at twice the size of crops.

    Raises:
        UserError: unknown names, missing data.
    """
    datasets = []
    for name in names:
        native = find_dataset(name, root=root, split=split).native_size
        shorter = 2 * max(size)
        datasets.append(
            load_dataset(name, root=root, split=split, limit=limit, size=shorter if min(native) > shorter else None)
        )
    return ImagePool(datasets, size, augment)


def held_out_pool(names: Sequence[str], root: Path, size: tuple[int, int]) -> ImagePool | None:
    """Images of the validation split; None where a dataset has none."""
    try:
        return open_pool(names, root, "val", None, size)
    except UserError:
        return None


def updates(
    pool: ImagePool, *, batch: int, first: int, last: int, seed: int, shares: int, share: Sequence[int]
) -> Iterator[list[ImageBatch]]:
    """The images of updates `first` to `last` - 1; threads read those of the next update during the current one.

    Images are shuffled anew every epoch; those that do not fill its last batch are left out.

    Args:
        shares: number of parts that a batch is split into, over processes and gradient accumulation.
        share: indices of the parts of this process.
    """
    each = updates_per_epoch(pool, batch)
    batch = min(batch, len(pool))
    with ThreadPoolExecutor(pool.threads) as threads:

        @lru_cache(maxsize=1)
        def order(epoch: int) -> list[int]:
            return shuffle(len(pool), seed, epoch)

        def request(step: int) -> list[list[Future[tuple[str, Tensor]]]]:
            epoch, number = divmod(step, each)
            positions = order(epoch)[number * batch : (number + 1) * batch]
            return [[threads.submit(pool.view, p, seed, epoch) for p in positions[s::shares]] for s in share]

        pending = request(first) if first < last else []
        for step in range(first, last):
            current, pending = pending, request(step + 1) if step + 1 < last else []
            yield [_part([future.result() for future in part], pool.size) for part in current]


def _part(read: list[tuple[str, Tensor]], size: tuple[int, int]) -> ImageBatch:
    images = torch.stack([image for _, image in read]) if read else torch.empty(0, 3, *size)
    return ImageBatch([identity for identity, _ in read], images)


def updates_per_epoch(pool: ImagePool, batch: int) -> int:
    """Number of full batches in the pool; 1 where the pool is smaller than a batch."""
    return max(1, len(pool) // batch)


def shuffle(count: int, seed: int, epoch: int) -> list[int]:
    """Indices of all images in the order of an epoch."""
    found: list[int] = torch.randperm(count, generator=image_generator(seed, "", "order", epoch)).tolist()
    return found


def random_view(image: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A random crop of an image (3, h, w), resized to (3, H, W) and flipped with probability 1/2.

    Area and aspect ratio relative to the largest crop of the wanted shape are drawn from `AREA` and `ASPECT`.
    """
    draws = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    height, width = image.shape[-2:]
    unit = min(height / size[0], width / size[1])
    area = AREA[0] + draws[0] * (AREA[1] - AREA[0])
    aspect = math.exp(math.log(ASPECT[0]) + draws[1] * math.log(ASPECT[1] / ASPECT[0]))
    tall = max(1, min(height, round(size[0] * unit * math.sqrt(area / aspect))))
    wide = max(1, min(width, round(size[1] * unit * math.sqrt(area * aspect))))
    top, left = int(draws[2] * (height - tall + 1)), int(draws[3] * (width - wide + 1))
    view = resized(image[:, top : top + tall, left : left + wide], size)
    return view.flip(-1) if draws[4] < 0.5 else view
