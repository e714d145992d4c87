"""`robustprobe check encoder --offline` as a process of its own, in which no socket can be opened."""

from pathlib import Path

import pytest
import timm

from tests.e2e.program import child
from tests.unit.encoders_on_disk import lay_out

pytestmark = pytest.mark.e2e

BLOCKED = """
import socket
def refuse(*arguments, **options):
    raise AssertionError("a connection was tried")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""


def test_a_sound_encoder_from_the_cache_passes_offline(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    model = timm.create_model("test_vit.r160_in1k")
    lay_out(tmp_path / "hub", "timm/test_vit.r160_in1k", {"model.safetensors": model.state_dict()}, "c" * 40)
    command = ("check", "encoder", "timm:test_vit.r160_in1k", "--offline")
    answer = child(*command, PYTHONPATH=str(tmp_path), HF_HUB_CACHE=str(tmp_path / "hub"))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("passed") == 8
    assert "c" * 40 in answer.stdout
