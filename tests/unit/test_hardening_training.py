"""The trainer: killed and continued, split and joined, stopped by NaN."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import robustprobe as rp
from robustprobe import UserError
from robustprobe.defences import Defence
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.encoders.file import build
from robustprobe.training import make_spec
from robustprobe.training.distributed import SingleProcess
from robustprobe.training.folder import LOG, RunFolder, read_log
from robustprobe.training.loop import DivergedError, TrainingProgress, _Trainer
from robustprobe.training.run import run
from robustprobe.training.weight_perturbation import perturbed
from tests.conftest import TINY

pytestmark = pytest.mark.unit

SMALL: dict[str, Any] = {"limit": 6, "batch_size": 2, "epochs": 2, "steps": 2, "learning_rate": 1e-2, "ema": 0.5}

TINY_SIZE = (TINY.img_size, TINY.img_size)

CHILD = """
import json, os, signal, sys
from pathlib import Path
from robustprobe.training import make_spec
from robustprobe.training.distributed import find_processes
from robustprobe.training.run import run

given, out, fatal, save_seconds = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])

def notify(progress):
    if progress.step == fatal:
        os.kill(os.getpid(), signal.SIGKILL)

spec = make_spec(given.pop("method"), given)
run(spec, Path("nowhere"), out, find_processes("cpu"), notify, save_seconds=save_seconds)
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    card = {"architecture": TINY.model_dump(mode="json"), "licence": "CC0-1.0"}
    (folder / "card.json").write_text(json.dumps(card))
    weights: Any = tiny_encoder.model
    save_file(weights.state_dict(), folder / "encoder.safetensors")
    return f"file:{folder}"


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder of two blocks."""
    folder, architecture = tmp_path_factory.mktemp("deeper"), TINY.model_copy(update={"depth": 2})
    (folder / "card.json").write_text(json.dumps({"architecture": architecture.model_dump(mode="json")}))
    weights: Any = build(architecture, "file:deeper").model
    save_file(weights.state_dict(), folder / "encoder.safetensors")
    return f"file:{folder}"


def go(teacher: str, out: Path, method: str = "deacl", **changes: Any) -> list[TrainingProgress]:
    seen: list[TrainingProgress] = []
    given = {**SMALL, "encoder": teacher, "datasets": ("scenes",), **changes}
    run(make_spec(method, given), Path("nowhere"), out, SingleProcess("cpu"), seen.append)
    return seen


def test_a_defence_in_a_file_of_ones_own_trains_its_parts_beside_the_student(teacher: str, tmp_path: Path) -> None:
    method = str(Path(__file__).parents[2] / "scripts" / "projected.py") + ":ProjectedDeacl"
    go(teacher, tmp_path / "one", method, epochs=1)
    go(teacher, tmp_path / "two", method, epochs=2)
    one, two = (load_file(tmp_path / run / "state.safetensors") for run in ("one", "two"))
    learned = [name for name in one if "projector" in name and "weight" in name and one[name].ndim == 2]
    assert learned
    assert all(not torch.equal(one[name], two[name]) for name in learned)
    with pytest.raises(UserError, match="class token alone"):
        go(teacher, tmp_path / "three", method, tokens="both")


# SGD, of which only the first epoch's end is on disk; and AdamW with a multiplier, saved in mid-epoch.
@pytest.mark.parametrize(("method", "fatal", "save_seconds"), [("deacl", 5, 1e9), ("lore", 2, 0.0)])
def test_a_killed_run_continues_to_the_same_bits(
    teacher: str, tmp_path: Path, method: str, fatal: int, save_seconds: float
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    go(teacher, whole, method)
    given = {**SMALL, "encoder": teacher, "datasets": ["scenes"], "method": method}
    cut.mkdir()
    (cut / ".state.safetensors.x.writing").write_bytes(b"what another killed process left")
    arguments = [sys.executable, "-c", CHILD, json.dumps(given), str(cut), str(fatal), str(save_seconds)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not RunFolder(cut).finished
    assert list(cut.glob(".*")) == []
    assert go(teacher, cut, method)[0].step == (4 if save_seconds else 3)
    for name in ("encoder.safetensors", "checkpoints/epoch-001/encoder.safetensors", "state.safetensors"):
        one, other = load_file(whole / name), load_file(cut / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    logs = [[(line["step"], line["loss"]) for line in read_log(folder / LOG)] for folder in (whole, cut)]
    assert logs[0] == logs[1]
    assert [step for step, _ in logs[0]] == [1, 2, 3, 4, 5, 6]


def test_the_result_is_an_encoder_that_says_where_it_comes_from(teacher: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen = go(teacher, out, checkpoint_every=2)
    assert [p.look is not None for p in seen] == [False, False, True] * 2
    assert seen[-1].left == 0
    assert sorted(RunFolder(out).checkpoints()) == [0, 2]
    original, start, result = (
        load_encoder(s) for s in (teacher, f"file:{RunFolder(out).checkpoint(0)}", f"file:{out}")
    )
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(original(images).cls, start(images).cls)
    assert not torch.equal(original(images).cls, result(images).cls)
    assert result.card.licence == "CC0-1.0"
    facts = json.loads((out / "card.json").read_text())["hardening"]
    assert (facts["method"], facts["seed"], facts["data"], facts["epoch"]) == ("deacl", 0, ["scenes"], 2)
    assert facts["teacher_digest"] == original.digest
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert go(teacher, out, checkpoint_every=2) == []
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="holds another run"):
        go(teacher, out, checkpoint_every=2, eps="4/255")


def test_accumulated_parts_make_the_same_updates(teacher: str, tmp_path: Path) -> None:
    whole, parts = (
        go(teacher, tmp_path / str(n), batch_size=4, accumulate=n, limit=8, learning_rate=1e-3) for n in (1, 2)
    )
    assert [p.loss for p in whole] == pytest.approx([p.loss for p in parts], rel=1e-3)
    with pytest.raises(UserError, match="cannot be split into 8 parts"):
        go(teacher, tmp_path / "8", accumulate=8)


def test_nan_stops_and_keeps_the_last_good_checkpoint(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = _Trainer.update

    def poisoned(self: _Trainer, parts: Any) -> Any:
        if self.step == 4:
            with torch.no_grad():
                next(self.student.parameters()).fill_(float("nan"))
        return update(self, parts)

    monkeypatch.setattr(_Trainer, "update", poisoned)
    out = tmp_path / "out"
    with pytest.raises(DivergedError, match=r"loss became nan in update 5 of 6.*epoch-001.*--learning-rate"):
        go(teacher, out)
    assert not RunFolder(out).finished
    kept = load_encoder(f"file:{RunFolder(out).checkpoint(1)}")
    assert all(torch.isfinite(p).all() for p in kept.parameters())
    monkeypatch.setattr(_Trainer, "update", update)
    assert go(teacher, out)[-1].step == 6


def test_bf16_and_several_datasets_and_layers_run(teacher: str, tmp_path: Path) -> None:
    seen = go(
        teacher, tmp_path / "o", precision="bf16", datasets=("scenes", "scenes"), tokens="both", epochs=1, clip=1.0
    )
    assert len(seen) == 6
    assert all(torch.isfinite(torch.tensor(p.loss)) for p in seen)
    assert len(go(teacher, tmp_path / "l", "fare", layers=(0, -1)[1:], eps_ramp=0.5, epochs=1)) == 3


def test_from_python(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        teacher = build(TINY, "file:mine").freeze()
    before = teacher.digest
    robust = rp.harden(teacher, "scenes", "fare", epochs=1, limit=4, batch_size=2, steps=1, learning_rate=1e-3)
    assert robust.digest != before == teacher.digest
    assert not any(p.requires_grad for p in robust.parameters())


def test_the_encoder_descends_several_times_on_a_batch_and_the_multiplier_ascends_once(
    teacher: str, tmp_path: Path
) -> None:
    seen = go(teacher, tmp_path / "five", "lore", epochs=1, updates_per_batch=5)
    assert [p.step for p in seen] == [1, 2, 3]
    state = load_file(tmp_path / "five" / "state.safetensors")
    counts = {int(v) for k, v in state.items() if k.endswith(".step")}
    assert counts == {15, 3}
    once = go(teacher, tmp_path / "one", "lore", epochs=1, updates_per_batch=1)
    # Logged before the first update, the loss of the first batch is that of one update.
    assert seen[0].loss == once[0].loss
    assert seen[1].loss != once[1].loss


def test_a_low_clip_bounds_the_encoder_and_the_multiplier_each(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded, clip = [], nn.utils.clip_grad_norm_

    def watched(parameters: Any, limit: float) -> Any:
        bounded.append(len(parameters))
        return clip(parameters, limit)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", watched)
    go(teacher, tmp_path / "out", "lore", epochs=1, updates_per_batch=1, clip=1e-3)
    assert bounded[1::2] == [4] * 3


def test_images_are_served_at_a_size_of_ones_own(teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, attack = [], Defence.attack

    def watched(self: Defence, student: Encoder, teacher: Encoder, images: Any, *rest: Any) -> Any:
        seen.append(tuple(images.shape[-2:]))
        return attack(self, student, teacher, images, *rest)

    monkeypatch.setattr(Defence, "attack", watched)
    for size, served in ((24, (24, 24)), ((8, 24), (8, 24)), (None, TINY_SIZE)):
        seen.clear()
        out = tmp_path / str(size)
        go(teacher, out, size=size, epochs=1)
        assert seen == [served] * 3
        facts = json.loads((out / "card.json").read_text())
        assert facts["hardening"]["settings"]["size"] == (list(served) if size else None)
        assert load_encoder(f"file:{out}").card.input_size == TINY_SIZE
    with pytest.raises(UserError, match=r"holds another run \(.*size \[24, 24\] there, \[16, 16\] here"):
        go(teacher, tmp_path / "24", size=16, epochs=1)
    with pytest.raises(UserError, match=r"image size 27 x 27 is not a multiple of the patch size 8 .* take 24 x 24"):
        go(teacher, tmp_path / "27", size=27)


def test_an_encoder_of_one_size_takes_no_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"128 x 128 is not possible: timm:test_maxvit.random takes images of .* only"):
        go("timm:test_maxvit.random", tmp_path / "out", size=128)


def test_batch_norm_keeps_the_teachers_statistics_and_trains_its_scale(tmp_path: Path) -> None:
    name, out = "timm:test_efficientnet.random", tmp_path / "out"
    go(name, out, size=64, epochs=1)
    teacher, student = load_encoder(name).state_dict(), load_encoder(f"file:{out}").state_dict()
    statistics = [key for key in teacher if "running_" in key or "num_batches" in key]
    assert statistics
    assert all(torch.equal(teacher[key], student[key]) for key in statistics)
    trained = [key for key in teacher if key.endswith(("bn1.weight", "bn1.bias"))]
    assert trained
    assert all(not torch.equal(teacher[key], student[key]) for key in trained)


def test_two_processes_do_what_one_does(teacher: str, tmp_path: Path) -> None:
    given = {**SMALL, "encoder": teacher, "datasets": ["scenes"], "method": "deacl", "batch_size": 4}
    given |= {"learning_rate": 1e-3, "epochs": 1, "limit": 12}
    script, out = tmp_path / "child.py", tmp_path / "two"
    script.write_text(CHILD)
    arguments = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments += [str(script), json.dumps(given), str(out), "-1", "60"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=alone, timeout=150)
    assert done.returncode == 0, done.stderr[-2000:]
    one = go(
        teacher, tmp_path / "one", **{k: v for k, v in given.items() if k not in ("method", "encoder", "datasets")}
    )
    assert [p.loss for p in one] == pytest.approx([line["loss"] for line in read_log(out / LOG)], rel=1e-3)
    a, b = (load_file(folder / "encoder.safetensors") for folder in (out, tmp_path / "one"))
    assert all(torch.allclose(a[key], b[key], atol=2e-4) for key in a)


@pytest.mark.parametrize(("which", "changed"), [("first:1", {"0"}), ("last:1", {"1"}), ("all", {"0", "1"})])
def test_only_the_chosen_blocks_are_trained(deeper: str, tmp_path: Path, which: str, changed: set[str]) -> None:
    go(deeper, tmp_path / "out", trained_blocks=which, epochs=1, ema=0.0)
    before, after = (
        load_file(tmp_path / "out" / part / "encoder.safetensors") for part in ("checkpoints/epoch-000", ".")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in moved if name.startswith("blocks.")} == changed
    assert any("patch_embed" in name for name in moved) == (which != "last:1")


@pytest.mark.parametrize(
    ("which", "words"), [("first:9", "has layers 0 to 1"), ("last:2", "has layers 0 to 1"), ("middle:1", "trained_blo")]
)
def test_blocks_that_are_not_there_are_refused(deeper: str, tmp_path: Path, which: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        go(deeper, tmp_path / "out", trained_blocks=which)
    assert not (tmp_path / "out").exists()


def test_weights_are_perturbed_along_their_gradient_and_put_back() -> None:
    layer = nn.Linear(3, 2).double()
    layer(torch.ones(1, 3).double()).square().sum().backward()
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    gradient = layer.weight.grad
    assert gradient is not None
    with perturbed(list(layer.parameters()), 0.01):
        move = layer.weight.detach() - weight
        torch.testing.assert_close(move, gradient / gradient.norm() * 0.01 * weight.norm())
        assert torch.equal(layer.bias, bias)
    assert torch.equal(layer.weight, weight)


def test_an_update_takes_the_gradient_at_perturbed_weights(teacher: str, tmp_path: Path) -> None:
    plain = [p.loss for p in go(teacher, tmp_path / "plain")]
    found = [p.loss for p in go(teacher, tmp_path / "awp", weight_perturbation=0.05)]
    assert found[0] == plain[0]
    assert found[1:] != plain[1:]


@pytest.mark.parametrize("method", ["deacl", "fare", "lore", "simclip", "trades-embed", "pseudo-labels", "anyhead"])
def test_every_method_can_be_applied_behind_a_projector_too(teacher: str, tmp_path: Path, method: str) -> None:
    options = {"options": {"clusters": "2"}} if method == "pseudo-labels" else {}
    seen = go(teacher, tmp_path / "out", method, projector=True, epochs=1, feature_rank=0, **options)
    names = set(seen[0].facts)
    assert {f"projected_{name}" for name in names if not name.startswith("projected_")} <= names
    state = load_file(tmp_path / "out" / "state.safetensors")
    assert any("projector" in name for name in state)
