"""Small folders in the official layouts, written by the tests that read them."""

import io
import pickle
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
ORIENTATION = 274


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: Array, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format)
    return buffer.getvalue()


def save(path: Path, pixels: Array | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def palette(indices: Array) -> Image.Image:
    """A palette image as VOC's masks are: indices, shown in colours that are not the indices."""
    image = Image.fromarray(indices.astype(np.uint8)).convert("P")
    image.putdata(indices.astype(np.uint8).flatten().tolist())
    image.putpalette([(37 * i + 11) % 256 for i in range(768)])
    return image


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


# Tables of small photographs. Image i is noise(i) and of class i modulo the number of classes.


def table_pixels(count: int, side: int = 32) -> Array:
    return np.stack([noise(i, side, side, 3) for i in range(count)])


def write_parquet(folder: Path, split: str, count: int, image: str, label: str, classes: int, side: int = 32) -> Path:
    rows = [{"bytes": encoded(pixels), "path": f"{i}.png"} for i, pixels in enumerate(table_pixels(count, side))]
    path = folder / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({image: rows, label: [i % classes for i in range(count)]}), path)
    return path


def write_pickle(path: Path, pixels: Array, labels: list[int], key: str) -> Path:
    """As Python 2 wrote the official files: strings are not marked as text or bytes."""
    data = pixels.transpose(0, 3, 1, 2).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        + (b"(K\x01(K" + bytes([len(pixels)]) + b"M" + struct.pack("<H", pixels[0].size))
        + b"tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + (b"T" + struct.pack("<i", len(data)) + data + b"tb")
    )
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    text = b"U" + bytes([len(key)]) + key.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x80\x02}(U\x04data" + array + text + b"](" + numbers + b"eu.")
    return path


def write_cifar10_pickles(folder: Path, train: int = 60, test: int = 40) -> Path:
    parts = np.array_split(np.arange(train), 5)
    for number, part in enumerate(parts, 1):
        write_pickle(folder / f"data_batch_{number}", table_pixels(train)[part], [int(i) % 10 for i in part], "labels")
    write_pickle(folder / "test_batch", table_pixels(test), [i % 10 for i in range(test)], "labels")
    return folder


def write_binary(path: Path, rows: Array, labels: list[list[int]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = rows.transpose(0, 3, 1, 2).reshape(len(rows), -1)
    path.write_bytes(np.concatenate([np.array(labels, np.uint8), planes], axis=1).tobytes())
    return path


def write_stl10_binary(folder: Path, split: str, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    # Official files hold each colour plane column by column, and count classes from 1.
    (folder / f"{split}_X.bin").write_bytes(table_pixels(count, 96).transpose(0, 3, 2, 1).tobytes())
    (folder / f"{split}_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(count)))
    return folder


# Photographs with masks. Sizes differ from image to image.

SIZES = ((20, 30), (33, 21), (16, 16), (24, 40))


def photo(seed: int) -> Array:
    return noise(seed, *SIZES[seed % len(SIZES)], 3)


def mask(seed: int, values: int) -> Array:
    return (noise(1000 + seed, *SIZES[seed % len(SIZES)]) % values).astype(np.uint8)


def write_ade20k(folder: Path, train: int = 12, val: int = 4) -> Path:
    for name, short, count in (("training", "train", train), ("validation", "val", val)):
        for i in range(count):
            stem = f"ADE_{short}_{i + 1:08d}"
            save(folder / "images" / name / f"{stem}.jpg", photo(i))
            save(folder / "annotations" / name / f"{stem}.png", mask(i, 151))
    return folder


def write_cityscapes(folder: Path, train: int = 12, val: int = 4, labels: str = "labelIds") -> Path:
    for split, count in (("train", train), ("val", val), ("test", 1)):
        for i in range(count):
            city = ("aachen", "ulm")[i % 2]
            frame = f"{city}/{city}_{split}_{i:06d}_000019"
            save(folder / "leftImg8bit" / split / f"{frame}_leftImg8bit.png", photo(i))
            save(
                folder / "gtFine" / split / f"{frame}_gtFine_{labels}.png", mask(i, 34 if labels == "labelIds" else 19)
            )
            save(folder / "gtFine" / split / f"{frame}_gtFine_color.png", photo(i))
    return folder


def write_voc2012(folder: Path, train: int = 12, val: int = 4, extra: int = 0) -> Path:
    """With `extra`, the augmented list of SBD, whose masks are grey."""
    names = {"train": [f"2007_{i:06d}" for i in range(train)], "val": [f"2008_{i:06d}" for i in range(val)]}
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    for split, stems in names.items():
        (lists / f"{split}.txt").write_text("\n".join(stems) + "\n")
        for i, stem in enumerate(stems):
            save(folder / "JPEGImages" / f"{stem}.jpg", photo(i))
            save(folder / "SegmentationClass" / f"{stem}.png", palette(voc_mask(i)))
    if extra:
        stems = names["train"] + [f"2009_{i:06d}" for i in range(extra)]
        (lists / "trainaug.txt").write_text("\n".join(stems))
        for i, stem in enumerate(stems):
            save(folder / "JPEGImages" / f"{stem}.jpg", photo(i))
            save(folder / "SegmentationClassAug" / f"{stem}.png", voc_mask(i))
    return folder


def voc_mask(seed: int) -> Array:
    """Classes 0 to 20, with the value 255 that is drawn around objects."""
    found = mask(seed, 22)
    return np.where(found == 21, 255, found).astype(np.uint8)


def write_camvid(folder: Path, splits: Mapping[str, int]) -> Path:
    for split, count in splits.items():
        lines = []
        for i in range(count):
            image, label = Path(split) / f"{split}_{i}.png", Path(f"{split}annot") / f"{split}_{i}.png"
            save(folder / image, noise(i, 36, 48, 3))
            save(folder / label, noise(i, 36, 48) % 12)
            # SegNet's lists begin with a slash.
            lines.append(f"/{image} {label}" if i % 2 else f"{image} {label}")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n\n")
    return folder


def write_segfolder(folder: Path, splits: Mapping[str, int], classes: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(f"class {i}" for i in range(classes)) + "\n")
    for split, count in splits.items():
        for i in range(count):
            save(folder / "images" / split / f"{i}.jpg", photo(i))
            save(folder / "masks" / split / f"{i}.png", mask(i, classes))
    return folder


# Depth.


def millimetres(seed: int, *shape: int) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(700, 9_990, shape).astype(np.uint16)


def nyu_millimetres(seed: int) -> NDArray[np.uint16]:
    """Depths with every kind of special value at known places inside the Eigen crop."""
    depth = millimetres(seed, 480, 640)
    depth[100, 100:104] = [0, 9_999, 10_000, 65_535]
    return depth


def write_nyu(folder: Path, splits: Mapping[str, int]) -> Path:
    for split, count in splits.items():
        lines = []
        for i in range(count):
            rgb, depth = Path(split) / "rgb" / f"{i:04d}.jpg", Path(split) / "depth" / f"{i:04d}.png"
            save(folder / rgb, noise(i, 480, 640, 3))
            save(folder / depth, nyu_millimetres(i), compress_level=1)
            lines.append(f"{rgb} {depth} 518.8579")
        (folder / f"nyu_{split}.txt").write_text("\n".join(lines))
    return folder


def write_depthfolder(folder: Path, splits: Mapping[str, int]) -> Path:
    for split, count in splits.items():
        for i in range(count):
            save(folder / "images" / split / f"{i}.jpg", photo(i))
            save(folder / "depth" / split / f"{i}.png", millimetres(i, *SIZES[i % len(SIZES)]))
    return folder


# Folders of classes.


def write_classes(folder: Path, splits: Mapping[str, int], classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """`splits`: images a class."""
    for split, count in splits.items():
        for number, name in enumerate(classes):
            for i in range(count):
                save(folder / split / name / f"{name}_{split}_{i}.JPEG", photo(10 * number + i))
    return folder


def _tables(root: Path, name: str, image: str, label: str, classes: int, side: int = 32) -> None:
    for split, count in (("train", 60), ("test", 40)):
        write_parquet(root / name, split, count, image, label, classes, side)


def write_shards(folder: Path, splits: Mapping[str, int], a_shard: int = 4, first: int = 0) -> Path:
    """WebDataset shards of PNG files, of classes 0 and 1 in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("cat\ndog\n")
    for split, count in splits.items():
        for shard, start in enumerate(range(0, count, a_shard)):
            with tarfile.open(folder / f"{split}-{shard:04d}.tar", "w") as tar:
                for i in range(start, min(start + a_shard, count)):
                    for ending, content in (("png", encoded(photo(first + i))), ("cls", str(i % 2).encode())):
                        member = tarfile.TarInfo(f"{i:06d}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    return folder


OWN = {"train": 10, "val": 2, "test": 3}


def write_revisited(folder: Path, images: int = 9, queries: int = 3) -> Path:
    """Images, and queries of which each has one easy, one hard and one junk image."""
    gallery, asked = [f"image_{i:03}" for i in range(images)], [f"query_{i:03}" for i in range(queries)]
    for number, name in enumerate([*gallery, *asked]):
        save(folder / "jpg" / f"{name}.jpg", photo(number))
    truths = [
        {"bbx": [1.5, 2.0, 30.0, 31.0], "easy": np.array([i]), "hard": [i + 3], "junk": [np.int64(i + 6)]}
        for i in range(queries)
    ]
    found = {"imlist": gallery, "qimlist": asked, "gnd": truths}
    (folder / f"gnd_{folder.name}.pkl").write_bytes(pickle.dumps(found))
    return folder


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "ade20k": lambda root: write_ade20k(root / "ade20k"),
    "camvid": lambda root: write_camvid(root / "camvid", OWN),
    "cifar10": lambda root: _tables(root, "cifar10", "img", "label", 10),
    "cifar100": lambda root: _tables(root, "cifar100", "img", "fine_label", 100),
    "copies": lambda root: write_classes(root / "copies", OWN),
    "cityscapes": lambda root: write_cityscapes(root / "cityscapes"),
    "depthfolder": lambda root: write_depthfolder(root / "depthfolder", OWN),
    "hfstream": lambda root: _tables(root, "hfstream", "img", "label", 10),
    "imagefolder": lambda root: write_classes(root / "imagefolder", OWN),
    "imagenet": lambda root: write_classes(root / "imagenet", {"train": 10, "val": 2}, ("n01440764", "n01443537")),
    "nyu_depth_v2": lambda root: write_nyu(root / "nyu_depth_v2", {"train": 4, "test": 3}),
    "retrievalfolder": lambda root: write_classes(root / "retrievalfolder", {"gallery": 4, "queries": 2}),
    "roxford5k": lambda root: write_revisited(root / "roxford5k"),
    "rparis6k": lambda root: write_revisited(root / "rparis6k"),
    "scenes": lambda root: None,
    "segfolder": lambda root: write_segfolder(root / "segfolder", OWN),
    "stl10": lambda root: _tables(root, "stl10", "image", "label", 10, 96),
    "views": lambda root: None,
    "voc2012": lambda root: write_voc2012(root / "voc2012"),
    "webdataset": lambda root: write_shards(root / "webdataset", OWN),
}
"""A small folder for every registered dataset."""
