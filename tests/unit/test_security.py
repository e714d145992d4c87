"""Files of strangers: nothing of theirs runs, leads out of its folder or fills the memory."""

import ast
import io
import json
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat

import robustprobe
from robustprobe import UserError, load_dataset, load_encoder
from robustprobe.core.images import opened
from robustprobe.core.spec import load_suite
from robustprobe.core.user_code import load_attribute
from robustprobe.datasets._pickles import ArrayUnpickler
from robustprobe.encoders._checkpoint import read_tensors
from robustprobe.encoders.file import Architecture, build
from robustprobe.report.page.render import write_page
from robustprobe.results.merge import merge
from robustprobe.results.sealing import sealed
from robustprobe.results.store import Store
from tests.folders import ORIENTATION, save, write_camvid, write_classes, write_parquet
from tests.unit.test_dataset_depth import write_mat
from tests.unit.test_merge import put
from tests.unit.test_report_tables import attack, make_record

pytestmark = pytest.mark.unit
SOURCE = Path(robustprobe.__file__).parent
VIT = "test_vit.r160_in1k"

# What may be called where, and no place else.
ALLOWED = {
    "subprocess.run": {"results/provenance.py"},
    "exec_module": {"core/user_code.py"},
    "torch.load": {"probing/cache.py", "encoders/_checkpoint.py", "evaluation/partial_results.py"},
    "Image.open": {"core/images.py"},
    "yaml.safe_load": {"core/spec.py", "report/references/catalogue.py", "report/references/clean_scores.py"},
}
BUILT_IN = {"eval", "exec", "compile", "__import__"}
NEVER = BUILT_IN | {
    *("os.system", "os.popen", "os.exec", "os.spawn"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("np.load", "numpy.load", "joblib.load", "marshal.loads", "shelve.open", "dill.load"),
    *("subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output"),
    *("subprocess.getoutput", "extractall", "shutil.unpack_archive", "tempfile.mktemp"),
}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the package: file, dotted name, and the call."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.relative_to(SOURCE).as_posix(), ast.unparse(node.func), node


def test_nothing_runs_what_it_reads() -> None:
    seen = set()
    for file, name, call in calls():
        words = {name, name.rpartition(".")[2]} - (BUILT_IN if "." in name else set())
        assert not words & NEVER, f"{file}:{call.lineno} calls {name}"
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert given.get("shell", "False") == "False", f"{file}:{call.lineno}"
        assert given.get("trust_remote_code", "False") == "False", f"{file}:{call.lineno}"
        for known in words & ALLOWED.keys():
            assert file in ALLOWED[known], f"{file}:{call.lineno} calls {known}"
            seen.add(known)
        if name == "torch.load":
            assert given["weights_only"] == "True", f"{file}:{call.lineno}"
        if name.endswith("from_pretrained"):
            assert given["use_safetensors"] == "True", f"{file}:{call.lineno}"
    assert seen == ALLOWED.keys()


# Images.


def png(width: int, height: int) -> bytes:
    """A PNG whose header declares a size, with next to nothing behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header declares another size than it has."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, format="JPEG")
    content = bytearray(buffer.getvalue())
    position = content.index(b"\xff\xc0") + 5
    content[position : position + 4] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize(
    "content", [png(100_000, 100_000), png(9_500, 9_500), png(1, 2**31 - 1), jpeg(65_500, 65_500), jpeg(65_500, 1_400)]
)
def test_images_that_declare_absurd_sizes_are_refused(tmp_path: Path, content: bytes) -> None:
    write_classes(tmp_path, {"test": 1})
    (tmp_path / "test" / "cat" / "cat_test_0.JPEG").write_bytes(content)
    with pytest.raises(UserError, match=r"cat_test_0\.JPEG (is refused|would have .* pixels; at most)"):
        list(load_dataset(f"imagefolder:{tmp_path}"))


@pytest.mark.parametrize("size", [224, (224, 224)])
def test_a_line_of_pixels_is_not_blown_up(tmp_path: Path, size: Any) -> None:
    """Its shorter side as long as wished would make it as long as none has memory for."""
    save(tmp_path / "test" / "a" / "line.png", Image.new("L", (1_000_000, 1)))
    save(tmp_path / "test" / "b" / "other.png", Image.new("L", (30, 30)))
    with pytest.raises(UserError, match=r"an image of 1 x 1000000, resized, would have"):
        list(load_dataset(f"imagefolder:{tmp_path}", size=size))


def test_postscript_is_no_image(tmp_path: Path) -> None:
    """Pillow would hand it to Ghostscript."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(script)).format == "EPS"
    with pytest.raises(OSError, match="cannot identify"):
        opened(io.BytesIO(script))


def test_exif_that_is_broken_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, {"test": 1})
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(tmp_path / "test" / "cat" / "cat_test_0.JPEG", Image.new("RGB", (20, 30)), exif=exif)
    path.write_bytes(path.read_bytes().replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\0+"))
    try:
        list(load_dataset(f"imagefolder:{tmp_path}"))
    except UserError as error:
        assert "cat_test_0.JPEG" in str(error)  # noqa: PT017 - either is right: read as it is, or named


# Tables and arrays.


def test_a_matlab_file_that_declares_an_endless_array_is_refused(tmp_path: Path) -> None:
    folder = write_mat(tmp_path / "nyu_depth_v2")
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "a") as file:
        del file["rawDepths"]
        file.create_dataset("rawDepths", (4, 640 * 10**4, 480 * 10**4), np.float32, chunks=(1, 64, 64))
    assert (folder / "nyu_depth_v2_labeled.mat").stat().st_size < 2**25
    with pytest.raises(UserError, match=r"holds images .* and depths \(4, 6400000, 4800000\); expected 480 x 640"):
        list(load_dataset("nyu_depth_v2", root=tmp_path))


