"""`robustprobe check encoder`: what it prints and its exit code; tests/e2e has it as a process of its own."""

import os
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants

from robustprobe import UserError
from robustprobe.cli.check import encoder
from robustprobe.encoders import offline
from tests.unit.encoders_on_disk import without_network

pytestmark = pytest.mark.unit

DOUBTFUL = """
import torch
import robustprobe as rp

class Mine(rp.Encoder):
    def __init__(self):
        super().__init__(rp.EncoderCard(name="mine", patch_size=4, input_size=(16, 16), widths=rp.FeatureDims(3, 3)))
    def features(self, images):
        patches = torch.nn.functional.avg_pool2d(images.detach() * 4 - 2, 4)
        return rp.Features(patches.mean((2, 3)), patches)
"""


def test_a_checkpoint_takes_its_architecture_from_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = timm.create_model("test_vit", num_classes=0)
    torch.save({"teacher": model.state_dict()}, tmp_path / "c.pth")
    encoder(f"file:{tmp_path}/c.pth", arch="test_vit")
    shown = capsys.readouterr().out
    assert shown.count("passed") == 8
    assert "keys matched under 'teacher.'" in shown


def test_a_broken_encoder_fails_with_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(DOUBTFUL)
    with pytest.raises(SystemExit) as stopped:
        encoder(f"{tmp_path}/mine.py:Mine")
    assert stopped.value.code == 1
    shown = capsys.readouterr()
    assert "cut inside" in shown.out
    assert "1 of 8 checks failed" in shown.err


def test_offline_is_said_once_for_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_network(monkeypatch, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert not offline()
    with pytest.raises(UserError, match="no downloads offline"):
        encoder("dinov2_vits14", offline=True)
    assert offline()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("name", ["[/x]", "runs[3]", "[bold]"])
def test_names_with_brackets_are_shown_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    encoder(f"{name}=bundled:scenes")
    assert capsys.readouterr().out.startswith(f"{name}: patch size")
