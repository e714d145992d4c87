"""Generated scenes with class, segmentation, depth and surface normals of each image; nothing to download"""

from functools import lru_cache
from typing import Any, ClassVar, final

from numpy.typing import NDArray
from PIL import Image

from robustprobe.core.types import LabelSpace
from robustprobe.datasets._generated import GeneratedDataset
from robustprobe.datasets._rendering import IGNORE, SURFACES, Rendering, render
from robustprobe.datasets._scene_sampling import SHAPES
from robustprobe.datasets.base import RawSample, Split

SIZES: dict[Split, int] = {"train": 4000, "val": 500, "test": 1000}


@final
class Scenes(GeneratedDataset):
    """Class: the shape of the object with the largest visible area. Mask: floor, wall and shapes, with pixels whose
    subpixels disagree ignored. Depth: distance along the optical axis at the pixel's centre. Normals: of the surface
    there, x to the right, y up, z towards the camera.
    """

    labels: ClassVar = {
        "classification": LabelSpace(classes=SHAPES),
        "segmentation": LabelSpace(classes=SURFACES, ignore_index=IGNORE),
        "depth": LabelSpace(max_depth=10.0),
        "normals": LabelSpace(),
    }
    counts: ClassVar = {split: (count,) for split, count in SIZES.items()}

    def ids(self) -> list[str]:
        return [f"{self.split}-{i}" for i in range(SIZES[self.split])]

    def read(self, index: int) -> RawSample:
        scene = _cached(f"{self.split}-{index}", self.side)
        labels: dict[str, int | NDArray[Any]] = {
            "classification": scene.label,
            "segmentation": scene.mask,
            "depth": scene.depth,
            "normals": scene.normals,
        }
        return RawSample(Image.fromarray(scene.image), labels)


@lru_cache(maxsize=4096)
def _cached(identity: str, size: int) -> Rendering:
    return render(identity, size)