def test_a_list_of_splits_that_swells_is_refused(tmp_path: Path) -> None:
    folder = write_mat(tmp_path / "nyu_depth_v2")
    savemat(folder / "splits.mat", {"testNdxs": np.zeros(20_000_000)}, do_compression=True)
    with pytest.raises(UserError, match="has more than 65,536 bytes"):
        load_dataset("nyu_depth_v2", root=tmp_path)


def test_a_parquet_file_that_swells_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write_parquet(tmp_path / "cifar10", "test", 2, "img", "label", 10)
    rows = [{"bytes": bytes(2**20), "path": "x"} for _ in range(100)]
    pq.write_table(pa.table({"img": rows, "label": [0] * 100}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match=r"declares [\d,]+ bytes of data in a file of [\d,]+; it is refused"):
        load_dataset("cifar10", root=tmp_path)


def test_a_pickle_of_a_few_bytes_takes_little_memory() -> None:
    """Python's fast reader would make room for 2**31 remembered objects: 16 GiB or more."""
    content = b"\x80\x02}r" + struct.pack("<I", 2**31 - 2) + b"."
    assert ArrayUnpickler(io.BytesIO(content), encoding="bytes").load() == {}


@pytest.mark.parametrize("kind", [np.array([{}], object), np.zeros(2, [("a", "u1")]), np.zeros(2, "c16")])
def test_pickles_of_other_arrays_than_plain_numbers_are_refused(kind: Any) -> None:
    with pytest.raises(UserError, match=r"array of type .*, which official files do not"):
        ArrayUnpickler(io.BytesIO(pickle.dumps(kind)), encoding="bytes").load()


def test_a_list_of_files_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    folder = write_camvid(tmp_path / "camvid", {"train": 4, "test": 1, "val": 1})
    (folder / "test.txt").write_text("/test/../../../secret.png testannot/test_0.png\n")
    with pytest.raises(UserError, match=r"test\.txt line 1 points outside the dataset's folder"):
        load_dataset("camvid", root=tmp_path)


# Suites.


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\neps: " + "[" * 30 + "*c" + "]" * 30,
        "eps: [" + "9" * 5000 + "]",
        "!!python/object/apply:os.system ['true']",
        "!!bool perhaps",
        "!!timestamp never",
        "!!int x",
        "encoders: [a]\ndatasets: [{name: scenes}]\n" + "\n".join(f"key{i}: 1" for i in range(500)),
        "\0",
        "description: '" + "x" * 2**18 + "'",
    ],
)
def test_suites_of_strangers_are_refused_in_a_few_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_suite(tmp_path / "suite.yaml")
    assert len(str(error.value)) < 4000


def test_a_suite_of_aliases_does_not_swell(tmp_path: Path) -> None:
    """Nine words, each nine times the one before, are a number of 4e8 characters if written out."""
    layers = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "suite.yaml").write_text("\n".join(["a: &a [1]", *layers, "encoders: [x]", "eps: [*i]"]))
    with pytest.raises(UserError, match="a size is a number, not a list"):
        load_suite(tmp_path / "suite.yaml")


# Weights.


def state() -> dict[str, Any]:
    return dict(timm.create_model(VIT, num_classes=0).state_dict())


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for member in plain.infolist():
            bomb.writestr(member.filename, plain.read(member), zipfile.ZIP_DEFLATED)
    assert load_encoder(f"file:{tmp_path}/plain.pth?arch={VIT}")
    with pytest.raises(UserError, match=r"bomb\.pth is a compressed archive, which torch\.save does not write"):
        load_encoder(f"file:{tmp_path}/bomb.pth?arch={VIT}")


def endless() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["model"] = found
    return found


def doubling() -> dict[str, Any]:
    found: dict[str, Any] = {"x": torch.zeros(1)}
    for _ in range(60):
        found = {"a": found, "b": found}
    return found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: {**state(), "pos_embed": torch.zeros(1).expand(1, 10**10, 64)},
            "holds pos_embed not as a plain array",
        ),
        (lambda: {**state(), "norm.weight": torch.empty(64, device="meta")}, "holds norm.weight not as a plain array"),
        (lambda: {**state(), "norm.weight": torch.zeros(64).to_sparse()}, "holds norm.weight not as a plain array"),
        (endless, "nests its weights without bound"),
        (doubling, "nests its weights without bound"),
        (lambda: {**state(), "register_tokens": torch.zeros(3, 3)}, "cannot be used as|does not fit"),
        (lambda: {"model": state(), 7: torch.zeros(2), "model.7": 7, "model.8": torch.zeros(2)}, "does not fit"),
    ],
)
def test_checkpoints_that_are_none_are_named(tmp_path: Path, content: Callable[[], Any], message: str) -> None:
    torch.save(content(), tmp_path / "c.pth")
    with pytest.raises(UserError, match=message):
        load_encoder(f"file:{tmp_path}/c.pth?arch={VIT}")


