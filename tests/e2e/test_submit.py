"""Results sent and checked as their sender and receiver do it."""

import csv
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from robustprobe.results.records import Record
from robustprobe.results.store import Store
from tests.e2e.program import Answer

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Store:
    shutil.copytree(finished, tmp_path / "results")
    return Store(tmp_path / "results")


def attacked(store: Store) -> Record:
    return next(r for r in store.records() if r.attack.name == "pgd" and r.task == "classification")


def test_a_submission_is_confirmed_and_ranked(
    call: Call, finished: Path, my_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sent = call("submit", finished, "--out", "inbox/mine.zip")
    assert (sent.code, sent.err) == (0, "")
    text = (tmp_path / "inbox" / "mine.md").read_text()
    assert "digest " in text
    assert "| pgd 8/255 |" in text.replace("| clean | ", "| ")
    assert "`robustprobe verify mine.zip --data-root DATA`" in text
    checked = call("verify", "inbox/mine.zip", "--encoder", f"{my_encoder}:Tiny")
    count = len(Store(finished).records())
    assert checked.code == 0
    assert checked.out.endswith(f"{count} of {count} cells confirmed.\n")
    assert "NOT" not in checked.out
    assert call("leaderboard", "inbox", "--out", "site").code == 0
    assert "tiny" in (tmp_path / "site" / "index.html").read_text().lower()


def test_images_of_the_native_size_are_confirmed(
    call: Call, suite_file: Path, my_encoder: Path, tmp_path: Path
) -> None:
    small = ("--limit", 2, "--steps", 1, "--attack", "embed", "--sanity-images", 0, "--attack-at", "native")
    assert call("run", suite_file, "--out", tmp_path / "results", *small).code == 0
    answer = call("verify", tmp_path / "results", "--encoder", f"{my_encoder}:Tiny")
    assert answer.code == 0, answer.out + answer.err


def test_another_encoder_is_refused(call: Call, copy: Store, my_encoder: Path, tmp_path: Path) -> None:
    other = tmp_path / "my.py"
    other.write_text(my_encoder.read_text().replace("manual_seed(0)", "manual_seed(1)"))
    answer = call("verify", copy.folder, "--encoder", f"{other}:Tiny")
    assert answer.code == 1
    assert "the results are of tiny with digest" in answer.err
    assert "and here is tiny (" in answer.err


def test_an_image_outside_of_the_ball_is_found(call: Call, copy: Store, my_encoder: Path) -> None:
    record = attacked(copy)
    group = copy.group(record.group)
    assert group is not None
    name = f"{group.examples[0].position}.png"
    with Image.open(copy.image(group.group, name)) as opened:
        pixels = np.asarray(opened).copy()
    pixels[0, 0] = 255 - pixels[0, 0]
    digest = copy.write_image(group.group, name, pixels)
    copy.write_group(group.model_copy(update={"digests": {**group.digests, name: digest}}))
    answer = call("verify", copy.folder, "--encoder", f"{my_encoder}:Tiny")
    assert answer.code == 3
    assert "NOT confirmed" in answer.out
    assert "1 outside of the ball" in answer.out


def forge(store: Store, record: Record, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rows changed, with a record that vouches for them."""
    table = change(store.rows(record.fingerprint))
    columns = {name: np.stack(table.column(name).to_numpy()) for name in table.column_names if name != "id"}
    digest = store.write_rows(record.fingerprint, {"id": table.column("id").to_pylist(), **columns})
    store.write_record(record.model_copy(update={"rows_sha256": digest}))
    path = store.rows_path(record.fingerprint)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def flipped(table: pa.Table) -> pa.Table:
    for name in ("correct", "correct_8bit"):
        values = pa.array([not bool(value) for value in table.column(name).to_pylist()])
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def test_invented_scores_are_found(call: Call, copy: Store, my_encoder: Path) -> None:
    forge(copy, attacked(copy), flipped)
    answer = call("verify", copy.folder, "--encoder", f"{my_encoder}:Tiny")
    assert answer.code == 3
    line = next(line for line in answer.out.splitlines() if line.startswith("NOT"))
    assert "6 images, 0 outside of the ball, 6 scores differ" in line


def test_a_number_that_is_not_that_of_its_rows_is_found(call: Call, copy: Store, my_encoder: Path) -> None:
    record = attacked(copy)
    better = record.headline.model_copy(update={"value": 0.875})
    copy.write_record(record.model_copy(update={"metrics": {**record.metrics, record.metric: better}}))
    answer = call("verify", copy.folder, "--encoder", f"{my_encoder}:Tiny")
    assert answer.code == 3
    assert "the number of the record is not that of its rows" in answer.out


def test_images_are_exported_with_a_table(call: Call, finished: Path, tmp_path: Path) -> None:
    answer = call("export", "images", finished, "--out", tmp_path / "images")
    assert (answer.code, answer.err) == (0, "")
    with (tmp_path / "images" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    groups, records = Store(finished).groups(), Store(finished).records()
    assert len({row["file"] for row in rows}) == sum(len(group.examples) for group in groups)
    assert {row["fingerprint"] for row in rows} == {record.fingerprint for record in records}
    for row in rows[:10]:
        with Image.open(tmp_path / "images" / row["file"]) as opened:
            assert opened.size == (32, 32)


def test_results_without_images_are_one_clear_error(call: Call, copy: Store, tmp_path: Path) -> None:
    shutil.rmtree(copy.folder / "examples")
    (copy.folder / "examples").mkdir()
    for command in (("verify", copy.folder), ("export", "images", copy.folder, "--out", tmp_path / "x")):
        answer = call(*command)
        assert answer.code == 1
        assert "--examples 6" in answer.err
