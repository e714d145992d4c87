"""What `data check` finds, and what `data download` asks torchvision for."""

import hashlib
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision

from robustprobe import LabelSpace, UserError, load_dataset
from robustprobe.core.registry import datasets
from robustprobe.datasets import find_dataset
from robustprobe.datasets._check import Findings, LabelFindings, check
from robustprobe.datasets.ade20k import Ade20k
from robustprobe.datasets.cifar10 import Cifar10
from robustprobe.tasks import load_task
from tests.folders import (
    LAYOUTS,
    encoded,
    millimetres,
    photo,
    save,
    table_pixels,
    write_ade20k,
    write_camvid,
    write_cifar10_pickles,
    write_classes,
    write_depthfolder,
    write_parquet,
    write_segfolder,
    write_voc2012,
)

pytestmark = pytest.mark.unit


def looked_at(found: Findings) -> dict[str, tuple[int, int]]:
    return {part.split: (len(part.ids), part.looked_at) for part in found.splits}


@pytest.mark.parametrize("name", LAYOUTS)
def test_small_folders_are_subsets_with_nothing_wrong(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path)
    found = find_by(name, tmp_path, sample=3)
    assert found.wrong == []
    assert all(0 < read <= 3 for _, read in looked_at(found).values())
    for split in found.dataset.counts if name != "camvid" and not found.dataset.generated else ():
        assert any(note.startswith(f"{split}: found") and note.endswith("a subset") for note in found.notes)


def find_by(name: str, root: Path, **options: Any) -> Findings:
    own = getattr(datasets.get(name), "by_path", False)
    return check(f"{name}:{root / name}" if own else name, root, **options)


def test_counts_of_train_hold_what_was_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ade20k(tmp_path / "ade20k", train=12, val=4)
    monkeypatch.setattr(Ade20k, "counts", {"train": (12,), "test": (4,)})
    assert not [note for note in check("ade20k", tmp_path).notes if "subset" in note]
    monkeypatch.setattr(Ade20k, "counts", {"train": (13,), "test": (3,)})
    found = check("ade20k", tmp_path)
    assert "train: found 12 of 13 images: a subset" in found.notes
    assert found.wrong == ["test: 4 images, more than the official 3. Remove what was added."]


def test_the_first_wrong_image_of_each_split_is_named(tmp_path: Path) -> None:
    write_segfolder(tmp_path, {"train": 10, "val": 3, "test": 3})
    for split in ("val", "test"):
        for i in (1, 2):
            save(tmp_path / "masks" / split / f"{i}.png", np.full((5, 5), 9, np.uint8))
    found = check(f"segfolder:{tmp_path}", tmp_path, sample=None)
    assert [text.split(" is ")[0] for text in found.wrong] == [
        f"val: {tmp_path}/images/val/1.jpg",
        f"test: {tmp_path}/images/test/1.jpg",
    ]
    assert looked_at(found) == {"train": (10, 10), "val": (3, 1), "test": (3, 1)}


def test_what_is_read_is_a_fixed_balanced_sample(tmp_path: Path) -> None:
    for split, count in (("train", 60), ("test", 40)):
        write_parquet(tmp_path / "cifar10", split, count, "img", "label", 10)
    found = check("cifar10", tmp_path, sample=10)
    assert looked_at(found) == {"train": (54, 10), "val": (6, 6), "test": (40, 10)}
    assert str(found.splits[2].labels["classification"]) == "10 of 10 classes, most often airplane (10%)"


def test_an_image_in_two_splits_is_wrong(tmp_path: Path) -> None:
    folder = write_camvid(tmp_path / "camvid", {"train": 10, "val": 2, "test": 2})
    with (folder / "val.txt").open("a") as file:
        file.write((folder / "test.txt").read_text())
    assert check("camvid", tmp_path).wrong == ["test: image test_0 is in val too. Remove it from one of the lists."]


def test_an_image_that_is_listed_twice_is_wrong(tmp_path: Path) -> None:
    lists = write_voc2012(tmp_path / "voc2012") / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("2008_000000\n2008_000001\n2008_000000\n")
    assert check("voc2012", tmp_path).wrong == ["test: voc2012: 1 images are listed more than once. Correct the list."]