def test_a_refused_checkpoint_says_how_to_convert_it(tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "config": Path("x")}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"runs no code of a file.*weights_only=False.*safetensors\.torch\.save_file"):
        read_tensors(tmp_path / "c.pth")


TINY: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_size": 10**9}, "img_size: .*less than or equal"),
        ({"depth": 500, "embed_dim": 30_000}, "holds weights of another architecture"),
        ({"patch_size": 0}, "patch_size: .*greater than"),
        ({"std": [0, 1, 1]}, "std.0: .*greater than 0"),
        ({"mean": [float("nan")] * 3}, "mean.0: .*finite"),
        ({"num_heads": 3}, "cannot be built"),
        ({"img_size": -16}, "img_size"),
    ],
)
def test_cards_that_describe_no_encoder_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save_file(build(Architecture(**TINY), "x").model.state_dict(), tmp_path / "encoder.safetensors")
    (tmp_path / "card.json").write_text(json.dumps({"architecture": TINY}))
    assert load_encoder(f"file:{tmp_path}")
    (tmp_path / "card.json").write_text(json.dumps({"architecture": {**TINY, **change}}))
    with pytest.raises(UserError, match=message):
        load_encoder(f"file:{tmp_path}")


def test_a_card_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"card\.json cannot be read"):
        load_encoder(f"file:{tmp_path}")


def test_code_of_the_users_own_says_that_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("thing = 1")
    assert [load_attribute(tmp_path / "mine.py", "thing") for _ in range(2)] == [1, 1]
    told = capsys.readouterr().err.splitlines()
    assert told == [f"robustprobe: running the code of {tmp_path / 'mine.py'}, with your rights."]


# Results.


@pytest.mark.parametrize("field", ["fingerprint", "group"])
@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/b", "..", ""])
def test_results_of_strangers_write_nowhere_else(tmp_path: Path, field: str, name: str) -> None:
    store = put(tmp_path / "a", make_record(attack("clean"), 0.9))
    (path,) = (store.folder / "cells").iterdir()
    content = json.loads(path.read_text())
    del content["content_sha256"]
    path.write_text(json.dumps({**content, field: name}))
    with pytest.raises(UserError, match=rf"cannot be read: {field}: "):
        merge([store.folder], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def spoilt(folder: Path, **predictions: Any) -> Store:
    """A store whose example says that its prediction is another file."""
    store = put(folder, make_record(attack("clean"), 0.9), examples=True)
    (group,) = store.groups()
    (example,) = group.examples
    group = group.model_copy(update={"examples": [example.model_copy(update={"predictions": predictions})]})
    (folder / "examples" / group.group / "group.json").write_bytes(sealed(group))
    return store


@pytest.mark.parametrize("name", ["../../../secret.png", "/secret.png", ".hidden.png", "secret"])
def test_a_page_shows_no_picture_from_elsewhere(tmp_path: Path, name: str) -> None:
    save(tmp_path / "secret.png", np.zeros((8, 8), np.uint8))
    store = spoilt(tmp_path / "store", segmentation=name)
    with pytest.raises(UserError, match="may point outside it; refused"):
        write_page(store.folder, tmp_path / "page.html")


def test_links_among_example_images_are_not_followed(tmp_path: Path) -> None:
    secret = save(tmp_path / "secret.png", np.zeros((8, 8), np.uint8))
    store = spoilt(tmp_path / "store", segmentation="mask.png")
    (picture,) = store.folder.glob("examples/*/mask.png")
    picture.unlink()
    picture.symlink_to(secret)
    with pytest.raises(UserError, match="it is a link"):
        write_page(store.folder, tmp_path / "page.html")
    with pytest.raises(UserError, match=r"mask\.png is a link, .* not copied"):
        merge([store.folder], tmp_path / "merged")


@pytest.mark.parametrize("evil", ["\x1b]0;title\x07", "\x9b31m", "\x08\x08"])
def test_results_do_not_command_the_terminal(
    tmp_path: Path, evil: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustprobe.cli import main

    put(tmp_path / "a", make_record(attack("clean"), 0.9, encoder=f"file:{evil}"))
    monkeypatch.setattr(sys, "argv", ["robustprobe", "table", str(tmp_path / "a")])
    with pytest.raises(SystemExit):
        main()
    monkeypatch.setattr(sys, "argv", ["robustprobe", "table", str(tmp_path / f"no{evil}where")])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr()
    assert "holds control characters" in told.err
    assert not {"\x1b", "\x9b", "\x08", "\x07"} & set(told.err + told.out)
