"""Hardening and its curve as the user runs them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from robustprobe.encoders import Encoder
from robustprobe.results.store import Store
from tests.conftest import TINY
from tests.e2e.program import Answer

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]
SMALL = ("--dataset", "scenes", "--limit", "4", "--batch-size", "2", "--steps", "1", "--learning-rate", "1e-3")


@pytest.fixture
def tiny(tiny_encoder: Encoder, tmp_path: Path) -> str:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "card.json").write_text(json.dumps({"architecture": TINY.model_dump(mode="json")}))
    weights = {k.removeprefix("model."): v for k, v in tiny_encoder.state_dict().items() if k.startswith("model.")}
    save_file(weights, folder / "encoder.safetensors")
    return f"file:{folder}"


def test_harden_then_curve(call: Call, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    size = ("--image-size", "24")
    command = ("harden", "--encoder", tiny, *SMALL, *size, "--method", "deacl", "--epochs", "2", "--out", out)
    first = call(*command)
    assert first.code == 0, first.err
    assert "epoch 2: loss" in first.out
    assert "left" in first.out
    assert len((out / "log.jsonl").read_text().splitlines()) == 4
    again = call(*command)
    assert again.code == 0
    assert "Done already" in again.out
    other = call(*command, "--eps", "2/255")
    assert other.code == 1
    assert "holds another run (eps" in " ".join(other.err.split())
    options = (
        *size,
        "--dataset",
        "scenes",
        "--limit",
        "4",
        "--train-limit",
        "16",
        "--steps",
        "1",
        "--sanity-images",
        "0",
    )
    curve = call("curve", out, *options, "--attack", "clean", "--attack", "embed", "-o", tmp_path / "curve.svg")
    assert curve.code == 0, curve.err
    assert {r.image_size for r in Store(out / "curve").records()} == {(24, 24)}
    assert "0 (teacher)" in curve.out
    assert curve.out.count("scenes, ") >= 3
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")
    more = call(
        "curve", out, *options, "--attack", "clean", "--attack", "segpgd", "--attack", "embed", "--teacher-heads"
    )
    assert more.code == 0, more.err
    refitted, _, kept = more.out.partition("The teacher's heads kept:")
    line = next(line for line in refitted.splitlines() if line.startswith("0 (teacher)"))
    # Under the teacher itself both readings are the same.
    assert line in kept.splitlines()
    assert "segpgd 8/255" in " ".join(kept.split())
    more = call("curve", out, *options, "--attack", "clean", "--attack", "embed")
    assert "nothing left to do" in more.out
    assert (out / "curve" / "curve.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "decl"], ["unknown defence 'decl'", "Did you mean 'deacl'?"]),
        (["--option", "gama=2"], ["unknown key gama"]),
        (["--option", "gamma"], ["write NAME=VALUE"]),
        (["--eps", "-1/255"], ["is no size"]),
        (["--epochs", "0"], ["epochs"]),
        (["--image-size", "20"], ["image size 20 x 20 is not a multiple of the patch size 8", "take 16 x 16"]),
        (["--image-size", "0"], ["size", "greater than 0"]),
        (["--accumulate", "3"], ["cannot be split into 3 parts"]),
        (["--encoder", "bundled:scene"], ["Did you mean 'scenes'?"]),
        (["--dataset", "cifar10"], ["no data/cifar10"]),
        (["--device", "tpu9"], ["device 'tpu9'"]),
    ],
)
def test_mistakes(call: Call, tiny: str, tmp_path: Path, options: list[str], words: list[str]) -> None:
    base = {"--encoder": tiny, "--method": "deacl", **dict(zip(SMALL[::2], SMALL[1::2], strict=True))}
    base |= {"--out": str(tmp_path / "out"), **dict(zip(options[::2], options[1::2], strict=True))}
    answer = call("harden", *(part for pair in base.items() for part in pair))
    assert answer.code == 1
    assert "Traceback" not in answer.err + answer.out
    message = " ".join((answer.err + answer.out).split())
    assert all(word in message for word in words), message
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_folder_without_checkpoints_has_no_curve(call: Call, tmp_path: Path) -> None:
    answer = call("curve", tmp_path, "--dataset", "scenes")
    assert answer.code == 1
    assert "no checkpoints in" in answer.err


def test_defences_are_listed(call: Call) -> None:
    answer = call("list", "defences")
    assert answer.code == 0
    assert {"deacl", "fare", "trades-embed", "simclip", "lore", "anyhead", "pseudo-labels"} <= set(answer.out.split())