def test_missing_files_are_found_outside_the_sample_too(tmp_path: Path) -> None:
    folder = write_voc2012(tmp_path / "voc2012", train=40)
    sampled = set(load_dataset("voc2012", root=tmp_path, split="train", limit=1).kept_ids)
    name = sorted(set(load_dataset("voc2012", root=tmp_path, split="train").kept_ids) - sampled)[-1]
    (folder / "JPEGImages" / f"{name}.jpg").unlink()
    assert f"{name}.jpg" in check("voc2012", tmp_path, sample=1).wrong[0]


def test_empty_files_and_broken_links_are_found_outside_the_sample_too(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, {"train": 40, "test": 2})
    sampled = load_dataset(f"imagefolder:{tmp_path}", split="train", limit=1).kept_ids
    name = sorted(set(load_dataset(f"imagefolder:{tmp_path}", split="train").kept_ids) - set(sampled))[0]
    (folder / name).write_bytes(b"")
    assert check(f"imagefolder:{tmp_path}", tmp_path, sample=1).wrong == [
        f"train: {folder / name} is empty. Replace the file."
    ]
    (folder / name).unlink()
    (folder / name).symlink_to(folder / "nowhere.jpg")
    assert name in check(f"imagefolder:{tmp_path}", tmp_path, sample=1).wrong[0]
    with pytest.raises(UserError, match=f"a file cannot be read: .*{name}"):
        load_dataset(f"imagefolder:{tmp_path}", split="train").digest()


def test_a_file_in_place_of_a_folder_is_said(tmp_path: Path) -> None:
    folder = write_segfolder(tmp_path, {"train": 10, "test": 2})
    (folder / "masks" / "train").rename(folder / "elsewhere")
    (folder / "masks" / "train").write_text("x")
    with pytest.raises(UserError, match=r"cannot be listed: .*masks/train"):
        load_dataset(f"segfolder:{tmp_path}", split="train")


