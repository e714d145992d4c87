"""Results as one file: what is in it, what is left out, and what is refused."""

import platform
import random
import zipfile
from pathlib import Path

import pytest

from robustprobe.core.errors import UserError
from robustprobe.results.archive import pack, unpack
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from robustprobe.results.union import finished
from tests.unit.test_merge import put
from tests.unit.test_report_tables import attack, make_record

pytestmark = pytest.mark.unit


def packed(folder: Path, output: Path) -> Path:
    store = Store(folder)
    pack(finished([folder], "submit"), [(store, group) for group in store.groups()], output)
    return output


def with_command(record: Record, command: str) -> Record:
    return record.model_copy(update={"provenance": record.provenance.model_copy(update={"command": command})})


def test_what_was_packed_is_unpacked_whole(tmp_path: Path) -> None:
    put(tmp_path / "a", make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.1), examples=True)
    store = unpack(packed(tmp_path / "a", tmp_path / "a.zip"), tmp_path / "b")
    assert store.records() == Store(tmp_path / "a").records()
    assert all(store.has(record.fingerprint) for record in store.records())
    assert [group.group for group in store.groups()] == [group.group for group in Store(tmp_path / "a").groups()]
    assert store.groups()


def test_the_same_results_are_the_same_bytes(tmp_path: Path) -> None:
    put(tmp_path / "a", make_record(attack("clean"), 0.9), examples=True)
    first = packed(tmp_path / "a", tmp_path / "1.zip").read_bytes()
    assert packed(tmp_path / "a", tmp_path / "2.zip").read_bytes() == first


def test_paths_and_the_name_of_the_machine_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/ann")
    host = platform.node()
    command = f"robustprobe run /somewhere/ann/s.yaml --out /very/long/way/to/results --address {host}:6379"
    record = with_command(make_record(attack("clean"), 0.9), command)
    put(tmp_path / "a", record.model_copy(update={"encoder_notes": "read from /opt/secret/deep/down/w.pt"}))
    found = unpack(packed(tmp_path / "a", tmp_path / "a.zip"), tmp_path / "b").records()[0]
    assert found.provenance.command == "robustprobe run s.yaml --out way/to/results --address this-machine:6379"
    assert found.encoder_notes == "read from deep/down/w.pt"


@pytest.mark.parametrize("name", ["../cells/a.json", "/cells/a.json", "cells/../../a.json", "cells/a.py", "a.json"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path / "a", make_record(attack("clean"), 0.9))
    archive = packed(tmp_path / "a", tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, "x")
    with pytest.raises(UserError, match="never writes; nothing was unpacked"):
        unpack(archive, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_archive_that_would_become_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a", make_record(attack("clean"), 0.9))
    archive = packed(tmp_path / "a", tmp_path / "a.zip")
    monkeypatch.setattr("robustprobe.results.archive.MOST_BYTES", 100)
    with pytest.raises(UserError, match="more than 100; nothing was unpacked"):
        unpack(archive, tmp_path / "b")


def test_rows_of_another_record_are_found(tmp_path: Path) -> None:
    store = put(tmp_path / "a", make_record(attack("clean"), 0.9))
    archive = packed(tmp_path / "a", tmp_path / "a.zip")
    name = store.records()[0].fingerprint
    forged = tmp_path / "forged.zip"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(forged, "w") as new:
        new.writestr(f"cells/{name}.json", old.read(f"cells/{name}.json"))
        new.writestr(f"rows/{name}.parquet", old.read(f"rows/{name}.parquet") + b"x")
    with pytest.raises(UserError, match="do not have the digest of their record"):
        unpack(forged, tmp_path / "b")


def test_what_is_no_archive_or_holds_no_results_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(tmp_path / "text.zip", tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(UserError, match="holds no results"):
        unpack(tmp_path / "empty.zip", tmp_path / "c")
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(tmp_path / "missing.zip", tmp_path / "d")


def test_damaged_archives_are_one_clear_error(tmp_path: Path) -> None:
    put(tmp_path / "a", make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.1), examples=True)
    whole = packed(tmp_path / "a", tmp_path / "a.zip").read_bytes()
    damaged, refused = tmp_path / "damaged.zip", 0
    generator = random.Random(0)
    for number in range(300):
        content = bytearray(whole)
        content[generator.randrange(len(whole))] = generator.randrange(256)
        damaged.write_bytes(content if number % 10 else content[: generator.randrange(len(whole))])
        try:
            unpack(damaged, tmp_path / str(number))
        except UserError:
            refused += 1
    assert refused > 100


def test_damaged_results_are_not_packed(tmp_path: Path) -> None:
    store = put(tmp_path / "a", make_record(attack("clean"), 0.9))
    store.rows_path(store.records()[0].fingerprint).write_bytes(b"x")
    with pytest.raises(UserError, match="nothing was packed"):
        packed(tmp_path / "a", tmp_path / "a.zip")
    with pytest.raises(UserError, match=r"ends in '\.tar'; give a file that ends in \.zip"):
        pack([], [], tmp_path / "a.tar")
