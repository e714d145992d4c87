"""Whose pixels the ball is on: those of the image as it is served, or as the dataset stores it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustprobe.core.errors import UserError
from robustprobe.core.spec import Suite
from robustprobe.core.spec_base import validated
from robustprobe.encoders import Encoder
from robustprobe.evaluation.cells import Plan
from robustprobe.evaluation.plan import make_plan
from robustprobe.evaluation.run import execute
from robustprobe.report.page.render import render_page
from robustprobe.report.tables.results import render
from robustprobe.results.protocol import protocol_name
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from tests.runs import quiet

pytestmark = pytest.mark.unit

HEAD = {"train_limit": 24, "epochs": 1, "batch_size": 8, "learning_rates": (3e-3,)}


def planned(encoder: Encoder, store: Store, root: Path = Path("nowhere"), **options: Any) -> Plan:
    data = {"encoders": ["tiny"], "datasets": [{"name": "scenes", "limit": 8, "size": (16, 16)}], "head": HEAD}
    data |= {"attacks": ["clean", "pgd", "segpgd"], "tasks": ["classification", "segmentation"], "steps": 2}
    data |= {"sanity_images": 2, "examples": 2, "extreme_examples": 0, **options}
    return make_plan(validated(Suite, data, "test"), store, root, torch.device("cpu"), [encoder])


def records(encoder: Encoder, out: Path, **options: Any) -> dict[tuple[str, str], Record]:
    store = Store(out).prepare()
    assert execute(planned(encoder, store, **options), store, quiet) == []
    return {(r.attack.name, r.task): r for r in store.records()}


def test_the_ball_is_on_the_stored_pixels_and_the_same_heads_judge(tiny_encoder: Encoder, tmp_path: Path) -> None:
    served = records(tiny_encoder, tmp_path / "served")
    native = records(tiny_encoder, tmp_path / "native", attack_at="native")
    for key, record in native.items():
        other = served[key]
        assert (record.attack_at, record.image_size) == ("native", (64, 64))
        assert (other.attack_at, other.image_size) == ("served", (16, 16))
        assert record.head.fingerprint == other.head.fingerprint
        assert record.fingerprint != other.fingerprint
        assert record.largest_perturbation <= record.attack.eps + 1e-6
        if record.is_clean and record.unit == "share":
            # The same images, resized by the model and not rounded to 8 bits before it: an image of eight may differ.
            assert record.headline.value == pytest.approx(other.headline.value, abs=0.13)
    text = render(native.values(), "md")
    assert "ball on the pixels as stored (64 × 64)" in text
    assert "as served" not in text
    assert "as stored" not in render(served.values(), "md")
    both = render([*native.values(), *served.values()], "md")
    assert "ball on the pixels as stored (64 × 64), and on the image as served (16 × 16)" in both
    assert "64 × 64, as stored" in render_page(list(native.values()))
    assert protocol_name(native.values()) != protocol_name(served.values())


def test_examples_are_stored_as_they_were_attacked(tiny_encoder: Encoder, tmp_path: Path) -> None:
    records(tiny_encoder, tmp_path, attack_at="native")
    store = Store(tmp_path)
    group = store.groups()[0]
    from PIL import Image

    path = store.image(group.group, f"{group.examples[0].position}.png")
    assert np.asarray(Image.open(path)).shape == (64, 64, 3)


def test_both_are_different_cells_even_where_the_sizes_agree(tiny_encoder: Encoder, tmp_path: Path) -> None:
    store, datasets = Store(tmp_path).prepare(), [{"name": "scenes", "limit": 4, "size": (64, 64)}]
    plans = [planned(tiny_encoder, store, datasets=datasets, attack_at=at) for at in ("served", "native")]
    first, second = ({cell.fingerprint for cell in plan.cells} for plan in plans)
    assert not first & second


def test_a_model_that_sees_windows_cannot_be_attacked_at_the_native_size(tiny_encoder: Encoder, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tasks": ["segmentation"], "attacks": ["segpgd"], "head": {**HEAD, "recipe": "standard"}}
    options["datasets"] = [{"name": "scenes", "limit": 4}]
    store = Store(tmp_path).prepare()
    planned(tiny_encoder, store, **options)
    with pytest.raises(UserError, match="cannot be attacked at its native size: its models see windows of"):
        planned(tiny_encoder, store, attack_at="native", **options)
