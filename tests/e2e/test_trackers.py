"""`run --tracker`: other programs are told of the numbers, and none of them can harm a run."""

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from robustprobe.core.registry import trackers
from robustprobe.results.store import Store
from robustprobe.trackers import TrackedNumber
from tests.e2e.program import Answer

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]
RUN = ("run", "--encoder", "bundled:scenes", "--dataset", "scenes", "--task", "classification", "--limit", "8")
SMALL = (*RUN, "--train-limit", "32", "--sanity-images", "0", "--examples", "0", "--attack", "clean")
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
    ):
        answer = call(*SMALL, "--tracker", name, "--out", out)
        assert answer.code == 1
        assert words in answer.err
        assert not out.exists()


def test_entry_points_and_the_list(call: Call, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(own.parent))
    monkeypatch.setitem(trackers.plugins, "ours", EntryPoint("ours", "own:Recording", "robustprobe.trackers"))
    names = [one["name"] for one in json.loads(call("list", "trackers", "--format", "json").out)]
    assert names == ["mlflow", "tensorboard", "ours"]
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
