"""A small encoder in a user's own file, and the program called in this process or as a child."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.program import Answer, child

ENCODER = """
import torch
from torch import nn
from robustprobe import Encoder, EncoderCard, Features, FeatureDims


class Tiny(Encoder):
    def __init__(self):
        super().__init__(EncoderCard(name="tiny", patch_size=8, input_size=(32, 32), widths=FeatureDims(12, 12)))
        torch.manual_seed(0)
        self.patchify = nn.Conv2d(3, 12, 8, stride=8)

    def features(self, images):
        patches = torch.tanh(self.patchify(images))
        return Features(patches.mean((2, 3)), patches)


class NotAnEncoder:
    pass


class Blind(Tiny):
    def features(self, images):
        cls, patches = super().features(images)
        return Features(cls * float("nan"), patches * float("nan"))
"""

SUITE = """
name: small
encoders: ["{encoder}"]
datasets: [{{name: scenes, limit: {limit}}}]
tasks: [classification, segmentation, depth]
steps: 3
examples: 2
batch_size: 8
head: {{train_limit: 24, epochs: 2, learning_rates: [0.01]}}
"""


@pytest.fixture(scope="session")
def my_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user") / "my.py"
    path.write_text(ENCODER)
    return path


@pytest.fixture(scope="session")
def suite_file(my_encoder: Path) -> Path:
    path = my_encoder.parent / "small.yaml"
    path.write_text(SUITE.format(encoder=f"{my_encoder}:Tiny", limit=16))
    return path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """The command line in this process."""
    from robustprobe.cli import main

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["robustprobe", *(str(a) for a in arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def finished(suite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the small suite, from an undisturbed run."""
    out = tmp_path_factory.mktemp("finished")
    done = child("run", suite_file, "--out", out)
    assert done.returncode == 0, done.stderr
    return out
