"""Your own images with depth maps: depthfolder:PATH"""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.errors import UserError
from robustprobe.core.types import LabelSpace
from robustprobe.datasets._folders import ImageAndLabel, other_splits
from robustprobe.datasets._images import Size, open_matching, read_depth
from robustprobe.datasets._lists import text_of
from robustprobe.datasets._own_folders import first_size, found_splits, own_pairs, skipped_files, unpaired_maps
from robustprobe.datasets._pairs import PairDataset
from robustprobe.datasets.base import SPLITS, RawSample, Split

UNITS = {"scale": 1000.0, "max_depth": 10.0}
MOST_BEYOND = 0.05
"""Of the known depths, what may be beyond the cap without a warning."""


@final
class DepthFolder(PairDataset):
    """Depth up to 10 m, 0 where unknown: whole numbers (16-bit PNG) in millimetres, floating point (TIFF) in metres.

    `depth.json` can set another `scale` (units per metre, for both kinds) or `max_depth` (metres). If `test` is
    missing, `val` serves as `test`; if `val` is missing or serves as `test`, a tenth of train is `val`.
    """

    by_path: ClassVar = True
    licence: ClassVar = "unknown; the user's own images"
    citation: ClassVar = "the user's own images"
    layout: ClassVar = (
        "images/{train,val,test}/*.jpg and depth/{train,val,test}/*.png with the same names; one of val and test may "
        "be missing"
    )

    @cached_property
    def labels(self) -> dict[str, LabelSpace]:
        return {"depth": LabelSpace(max_depth=self._units["max_depth"])}

    @cached_property
    def native_size(self) -> Size:
        return first_size(self.folder, self.layout)

    def official(self) -> Sequence[str]:
        return found_splits(self.folder, self.layout)

    def pairs(self, split: Split) -> list[ImageAndLabel]:
        return own_pairs(self.folder, "depth", split, self.layout)

    def doubts(self) -> list[str]:
        folders = [self.folder / kind / split for kind in ("images", "depth") for split in SPLITS]
        found = [*skipped_files(folders), *other_splits(self.folder / "images"), *unpaired_maps(self.folder, "depth")]
        return [*found, *self.orientation_doubts(), *self._range_doubts()]

    def _range_doubts(self) -> list[str]:
        """A warning where many depths of sampled maps are beyond a cap that nobody chose: the unit may be another."""
        if "max_depth" in self._given:
            return []
        cap, known, beyond = self._units["max_depth"], 0, 0
        for index in self.sampled:
            try:
                depth = self._depth(index)
            except (UserError, OSError):
                continue  # the run says so, and does the rest
            known += int((np.isfinite(depth) & (depth > 0)).sum())
            beyond += int((np.isfinite(depth) & (depth >= cap)).sum())
        if beyond <= MOST_BEYOND * known:
            return []
        return [
            f"{self.split}: {beyond / known:.0%} of the depths in {len(self.sampled)} sampled maps are beyond "
            f"{cap:g} m and do not count: check the unit (scale), or set max_depth in depth.json"
        ]

    def settings(self) -> list[str]:
        return [f"{name} {number}" for name, number in [*sorted(self._units.items()), *sorted(self._given.items())]]

    def read(self, index: int) -> RawSample:
        pair, depth = self.listed[index], self._depth(index)
        return RawSample(open_matching(pair.image, depth.shape, pair.label), {"depth": depth})

    def _depth(self, index: int) -> NDArray[np.float32]:
        """The depth map (h, w) of an image in metres."""
        scale = self._units["scale"]
        return read_depth(self.listed[index].label, scale, scale if "scale" in self._given else 1.0)

    @cached_property
    def _given(self) -> dict[str, float]:
        """What `depth.json` says."""
        path = self.folder / "depth.json"
        if not path.exists():
            return {}
        try:
            given: Any = json.loads(text_of(path))
            units = {name: _number(number) for name, number in given.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} cannot be read: {error}. Expected content such as {json.dumps(UNITS)}.") from error
        unknown = sorted(units.keys() - UNITS.keys())
        if unknown:
            raise UserError(f"{path} holds {', '.join(unknown)}; expected such as {json.dumps(UNITS)}. Correct it.")
        if not all(0 < number < float("inf") for number in units.values()):
            raise UserError(f"{path} holds {given}; expected positive numbers such as {json.dumps(UNITS)}. Correct it.")
        return units

    @property
    def _units(self) -> dict[str, float]:
        return {**UNITS, **self._given}


def _number(given: object) -> float:
    """A number as JSON has it. Raises TypeError for true and false, which Python would take for 1 and 0."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise TypeError(f"{given!r} is no number")
    return float(given)
