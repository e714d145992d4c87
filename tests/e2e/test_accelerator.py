"""Runs, attacks, hardening and checks on a pretended accelerator, where a tensor on the wrong device is an error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from robustprobe.core.registry import attacks
from robustprobe.encoders import Encoder
from robustprobe.encoders.file import weights_module
from robustprobe.results.store import Store
from tests.conftest import TINY

pytestmark = pytest.mark.e2e
METHODS = ("deacl", "anyhead", "lore")
REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import json
import sys

from tests.accelerator import install

install()
from robustprobe.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["robustprobe", *arguments]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
"""
SUITE = """
encoders: ["{encoder}"]
datasets: [{{name: scenes, limit: 2}}]
attacks: [{attacks}]
tasks: [classification, segmentation, depth]
steps: 1
sanity_images: 1
examples: 1
extreme_examples: 0
head: {{train_limit: 24, epochs: 1, learning_rates: [0.01]}}
"""


def on_accelerator(*commands: list[object], folder: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", PROGRAM, json.dumps([[str(a) for a in command] for command in commands])]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "", "ROBUSTPROBE_CACHE": str(folder / "cache")}
    return subprocess.run(program, capture_output=True, text=True, cwd=folder, env=environment, timeout=600)


def test_every_attack_runs_and_is_confirmed(my_encoder: Path, tmp_path: Path) -> None:
    labels = [f'"{name}:fog"' if name == "corruption" else name for name in attacks.names()]
    (tmp_path / "suite.yaml").write_text(SUITE.format(encoder=f"{my_encoder}:Tiny", attacks=", ".join(labels)))
    device = ["--device", "pretended"]
    done = on_accelerator(
        ["run", "suite.yaml", "--out", "out", *device],
        ["verify", "out", "--encoder", f"{my_encoder}:Tiny", *device],
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    records = Store(tmp_path / "out").records()
    assert {r.provenance.device for r in records} == {"pretended"}
    assert {r.attack.name for r in records} == set(attacks.names())
    assert {r.task for r in records} == {"classification", "segmentation", "depth"}
    assert f"{len(records)} of {len(records)} cells confirmed" in done.stdout


def test_an_encoder_is_hardened(tiny_encoder: Encoder, tmp_path: Path) -> None:
    weights = {name: value.contiguous() for name, value in weights_module(tiny_encoder).state_dict().items()}
    save_file(weights, tmp_path / "encoder.safetensors")
    (tmp_path / "card.json").write_text(json.dumps({"architecture": TINY.model_dump(mode="json")}))
    small = ["--limit", 2, "--epochs", 1, "--batch-size", 2, "--steps", 1]
    start = ["harden", "--encoder", f"file:{tmp_path}", "--dataset", "scenes", "--device", "pretended", *small]
    commands = [[*start, "--method", method, "--out", method] for method in METHODS]
    done = on_accelerator(*commands, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / method / "checkpoints").is_dir() for method in METHODS)


FAULT = """
import torch
from robustprobe import Encoder, EncoderCard, Features, FeatureDims


class Faulty(Encoder):
    def __init__(self):
        super().__init__(EncoderCard(name="faulty", patch_size=8, input_size=(32, 32), widths=FeatureDims(3, 3)))
        self.patchify = torch.nn.Conv2d(3, 3, 8, stride=8)

    def features(self, images):
        patches = self.patchify(images) + torch.zeros(1, 3, 1, 1)
        return Features(patches.mean((2, 3)), patches)
"""


def test_a_tensor_on_the_wrong_device_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(FAULT)
    (tmp_path / "suite.yaml").write_text(SUITE.format(encoder="faulty.py:Faulty", attacks="clean, pgd"))
    done = on_accelerator(["run", "suite.yaml", "--out", "out", "--device", "pretended"], folder=tmp_path)
    assert done.returncode != 0
    assert "Expected all tensors to be on the same device, but found pretended:0 and cpu" in done.stderr
