"""Every reader of what strangers made, and files it reads: what the fuzzers change bytes of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat

from robustprobe import load_dataset, load_encoder
from robustprobe.core.registry import datasets
from robustprobe.core.spec import load_suite
from robustprobe.encoders.file import Architecture, build
from robustprobe.report.page.render import read_page
from robustprobe.report.tables.results import render
from robustprobe.results.store import Store
from tests import folders
from tests.unit.test_report_page import add_group
from tests.unit.test_report_tables import attack, make_record

VIT = "test_vit.r160_in1k"
SUITE = """
name: small
encoders: ["bundled:scenes", "my.py:Net"]
datasets: [{name: scenes, limit: 16, size: [32, 32]}]
attacks: [clean, {name: "apgd:dlr", steps: 5}]
eps: [2/255, 0.1]
head: {recipe: fast, train_limit: 24, learning_rates: [0.01]}
"""


class Reader(NamedTuple):
    """A reader: `write` lays a folder out, `file` is the one whose bytes change, `read` reads the folder."""

    write: Callable[[Path], object]
    file: str
    read: Callable[[Path], object]


def _store(folder: Path) -> None:
    store, record = Store(folder).prepare(), make_record(attack("clean"), 0.9)
    record = record.model_copy(update={"fingerprint": "cell", "group": "group"})
    digest = store.write_rows("cell", {"id": ["a", "b"], "correct": np.array([True, False])})
    store.write_record(record.model_copy(update={"rows_sha256": digest}))
    add_group(store, record)
    # Without its checksum a change is not found at once, and every reader behind it is reached.
    for path in (folder / "cells" / "cell.json", folder / "examples" / "group" / "group.json"):
        content = json.loads(path.read_text())
        del content["content_sha256"]
        path.write_text(json.dumps(content))


def _read_store(folder: Path) -> None:
    store = Store(folder)
    store.has("cell")
    for format in ("rich", "md", "csv", "json", "latex"):
        render(store.records(), format, transfer=True)


def _read_group(folder: Path) -> None:
    Store(folder).has("cell")
    read_page([folder])


def _encoder(folder: Path) -> None:
    architecture = Architecture(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    save_file(build(architecture, "x").model.state_dict(), folder / "encoder.safetensors")
    (folder / "card.json").write_text(json.dumps({"licence": "MIT", "architecture": architecture.model_dump()}))


def _checkpoint(folder: Path) -> None:
    torch.save({"epoch": 3, "state_dict": _weights()}, folder / "c.pth")


def _whole_checkpoint(folder: Path) -> None:
    torch.save({"model": _weights()}, folder / "c.pth", _use_new_zipfile_serialization=False)


def _weights() -> dict[str, torch.Tensor]:
    return dict(timm.create_model(VIT, num_classes=0).state_dict())


def _dataset(name: str) -> Callable[[Path], None]:
    """Reads every split of a dataset in the folder, whole."""

    def read(folder: Path) -> None:
        spec = f"{name}:{folder}" if getattr(datasets.get(name), "by_path", False) else name
        for split in ("test", "train"):
            data = load_dataset(spec, root=folder, split=split)
            data.digest()
            for _ in data:
                pass

    return read


def _mat(folder: Path) -> None:
    from tests.unit.test_dataset_depth import write_mat

    write_mat(folder / "nyu_depth_v2")
    savemat(folder / "nyu_depth_v2" / "splits.mat", {"trainNdxs": np.array([[2], [4]]), "testNdxs": np.array([[1]])})


def _pictures(folder: Path) -> None:
    for split in ("test", "train"):
        for name in ("a", "b"):
            image = Image.fromarray(folders.noise(1, 20, 30, 3))
            folders.save(folder / split / name / "x.jpg", image, exif=folders.turned(6))


def _own(folder: Path, kind: str) -> None:
    write = folders.write_segfolder if kind == "segfolder" else folders.write_depthfolder
    write(folder, {"test": 1, "train": 2})
    (folder / "depth.json").write_text('{"scale": 256.0, "max_depth": 80}')


READERS = {
    "suite": Reader(lambda f: (f / "s.yaml").write_text(SUITE), "s.yaml", lambda f: load_suite(f / "s.yaml")),
    "record": Reader(_store, "cells/cell.json", _read_store),
    "group": Reader(_store, "examples/group/group.json", _read_group),
    "example": Reader(_store, "examples/group/3.png", _read_group),
    "rows": Reader(_store, "rows/cell.parquet", lambda f: Store(f).rows("cell").to_pydict()),
    "card": Reader(_encoder, "card.json", lambda f: load_encoder(f"file:{f}")),
    "weights": Reader(_encoder, "encoder.safetensors", lambda f: load_encoder(f"file:{f}")),
    "checkpoint": Reader(_checkpoint, "c.pth", lambda f: load_encoder(f"file:{f}/c.pth?arch={VIT}")),
    "old checkpoint": Reader(_whole_checkpoint, "c.pth", lambda f: load_encoder(f"file:{f}/c.pth?arch={VIT}")),
    "pickle": Reader(
        lambda f: folders.write_cifar10_pickles(f / "cifar10" / "cifar-10-batches-py", 10, 2),
        "cifar10/cifar-10-batches-py/test_batch",
        _dataset("cifar10"),
    ),
    "parquet": Reader(
        lambda f: [folders.write_parquet(f / "cifar10", s, 3, "img", "label", 10) for s in ("train", "test")],
        "cifar10/test-00000-of-00001.parquet",
        _dataset("cifar10"),
    ),
    "binary": Reader(
        lambda f: [folders.write_stl10_binary(f / "stl10" / "stl10_binary", s, 2) for s in ("train", "test")],
        "stl10/stl10_binary/test_y.bin",
        _dataset("stl10"),
    ),
    "jpeg": Reader(_pictures, "test/a/x.jpg", _dataset("imagefolder")),
    "mask": Reader(lambda f: _own(f, "segfolder"), "masks/test/0.png", _dataset("segfolder")),
    "classes": Reader(lambda f: _own(f, "segfolder"), "classes.txt", _dataset("segfolder")),
    "depth": Reader(lambda f: _own(f, "depthfolder"), "depth/test/0.png", _dataset("depthfolder")),
    "units": Reader(lambda f: _own(f, "depthfolder"), "depth.json", _dataset("depthfolder")),
    "list": Reader(
        lambda f: folders.write_camvid(f / "camvid", {"train": 2, "val": 1, "test": 1}),
        "camvid/test.txt",
        _dataset("camvid"),
    ),
    "shard": Reader(
        lambda f: folders.write_shards(f, {"train": 3, "test": 3}), "test-0000.tar", _dataset("webdataset")
    ),
    "splits": Reader(_mat, "nyu_depth_v2/splits.mat", lambda f: load_dataset("nyu_depth_v2", root=f).kept_ids),
}
