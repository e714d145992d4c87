"""A defended encoder from the command line: the options that break it, in records, table, page and plan."""

from pathlib import Path

import pytest

import robustprobe as rp
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from tests.e2e.program import child

pytestmark = pytest.mark.e2e

DEFENDED = """
import numpy as np
import torch
import robustprobe as rp

class Rounding(torch.nn.Module):
    def forward(self, images):
        levels = np.round(images.detach().cpu().numpy() * 3 + np.random.rand(*images.shape) - 0.5)
        return torch.from_numpy(levels / 3).to(images)

class Defended(rp.Encoder):
    def __init__(self):
        whole = rp.load_encoder("bundled:scenes")
        super().__init__(whole.card.model_copy(update={"name": "defended"}))
        self.rounding, self.whole = Rounding(), whole

    def features(self, images):
        return self.whole(self.rounding(images))
"""


def records(out: Path) -> dict[str, Record]:
    return {r.attack.name: r for r in Store(out).records()}


def test_defended_encoder_falls_to_adapted_attacks(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(DEFENDED)
    command = [
        "run",
        "--encoder",
        "my.py:Defended",
        "--dataset",
        "scenes",
        "--task",
        "depth",
        "--limit",
        4,
        "--steps",
        3,
    ]
    command += ["--eps", "8/255", "--train-limit", 16, "--sanity-images", 2, "--attack", "depthpgd", "--out", "out"]
    adapted = ["--bpda", "encoder.rounding", "--eot-samples", 2, "--judgements", 2]
    more = ["--attack", "clean", "--attack", "embed", "--attack", "noise"]
    done = child(*command, *more, *adapted, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "eot samples 2, bpda encoder.rounding, judgements 2 (depthpgd embed)" in " ".join(done.stdout.split())
    found = records(tmp_path / "out")
    tuned = {"eot_samples": 2, "bpda": ("encoder.rounding",), "judgements": 2}
    assert {name: record.attack.tuned for name, record in found.items()} == {
        "depthpgd": tuned,
        "embed": tuned,
        "clean": {"judgements": 2},
        "noise": {"judgements": 2},
    }
    assert found["depthpgd"].headline.value > found["noise"].headline.value
    assert found["depthpgd"].cost.backwards == 2 * 3
    checks = {check.name: check for check in found["depthpgd"].checks}
    assert checks["same answer twice"].passed
    assert "averages over 2 draws" in checks["same answer twice"].meaning
    assert "encoder.rounding" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_without_the_option_the_message_names_it(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(DEFENDED)
    with pytest.raises(rp.UserError, match=r"the graph is cut inside.*\(bpda\)"):
        rp.evaluate(f"{tmp_path / 'my.py'}:Defended", "scenes", "embed", limit=2, head={"train_limit": 16})


def test_a_module_that_no_encoder_has_is_said_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(rp.UserError, match=r"bpda names the module 'encoder\.jpeg'"):
        rp.evaluate("bundled:scenes", "scenes", "embed", bpda="encoder.jpeg", limit=2, out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("cells/*"))


def test_an_encoder_without_the_module_is_attacked_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(DEFENDED.replace("np.random.rand(*images.shape)", "0.5"))
    table = rp.evaluate(
        [f"{tmp_path / 'my.py'}:Defended", "bundled:scenes"],
        "scenes",
        "embed",
        tasks="depth",
        bpda="rounding",
        steps=1,
        limit=2,
        sanity_images=0,
        head={"train_limit": 16},
    )
    assert dict(zip(table["encoder"], table["tuning"], strict=True)) == {
        "defended": "bpda rounding",
        "bundled:scenes": "",
    }
