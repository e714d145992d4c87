"""Names, lists and endings as people have them."""

import io
import os
import struct
import sys
import tarfile
import unicodedata
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from robustprobe import UserError, load_dataset
from robustprobe.datasets._folders import skipped_images
from robustprobe.datasets._images import read_mask
from tests.folders import encoded, mask, noise, palette, photo, save, write_camvid, write_depthfolder, write_segfolder

Form = Literal["NFC", "NFD"]
pytestmark = pytest.mark.unit
HALVES: tuple[tuple[Form, str], ...] = (("NFD", "train"), ("NFC", "test"))


@pytest.mark.parametrize("ending", ["jfif", "jpe", "gif", "avif", "jp2", "dib", "JFIF"])
def test_every_ending_that_pillow_reads_counts(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        path = save(tmp_path / "test" / name / "x.png", noise(0, 20, 20, 3))
        kind = {"jfif": "JPEG", "jpe": "JPEG", "dib": "DIB", "jp2": "JPEG2000"}.get(ending.lower(), ending.upper())
        kind = "BMP" if ending == "dib" else kind
        Image.open(path).save(path.with_suffix(f".{ending}"), format=kind)
        path.unlink()
    assert len(list(load_dataset(f"imagefolder:{tmp_path}"))) == 2


def test_files_that_are_skipped_are_counted_by_ending(tmp_path: Path) -> None:
    for name in ("a.heic", "b.HEIC", "c.png", "notes.txt", "d.dng", ".hidden.heic", "sub/e.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert skipped_images(tmp_path) == "1 of .dng, 3 of .heic"


@pytest.mark.parametrize("system", ["__MACOSX", "@eaDir", ".thumbnails", "$RECYCLE.BIN", "lost+found"])
def test_folders_of_the_system_are_no_classes_and_hold_no_images(tmp_path: Path, system: str) -> None:
    for name in ("a", "b", system, f"b/{system}"):
        save(tmp_path / "test" / name / "x.png", photo(0))
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.labels["classification"].classes == ("a", "b")
    assert data.kept_ids == ["test/a/x.png", "test/b/x.png"]


CODINGS = ["utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark", "utf-32", "two marks", "joined", "crlf"]


def coded(text: str, coding: str) -> bytes:
    marks = {"utf-16-le-mark": b"\xff\xfe", "utf-16-be-mark": b"\xfe\xff"}
    if coding == "two marks":
        return 2 * b"\xef\xbb\xbf" + text.encode()
    if coding == "joined":
        return b"\xef\xbb\xbf".join([b"", *(line.encode() for line in text.splitlines(keepends=True))])
    if coding == "crlf":
        return text.replace("\n", "\r\n").encode()
    return marks.get(coding, b"") + text.encode(coding.removesuffix("-mark"))


@pytest.mark.parametrize("coding", CODINGS)
def test_lists_and_names_of_classes_in_any_unicode(tmp_path: Path, coding: str) -> None:
    write_segfolder(tmp_path / "own", {"train": 2, "test": 1})
    (tmp_path / "own" / "classes.txt").write_bytes(coded("sky\ntraffic light \ngrün\n", coding))
    spec = f"segfolder:{tmp_path / 'own'}"
    assert load_dataset(spec).labels["segmentation"].classes == ("sky", "traffic light", "grün")
    write_camvid(tmp_path / "camvid", {"train": 2, "val": 1, "test": 2})
    names = load_dataset("camvid", root=tmp_path).kept_ids
    path = tmp_path / "camvid" / "test.txt"
    path.write_bytes(coded(path.read_text(), coding))
    assert load_dataset("camvid", root=tmp_path).kept_ids == names
    write_depthfolder(tmp_path / "depth", {"train": 2, "test": 1})
    (tmp_path / "depth" / "depth.json").write_bytes(coded('{"max_depth": 5}', coding))
    assert load_dataset(f"depthfolder:{tmp_path / 'depth'}").labels["depth"].max_depth == 5


def test_a_list_in_another_coding_is_refused(tmp_path: Path) -> None:
    write_segfolder(tmp_path, {"train": 2, "test": 1})
    (tmp_path / "classes.txt").write_bytes("sky\ngrün\nx\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes\.txt cannot be read: .*Save it as UTF-8"):
        load_dataset(f"segfolder:{tmp_path}")[0]


def test_names_with_accents_match_however_they_are_composed(tmp_path: Path) -> None:
    def form(kind: Form, text: str) -> str:
        return unicodedata.normalize(kind, text)

    folder = tmp_path / "own"
    write_segfolder(folder, {"train": 2, "test": 0})
    save(folder / "images" / "test" / f"{form('NFD', 'café 1')}.png", photo(0))
    save(folder / "masks" / "test" / f"{form('NFC', 'café 1')}.png", mask(0, 3))
    assert load_dataset(f"segfolder:{folder}").kept_ids == [f"test/{form('NFC', 'café 1')}"]
    for kind, split in HALVES:
        for name in ("café", "zoo"):
            for number in range(3):
                save(tmp_path / "classes" / split / form(kind, name) / f"{number}.png", photo(number))
    found = load_dataset(f"imagefolder:{tmp_path / 'classes'}")
    assert found.labels["classification"].classes == (form("NFC", "café"), "zoo")
    assert [int(sample.targets["classification"]) for sample in found] == [0] * 3 + [1] * 3


def shard(path: Path, *members: tuple[str, bytes]) -> None:
    (path.parent / "classes.txt").write_text("cat\ndog\n")
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_keys_with_dots_and_resource_forks_in_shards(tmp_path: Path) -> None:
    image = encoded(photo(0))
    shard(
        tmp_path / "test-0.tar",
        ("._a.jpg", b"fork"),
        ("a.png", image),
        ("a.seg.png", image),
        ("a.cls", b"0"),
        ("./__MACOSX/._b.png", b"fork"),
        ("scan_0.5_v1.2.png", image),
        ("scan_0.5_v1.2.cls", b"1"),
        ("scan_0.7.cls", b"1"),
        ("scan_0.7.png", image),
    )
    data = load_dataset(f"webdataset:{tmp_path}")
    assert data.kept_ids == ["test-0/a", "test-0/scan_0.5_v1.2", "test-0/scan_0.7"]
    assert [int(sample.targets["classification"]) for sample in data] == [0, 1, 1]


def packed_png(indices: NDArray[np.uint8], bits: int) -> bytes:
    """A grey PNG of few bits, which Pillow reads but does not write."""
    height, width = indices.shape
    each = np.unpackbits(indices[..., None], axis=2)[..., 8 - bits :]
    packed = np.packbits(each.reshape(height, width * bits), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_masks_of_few_bits_hold_what_is_stored(tmp_path: Path, bits: int) -> None:
    indices = np.asarray(noise(bits, 8, 16) >> (8 - bits), np.uint8)
    path = tmp_path / "mask.png"
    path.write_bytes(packed_png(indices, bits))
    assert np.array_equal(read_mask(path), indices)


def test_masks_of_one_bit_and_palettes_of_few_bits(tmp_path: Path) -> None:
    indices = noise(0, 9, 13) % 2
    for name in ("mask.png", "mask.tif", "mask.bmp"):
        path = save(tmp_path / name, Image.fromarray((indices * 255).astype(np.uint8)).convert("1"))
        assert np.array_equal(read_mask(path), indices), name
    for bits in (1, 2, 4):
        few = noise(bits, 9, 13) % 2**bits
        path = save(tmp_path / f"{bits}.png", palette(few), bits=bits)
        assert np.array_equal(read_mask(path), few)


@pytest.mark.parametrize("name", ["1.npy", "1_mask.png", "1.exr"])
def test_a_map_of_another_name_or_ending_is_told(tmp_path: Path, name: str) -> None:
    write_segfolder(tmp_path, {"test": 12})
    (tmp_path / "masks" / "test" / "1.png").rename(tmp_path / "masks" / "test" / name)
    with pytest.raises(UserError, match=rf"1\.jpg has no label map .*1\.png\. .*{name} is there: another name"):
        load_dataset(f"segfolder:{tmp_path}")


@pytest.mark.parametrize("kind", ["segfolder", "depthfolder"])
def test_maps_without_an_image_are_counted(tmp_path: Path, kind: str) -> None:
    (write_segfolder if kind == "segfolder" else write_depthfolder)(tmp_path, {"train": 3, "test": 3})
    assert load_dataset(f"{kind}:{tmp_path}").doubts() == []
    for number in (0, 2):
        (tmp_path / "images" / "test" / f"{number}.jpg").unlink()
    maps = "masks" if kind == "segfolder" else "depth"
    assert load_dataset(f"{kind}:{tmp_path}").doubts() == [f"2 files in {maps}/test have no image and are not read"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_in_another_coding_is_one_error(tmp_path: Path) -> None:
    path = save(tmp_path / "test" / "caf\u00e9" / "x.png", photo(0))
    assert len(load_dataset(f"imagefolder:{tmp_path}")) == 1
    path.rename(path.parent / os.fsdecode("m\u00fcde.png".encode("latin-1")))
    with pytest.raises(UserError, match=r"the name of image test/caf\u00e9/m\?de.png is not in UTF-8"):
        load_dataset(f"imagefolder:{tmp_path}")
