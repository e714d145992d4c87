"""Attacks of a user's own files are known by name and content, wherever the file lies."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustprobe import UserError
from robustprobe.core.spec import Suite
from robustprobe.core.spec_base import validated
from robustprobe.encoders import Encoder
from robustprobe.evaluation.cells import Plan
from robustprobe.evaluation.plan import make_plan
from robustprobe.evaluation.run import execute
from robustprobe.results.store import Store
from tests.runs import quiet

pytestmark = pytest.mark.unit

SOURCE = """
from robustprobe.attacks import Attack, unjudged

class Darker(Attack):
    access = "nothing"

    def perturb(self, victim, images, draws, previous):
        return unjudged(images - self.spec.eps)
"""


def planned(encoder: Encoder, out: Path, *attacks: str) -> tuple[Plan, Store]:
    data: dict[str, Any] = {"encoders": ["tiny"], "datasets": [{"name": "scenes", "limit": 4, "size": (16, 16)}]}
    data |= {"head": {"train_limit": 16, "epochs": 1, "learning_rates": (3e-3,)}, "tasks": ["classification"]}
    data |= {"attacks": list(attacks), "sanity_images": 0, "examples": 1, "extreme_examples": 0}
    store = Store(out).prepare()
    return make_plan(validated(Suite, data, "test"), store, Path("nowhere"), torch.device("cpu"), [encoder]), store


def test_one_content_in_two_folders_is_one_attack_without_folders_in_results(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    first, second, third = (tmp_path / name / "darker_of_mine.py" for name in "abc")
    for path in (first, second, third):
        path.parent.mkdir()
        path.write_text(SOURCE)
    third.write_text(SOURCE.replace("- self", "+ self"))
    plan, store = planned(tiny_encoder, tmp_path / "out", f"{first}:Darker", f"{second}:Darker")
    assert len(plan.cells) == 1
    assert execute(plan, store, quiet) == []
    assert [record.attack.name for record in store.records()] == ["darker_of_mine.py:Darker"]
    assert [group.attack.name for group in store.groups()] == ["darker_of_mine.py:Darker"]
    assert all(str(tmp_path) not in path.read_text() for path in store.folder.rglob("*.json"))
    assert all(cell.done for cell in planned(tiny_encoder, tmp_path / "out", f"{second}:Darker")[0].cells)
    assert not any(cell.done for cell in planned(tiny_encoder, tmp_path / "out", f"{third}:Darker")[0].cells)
    with pytest.raises(UserError, match=r"two different attacks are called darker_of_mine\.py:Darker"):
        planned(tiny_encoder, tmp_path / "out", f"{first}:Darker", f"{third}:Darker")