def test_doubts_are_noted(tmp_path: Path) -> None:
    write_depthfolder(tmp_path / "depth", {"train": 10, "test": 2})
    for i in range(10):
        stored = (millimetres(i, *photo(i).shape[:2]) // 1000 * 1000).astype(np.uint16)
        save(tmp_path / "depth" / "depth" / "train" / f"{i}.png", stored)
    assert check(f"depthfolder:{tmp_path / 'depth'}", tmp_path).notes[0].endswith("as if stored in 8 bits once")
    write_segfolder(tmp_path / "masks", {"train": 10, "test": 2})
    for i in range(2):
        save(tmp_path / "masks" / "masks" / "test" / f"{i}.png", np.full(photo(i).shape[:2], 255, np.uint8))
        save(tmp_path / "masks" / "images" / "test" / f"{i}.jpg", np.zeros_like(photo(i)))
    assert check(f"segfolder:{tmp_path / 'masks'}", tmp_path).notes == [
        "test: 2 of the images read are of one colour",
        "test: 100% of the pixels are ignored",
        "test: 3 classes have no segmentation label: class 0, class 1, class 2",
    ]


def test_of_many_depths_the_extremes_are_kept() -> None:
    found = LabelFindings(load_task("depth", LabelSpace()))
    for seed in range(3):
        found.add(torch.rand(200, 200, generator=torch.Generator().manual_seed(seed)) + 1)
        found.add(torch.tensor([[0.5, 7.25, 0.0]]))
    assert len(found.values) <= 16384
    assert str(found) == "0.50 to 7.25 m, 100% valid"


def test_editions_that_change_the_numbers_are_noted(tmp_path: Path) -> None:
    write_voc2012(tmp_path / "voc2012", extra=3)
    assert "train is trainaug.txt with SegmentationClassAug (SBD), not the official train.txt" in (
        check("voc2012", tmp_path).notes
    )
    write_camvid(tmp_path / "camvid", {"train": 10, "val": 2})
    assert any("there is no test.txt (233 images): test is val.txt" in note for note in check("camvid", tmp_path).notes)
    for split in ("train", "test"):
        path = write_parquet(tmp_path / "cifar10", split, 20, "img", "label", 10)
        lossy = [{"bytes": encoded(photo, "JPEG"), "path": ""} for photo in table_pixels(20)]
        pq.write_table(pa.table({"img": lossy, "label": [i % 10 for i in range(20)]}), path)
    assert any("stored as JPEG" in note for note in check("cifar10", tmp_path).notes)


# Download


def pack(archive: Path, folder: Path) -> str:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return hashlib.md5(archive.read_bytes()).hexdigest()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive that stands for the official one of CIFAR-10, served where torchvision asks for it."""
    folder = write_cifar10_pickles(tmp_path / "served" / "cifar-10-batches-py")
    (folder / "batches.meta").write_bytes(b"\x80\x02}U\x0blabel_names](U\x01a\x65s.")
    kind = torchvision.datasets.CIFAR10
    archive = tmp_path / "served" / "cifar-10-python.tar.gz"
    handler = partial(SimpleHTTPRequestHandler, directory=archive.parent)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setattr(kind, "tgz_md5", pack(archive, folder))
    monkeypatch.setattr(kind, "train_list", [[f"data_batch_{i}", md5(folder / f"data_batch_{i}")] for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [["test_batch", md5(folder / "test_batch")]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / "batches.meta")})
    yield archive
    server.shutdown()
    server.server_close()


def test_what_was_downloaded_is_read(tmp_path: Path, served: Path) -> None:
    find_dataset("cifar10", root=tmp_path / "data").download()
    assert len(load_dataset("cifar10", root=tmp_path / "data")) == 40
    assert check("cifar10", tmp_path / "data").wrong == []


def test_an_archive_that_is_not_the_official_one_is_refused(tmp_path: Path, served: Path) -> None:
    served.write_bytes(served.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"CIFAR10 could not be downloaded: .*or download the archive from https://"):
        find_dataset("cifar10", root=tmp_path / "data").download()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../../escaped"),
        tarfile.TarInfo("/tmp/escaped-from-an-archive"),
        link("inside", "/etc/passwd"),
        link("inside", "../../../escaped"),
        link("inside", "../../../escaped", tarfile.LNKTYPE),
        link("device", "", tarfile.CHRTYPE),
        link("pipe", "", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name} {member.linkname}",
)
def test_an_archive_that_leads_out_of_its_folder_is_refused(
    tmp_path: Path, served: Path, monkeypatch: pytest.MonkeyPatch, member: tarfile.TarInfo
) -> None:
    with tarfile.open(served, "w:gz") as tar:
        tar.addfile(member)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5(served))
    with pytest.raises(UserError, match="CIFAR10 could not be downloaded"):
        find_dataset("cifar10", root=tmp_path / "data").download()
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/tmp/escaped-from-an-archive").exists()  # it loses its slash, and is no file of CIFAR-10
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_symlink() or not (p.is_dir() or p.is_file())]


def test_an_archive_that_is_not_there_is_said(tmp_path: Path, served: Path) -> None:
    served.unlink()
    with pytest.raises(UserError, match="could not be downloaded"):
        find_dataset("cifar10", root=tmp_path / "data").download()


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("cifar10", "CIFAR10", {}),
        ("cifar100", "CIFAR100", {}),
        ("stl10", "STL10", {}),
        ("voc2012", "VOCSegmentation", {"year": "2012", "image_set": "trainval"}),
    ],
)
def test_torchvision_is_asked_for_the_official_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, theirs: str, options: dict[str, str]
) -> None:
    calls = []
    monkeypatch.setattr(torchvision.datasets, theirs, lambda *given, **named: calls.append((given, named)))
    find_dataset(name, root=tmp_path).download()
    assert calls == [((tmp_path / name,), {"download": True, **options})]


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "nyu_depth_v2", "camvid", "imagenet"])
def test_what_is_not_offered_is_said_with_address_and_layout(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} cannot be downloaded from here; see http.*expected in {tmp_path}"):
        find_dataset(name, root=tmp_path).download()
    assert list(tmp_path.iterdir()) == []


def test_official_counts_are_the_published_ones() -> None:
    assert Cifar10.counts == {"train": (50_000,), "test": (10_000,)}
    assert Ade20k.counts == {"train": (20_210,), "test": (2_000,)}


def test_a_folder_of_classes_is_checked(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 10, "test": 2})
    found = check(f"imagefolder:{tmp_path}", tmp_path)
    assert looked_at(found) == {"train": (18, 18), "val": (2, 2), "test": (4, 4)}
    assert len(found.splits[0].sizes) == 4
