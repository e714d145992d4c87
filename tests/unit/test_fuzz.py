"""Changed bytes: every reader of what strangers made reads them or says in one message what is wrong."""

import io
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustprobe import UserError, load_encoder
from robustprobe.datasets import find_dataset
from tests.readers import READERS, Reader

pytestmark = pytest.mark.unit
FOUND = Path(__file__).parent / "found"
"""What long runs of `scripts/fuzz.py` found: files whose names begin with the reader's."""


class Place:
    """A reader's folder, laid out once."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader, self.folder = reader, folder
        reader.write(folder)
        self.file = folder / reader.file
        self.whole = self.file.read_bytes()

    def read(self, content: bytes) -> None:
        """Any other error than the user's comes out."""
        self.file.write_bytes(content)
        with suppress(UserError):
            self.reader.read(self.folder)


@pytest.fixture(params=READERS, scope="module")
def position(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(READERS[request.param], tmp_path_factory.mktemp("reader"))


def test_what_is_whole_is_read(position: Place) -> None:
    position.file.write_bytes(position.whole)
    position.reader.read(position.folder)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes(position: Place, data: st.DataObject) -> None:
    content = bytearray(position.whole)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, max(0, len(content) - 1)))
        match data.draw(st.sampled_from(["flip", "put", "cut", "end"])):
            case "flip" if content:
                content[start] ^= 1 << data.draw(st.integers(0, 7))
            case "put":
                content[start:start] = data.draw(st.binary(max_size=8))
            case "cut":
                del content[start : start + data.draw(st.integers(1, 16))]
            case "end":
                del content[start:]
    position.read(bytes(content))


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"{}", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 3000, b"a b c"]
)
def test_other_files(position: Place, content: bytes) -> None:
    position.read(content)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_checkpoints_pickle(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Inside its archive, where checksums would keep changed bytes from being read."""
    position = Place(READERS["checkpoint"], tmp_path_factory.mktemp("checkpoint"))
    with zipfile.ZipFile(io.BytesIO(position.whole)) as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    (name,) = (n for n in members if n.endswith("data.pkl"))
    content = bytearray(members[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, stored in {**members, name: bytes(content)}.items():
            archive.writestr(member, stored)
    position.read(buffer.getvalue())


@settings(max_examples=40)
@given(text=st.text(max_size=12), source=st.sampled_from(["", "file:", "bundled:", "timm:", "hub:", "x.py:", "hf:"]))
def test_any_name_of_an_encoder(text: str, source: str) -> None:
    with pytest.MonkeyPatch.context() as patch, suppress(UserError):
        patch.setenv("HF_HUB_OFFLINE", "1")
        load_encoder(source + text)


@settings(max_examples=40)
@given(text=st.text(max_size=12), kind=st.sampled_from(["", "imagefolder:", "segfolder:", "depthfolder:", "x.py:"]))
def test_any_name_of_a_dataset(text: str, kind: str) -> None:
    with suppress(UserError):
        find_dataset(kind + text).select(1)


def found() -> list[Any]:
    paths = sorted(FOUND.glob("*")) if FOUND.is_dir() else []
    return [pytest.param(path, id=path.name) for path in paths]


@pytest.mark.parametrize("path", found())
def test_what_was_found_before(path: Path, tmp_path: Path) -> None:
    Place(READERS[path.name.partition("-")[0]], tmp_path).read(path.read_bytes())
