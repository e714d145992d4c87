"""`run --tracker`: other programs are told of the numbers, and none of them can harm a run."""

import io
import json
import struct
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustprobe.core.registry import trackers
from robustprobe.results.store import Store
from robustprobe.trackers import TrackedNumber
from robustprobe.training.loop import TrainingProgress
from tests.e2e.program import Answer

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]
RUN = ("run", "--encoder", "bundled:scenes", "--dataset", "scenes", "--task", "classification", "--limit", "8")
BASE = (*RUN, "--train-limit", "32", "--sanity-images", "0", "--attack", "clean")
SMALL = (*BASE, "--examples", "0")
PICTURES = (*BASE, "--examples", "2", "--extreme-examples", "0", "--attack", "pgd", "--eps", "8/255", "--steps", "1")
FEW = ("--dataset", "scenes", "--limit", "4", "--batch-size", "2", "--image-size", "32", "--steps", "1")
HARDEN = ("harden", "--encoder", "bundled:scenes", *FEW, "--learning-rate", "1e-4")
OWN = """
import json
from robustprobe.trackers import Tracker

class Recording(Tracker):
    def write(self, *what):
        with (self.folder / "told.jsonl").open("a") as file:
            file.write(json.dumps(what) + "\\n")
    def start(self, name, settings):
        self.write("start", name, settings)
    def number(self, number):
        self.write("number", number._asdict())
    def point(self, curve, step, value):
        self.write("point", curve, step, value)
    def picture(self, name, pixels):
        self.write("picture", name, pixels.shape, str(pixels.dtype), int(pixels.std()))
    def file(self, name, path):
        self.write("file", name, str(path))
    def end(self):
        self.write("end")

class Failing(Recording):
    def number(self, number):
        raise ZeroDivisionError("no such server")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def told(out: Path) -> list[list[object]]:
    return [json.loads(line) for line in (out / "told.jsonl").read_text().splitlines()]


def test_trackers_are_told_all_numbers_and_one_that_fails_loses_none(call: Call, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    two = ("--tracker", f"{own}:Failing", "--tracker", f"{own}:Recording", "--out", out)
    answer = call(*SMALL, "--attack", "noise", "--eps", "4/255", "--eps", "8/255", *two)
    assert answer.code == 0, answer.err
    assert (answer.out + answer.err).replace("\n", " ").count("no such server") == 1
    records = Store(out).records()
    assert len(records) == 3
    starts = [one for one in told(out) if one[0] == "start"]
    assert len(starts) == 2
    assert starts[0][2]["encoders"] == ["bundled:scenes"]  # type: ignore[index]
    numbers = [one[1] for one in told(out) if one[0] == "number"]
    by_cell = {n["cell"]: n for n in numbers}  # type: ignore[index]
    assert len(numbers) == 3
    assert by_cell == {r.fingerprint: TrackedNumber.of(r)._asdict() for r in records}
    assert [one[0] for one in told(out)][-2:] == ["file", "end"]
    assert Path(str(told(out)[-2][2])).name == "report.html"

    # The same cells without trackers: nothing of them is in a cell's key, and a later run is told of finished cells.
    (out / "told.jsonl").unlink()
    before = {r.fingerprint: r for r in records}
    again = call(*SMALL, "--attack", "noise", "--eps", "4/255", "--eps", "8/255", "--out", out)
    assert again.code == 0
    assert not (out / "told.jsonl").exists()
    assert call(*SMALL, "--tracker", f"{own}:Recording", "--out", out).code == 0
    assert {r.fingerprint: r for r in Store(out).records()} == before
    (number,) = [one[1] for one in told(out) if one[0] == "number"]
    assert number["attack"] == "clean"  # type: ignore[index]


def test_an_unknown_or_missing_tracker_is_an_error_before_any_work(
    call: Call, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustprobe.trackers.base.importlib.util.find_spec", lambda name: None)
    out = tmp_path / "out"
    for name, words in (
        ("tensorbord", "Did you mean 'tensorboard'?"),
        ("tensorboard", "pip install 'robustprobe[tensorboard]'"),
        ("mlflow", "pip install 'robustprobe[mlflow]'"),
        ("wandb", "pip install 'robustprobe[wandb]'"),
    ):
        answer = call(*SMALL, "--tracker", name, "--out", out)
        assert answer.code == 1
        assert words in answer.err
        assert not out.exists()
        answer = call(*HARDEN, "--epochs", "1", "--tracker", name, "--out", out)
        assert answer.code == 1
        assert words in answer.err
        assert not out.exists()


def test_entry_points_and_the_list(call: Call, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(own.parent))
    monkeypatch.setitem(trackers.plugins, "ours", EntryPoint("ours", "own:Recording", "robustprobe.trackers"))
    names = [one["name"] for one in json.loads(call("list", "trackers", "--format", "json").out)]
    assert names == ["mlflow", "tensorboard", "wandb", "ours"]
    assert trackers.get("ours").__name__ == "Recording"


def test_tensorboard_reads_back_what_was_measured(call: Call, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "out"
    assert call(*SMALL, "--tracker", "tensorboard", "--out", out).code == 0
    (folder,) = (out / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(folder)).Reload()
    (record,) = Store(out).records()
    path = TrackedNumber.of(record).path
    found = [events.Scalars(path + end)[0].value for end in ("", " ci_low", " ci_high")]
    assert found == pytest.approx([record.headline.value, record.headline.ci_low, record.headline.ci_high])
    assert {"suite/text_summary", "page/text_summary"} <= set(events.Tags()["tensors"])


def test_mlflow_reads_back_what_was_measured(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # Put back afterwards.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    out = tmp_path / "out"
    answer = call(*SMALL, "--tracker", "mlflow", "--out", out)
    assert answer.code == 0
    assert "warning: tracker" not in answer.out
    client = tracking.MlflowClient(tracking_uri=(out / "mlflow").absolute().as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("robustprobe").experiment_id])
    (record,) = Store(out).records()
    values = {name.rpartition("/")[2]: value for name, value in run.data.metrics.items()}
    assert values[record.metric] == pytest.approx(record.headline.value)
    assert values[f"{record.metric} ci_low"] == pytest.approx(record.headline.ci_low)
    assert run.info.status == "FINISHED"
    assert {f.path for f in client.list_artifacts(run.info.run_id)} == {"suite.json", "report.html"}


def test_mlflow_reads_back_the_pictures(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    out = tmp_path / "out"
    answer = call(*PICTURES, "--tracker", "mlflow", "--out", out)
    assert answer.code == 0
    assert "warning: tracker" not in answer.out
    client = tracking.MlflowClient(tracking_uri=(out / "mlflow").absolute().as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("robustprobe").experiment_id])
    folder = Path(client.download_artifacts(run.info.run_id, "examples", str(tmp_path)))
    found = sorted(folder.rglob("*.png"))
    (group,) = [group for group in Store(out).groups() if group.attack.eps == 0]
    assert [path.stem for path in found] == sorted(example.id.replace(":", "_") for example in group.examples)
    for path in found:
        pixels = np.asarray(Image.open(path))
        assert pixels.ndim == 3
        assert pixels.std() > 0, f"{path.name} is blank"
    assert "charts/eps.png" in {one.path for one in client.list_artifacts(run.info.run_id, "charts")}


def test_the_pages_charts_and_example_images_are_pictures(call: Call, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(*PICTURES, "--tracker", f"{own}:Recording", "--out", out).code == 0
    shown = [one for one in told(out) if one[0] == "picture"]
    groups = [group for group in Store(out).groups() if group.attack.eps == 0]
    ids = {example.id for group in groups for example in group.examples}
    assert len(ids) >= 2
    names = [str(one[1]) for one in shown]
    assert {name for name in names if name.startswith("examples/")} == {f"examples/scenes/{i}" for i in ids}
    assert "charts/eps" in names
    for _, name, shape, kind, spread in shown:
        assert shape[2] == 3, name  # type: ignore[index]
        assert kind == "uint8"
        assert int(str(spread)) > 0, f"{name} is blank"


def test_a_tracker_of_the_former_contract_still_works(call: Call, own: Path, tmp_path: Path) -> None:
    own.write_text(OWN.replace("def point", "def former_point").replace("def picture", "def former_picture"))
    out = tmp_path / "out"
    answer = call(*PICTURES, "--tracker", f"{own}:Recording", "--out", out)
    assert answer.code == 0
    assert "failed" not in answer.out + answer.err
    assert [one[0] for one in told(out)] == ["start", "number", "number", "file", "end"]


def test_hardening_tells_its_curves_and_those_of_the_run_it_continues(
    call: Call, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = (*HARDEN, "--epochs", "2", "--tracker", f"{own}:Recording", "--out", out)
    answer = call(*command)
    assert answer.code == 0, answer.err
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    points = [one[1:] for one in told(out) if one[0] == "point"]
    assert [p for p in points if p[0] == "training/loss"] == [["training/loss", e["step"], e["loss"]] for e in log]
    assert [p[1] for p in points if p[0] == "held-out/attacked patch"] == [2, 4]
    assert [one[0] for one in told(out)][-2:] == ["file", "end"]
    # Done already: nothing to tell.
    (out / "told.jsonl").unlink()
    assert call(*command).code == 0
    assert not (out / "told.jsonl").exists()
    # Interrupted after the first epoch: the log gives the updates before.
    stopped = tmp_path / "stopped"
    from robustprobe.cli._training import TrainingDisplay

    def interrupt(self: TrainingDisplay, progress: TrainingProgress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    again = (*HARDEN, "--epochs", "2", "--tracker", f"{own}:Recording", "--out", stopped)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "update", interrupt)
        call(*again)
    assert told(stopped)[-1] == ["end"]
    (stopped / "told.jsonl").unlink()
    assert call(*again).code == 0
    resumed = [one[1:] for one in told(stopped) if one[0] == "point" and one[1] == "training/loss"]
    assert resumed == [["training/loss", e["step"], e["loss"]] for e in log]


def test_pictures_and_curves_read_back_from_tensorboard(call: Call, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out, hardened = tmp_path / "out", tmp_path / "hardened"
    assert call(*PICTURES, "--tracker", "tensorboard", "--out", out).code == 0
    (folder,) = (out / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(folder)).Reload()
    names = events.Tags()["images"]
    assert "charts/eps" in names
    picture = Image.open(
        io.BytesIO(events.Images(next(n for n in names if n.startswith("examples/")))[0].encoded_image_string)
    )
    assert min(picture.size) > 100
    assert call(*HARDEN, "--epochs", "1", "--tracker", "tensorboard", "--out", hardened).code == 0
    (folder,) = (hardened / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(folder)).Reload()
    log = [json.loads(line) for line in (hardened / "log.jsonl").read_text().splitlines()]
    found = [(e.step, e.value) for e in events.Scalars("training/loss")]
    assert found == [(e["step"], pytest.approx(e["loss"])) for e in log]


def test_wandb_reads_back_what_was_measured(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    out = tmp_path / "out"
    answer = call(*PICTURES, "--tracker", "wandb", "--out", out)
    assert answer.code == 0
    assert "warning: tracker" not in answer.out
    numbers = [TrackedNumber.of(r) for r in Store(out).records()]
    told = wandb_history(out)
    # Another process of W&B's writes the file, and may end after the run.
    deadline = time.monotonic() + 20
    while "numbers/nrows" not in told and time.monotonic() < deadline:
        time.sleep(0.2)
        told = wandb_history(out)
    for number in numbers:
        assert told[number.path] == pytest.approx(number.value)
        assert told[f"{number.path} ci_low"] == pytest.approx(number.ci_low)
    assert told["numbers/nrows"] == len(numbers)
    assert told["charts/eps/format"] == "png"
    (run,) = (out / "wandb").glob("offline-run-*")
    assert len(list((run / "files" / "media" / "images" / "examples" / "scenes").glob("*.png"))) >= 2
    assert (run / "files" / "report.html").exists()


def wandb_history(out: Path) -> dict[str, Any]:
    """The last value of each name in the file of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (out / "wandb").glob("offline-run-*/run-*.wandb")
    found = dict[str, Any]()
    for data in leveldb_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        for item in record.history.item:
            found["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return found


def leveldb_records(content: bytes, block: int = 32768, head: int = 7) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, whose first seven bytes are W&B's own."""
    place, whole = head, b""
    while place + head <= len(content):
        if block - place % block < head:
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<xxxxHB", content, place)
        whole += content[place + head : place + head + length]
        place += head + length
        # 1: a whole record, 4: the last part of one.
        if kind in (1, 4):
            yield whole
            whole = b""
