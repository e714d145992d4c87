"""ADE20k (SceneParse150): segmentation of indoor and outdoor scenes into 150 classes"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

from robustprobe.core.types import LabelSpace
from robustprobe.datasets._folders import ImageAndLabel, require, same_stems
from robustprobe.datasets._pairs import IGNORE, MaskDataset
from robustprobe.datasets.base import Split

NAMES = """\
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck,
tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land,
bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer,
plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank,
trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic
light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag"""
CLASSES = tuple(NAMES.replace("\n", " ").split(", "))
FOLDERS: dict[str, str] = {"train": "training", "val": "validation"}


@final
class Ade20k(MaskDataset):
    """Stored 0 is ignored, k is class k - 1. `test` is the official validation set, `val` a tenth of training."""

    labels: ClassVar = {"segmentation": LabelSpace(classes=CLASSES, ignore_index=IGNORE)}
    native_size: ClassVar = (512, 683)
    counts: ClassVar = {"train": (20_210,), "test": (2_000,)}
    licence: ClassVar = "annotations BSD-3-Clause; images for non-commercial research and education"
    citation: ClassVar = "Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017"
    homepage: ClassVar = "http://sceneparsing.csail.mit.edu"
    archives: ClassVar = ("ADEChallengeData2016",)
    layout: ClassVar = "ADEChallengeData2016/{images,annotations}/{training,validation}/ADE_*.{jpg,png}"

    def pairs(self, split: Split) -> list[ImageAndLabel]:
        images, masks = (
            require(self.folder / kind / FOLDERS[split], self.layout) for kind in ("images", "annotations")
        )
        return same_stems(images, masks)

    def table(self, mask: Path) -> Sequence[int]:
        return [IGNORE, *range(len(CLASSES))]
