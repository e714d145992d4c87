"""Charts and example images of a folder of results as pixels, for trackers."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.images import opened
from robustprobe.report.charts.plot import KINDS, example_chart, folder_chart, rendered
from robustprobe.report.page.examples import ImageLimit, galleries
from robustprobe.report.tables.chance import chances
from robustprobe.results.union import as_stores, finished, union_groups

if TYPE_CHECKING:
    import altair as alt

IMAGES = 4


class NamedPicture(NamedTuple):
    """A picture (H, W, 3) in 0 to 255; its name has two parts or more, such as `charts/eps`."""

    name: str
    pixels: NDArray[np.uint8]


def pictures(folder: Path, images: int = IMAGES) -> Iterator[NamedPicture]:
    """The charts for which the folder has numbers, then `images` example images of each dataset under its attacks.

    Raises:
        UserError: no results, or damaged ones.
    """
    cells = finished([folder], "show")
    records, chance = [found.record for found in cells], chances(cells)
    for kind in KINDS:
        chart = folder_chart(kind, records, chance) if kind != "examples" else None
        if chart is not None:
            yield NamedPicture(f"charts/{kind}", _pixels(chart))
    for gallery in galleries(union_groups(as_stores([folder])), records, ImageLimit(images, math.inf)):
        for subject in gallery.subjects:
            # A dataset may be called by a path.
            dataset = gallery.dataset.replace("/", "_")
            yield NamedPicture(f"examples/{dataset}/{subject.id}", _pixels(example_chart(gallery, subject)))


def _pixels(chart: "alt.TopLevelMixin") -> NDArray[np.uint8]:
    return np.asarray(opened(io.BytesIO(rendered(chart, ".png"))).convert("RGB"))
