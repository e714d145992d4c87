"""Your own images with depth maps: depthfolder:PATH"""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, final

from robustprobe.core.errors import UserError
from robustprobe.core.types import LabelSpace
from robustprobe.datasets._folders import ImageAndLabel
from robustprobe.datasets._images import Size, open_matching, read_depth
from robustprobe.datasets._lists import text_of
from robustprobe.datasets._own_folders import first_size, found_splits, own_pairs, skipped_files
from robustprobe.datasets._pairs import PairDataset
from robustprobe.datasets.base import SPLITS, RawSample, Split

UNITS = {"scale": 1000.0, "max_depth": 10.0}


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
        "images/{train,val,test}/*.jpg and depth/{train,val,test}/*.png with the same names; val or test may be missing"
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
        return [*skipped_files(folders), *self.orientation_doubts()]

    def settings(self) -> list[str]:
        return [f"{name} {number}" for name, number in [*sorted(self._units.items()), *sorted(self._given.items())]]

    def read(self, index: int) -> RawSample:
        pair = self.listed[index]
        depth = read_depth(pair.label, self._units["scale"], self._units["scale"] if "scale" in self._given else 1.0)
        return RawSample(open_matching(pair.image, depth.shape, pair.label), {"depth": depth})

    @cached_property
    def _given(self) -> dict[str, float]:
        """What `depth.json` says."""
        path = self.folder / "depth.json"
        if not path.exists():
            return {}
        try:
            given: Any = json.loads(text_of(path))
            units = {name: float(number) for name, number in given.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} cannot be read: {error}. Expected content such as {json.dumps(UNITS)}.") from error
        if not units.keys() <= UNITS.keys() or not all(0 < number < float("inf") for number in units.values()):
            raise UserError(f"{path} holds {given}; expected positive numbers such as {json.dumps(UNITS)}. Correct it.")
        return units

    @property
    def _units(self) -> dict[str, float]:
        return {**UNITS, **self._given}
