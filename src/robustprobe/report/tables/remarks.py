"""What is to be said of the numbers of a table together, in sentences beside them."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from robustprobe.results.labels import thread_counts

if TYPE_CHECKING:
    from robustprobe.results.records import Record


FEW_IMAGES = 500
"""Below this many images it is said what the interval of mIoU is one of."""
FEW_GROUPS = 20


def remarks(records: Iterable["Record"]) -> list[str]:
    """Sentences on what numbers that stand side by side are numbers of, as far as it is not plain; often none."""
    known = list(records)
    return [text for remark in _REMARKS if (text := remark(known))]


def _threads(records: Sequence["Record"]) -> str:
    counts = thread_counts(records)
    if " and " not in counts:
        return ""
    return (
        f"Measured with {counts} threads: convolutions round otherwise with another number of threads, so small "
        "differences may be rounding. Keep one number with --threads."
    )


def _few_images(records: Sequence["Record"]) -> str:
    """What the interval of mIoU is one of, where images are few for the classes."""
    said: dict[tuple[str, int], int] = {}
    for record in (r for r in records if r.statistic and r.statistic.kind == "mean_iou"):
        if record.absent_classes or record.n < FEW_IMAGES:
            known = said.get((record.images_of, record.n), 0)
            said[record.images_of, record.n] = max(known, record.absent_classes)
    if not said:
        return ""
    sets = "; ".join(f"{name}, {count} images{_absent(number)}" for (name, count), number in said.items())
    return f"mIoU ({sets}): value and interval are those of so few images, and lie below what endless images give."


def _absent(classes: int) -> str:
    return f", {classes} classes predicted without a label here count as 0" if classes else ""


def _groups(records: Sequence["Record"]) -> str:
    """What intervals draw where images are not independent."""
    found = {(r.images_of, r.n): r.groups for r in records if r.groups}
    told = [
        f"{name}: intervals draw {groups} groups of images, such as videos, not {count} images"
        + (", too few for a reliable interval" * (groups < FEW_GROUPS))
        if groups > 1
        else f"{name}: all {count} images are of one group, such as a video, so intervals say nothing of another one"
        for (name, count), groups in found.items()
    ]
    return f"{'; '.join(told)}." if told else ""


_REMARKS: tuple[Callable[[Sequence["Record"]], str], ...] = (_few_images, _groups, _threads)
