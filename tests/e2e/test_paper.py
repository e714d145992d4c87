"""The paper's suite from one end to the other: every dataset in its official layout, written small by the test."""

import re
from pathlib import Path

import pytest
import yaml

from robustprobe.core.suites import find_suite, narrowed
from robustprobe.results.store import Store
from tests.e2e.program import child
from tests.folders import LAYOUTS

pytestmark = pytest.mark.e2e

OWN = {"classification": {"pgd"}, "segmentation": {"segpgd"}, "depth": {"depthpgd", "apgd"}}
PAPER = find_suite("paper")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for dataset in PAPER.datasets:
        LAYOUTS[dataset.name](folder)
    return folder


def small(folder: Path, encoder: str, datasets: list[str], limit: int) -> Path:
    """The paper's suite with an encoder of random weights, few images and one step."""
    suite = narrowed(PAPER, datasets).model_dump(mode="json")
    suite["encoders"] = [encoder]
    suite["datasets"] = [{"name": dataset["name"], "limit": limit} for dataset in suite["datasets"]]
    suite |= {"attacks": None, "steps": 1, "sanity_images": 0, "examples": 1}
    suite["head"] = {"recipe": "paper", "epochs": 1, "train_limit": 4, "batch_size": 2, "knn": 1}
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite))
    return path


# As deep as it takes to have attention: what is tested is how images are shown to it.
SHALLOW = """
import timm
import robustprobe as rp


def made(name, side, patch):
    network = timm.create_model(name, depth=1, num_classes=0, dynamic_img_size=True).eval()
    return rp.wrap(network, mean=0.5, std=0.5, patch_size=patch, input_size=side)


def patch16():
    return made("vit_small_patch16_224", 224, 16)


def patch14():
    return made("vit_small_patch14_dinov2", 518, 14)
"""
ALL = [dataset.name for dataset in PAPER.datasets]
RUNS = {"patch16": (ALL, 224), "patch14": (["voc2012", "nyu_depth_v2"], 518)}


@pytest.mark.parametrize("encoder", RUNS)
def test_papers_suite_runs_and_is_set_beside_the_papers_numbers(encoder: str, data_root: Path, tmp_path: Path) -> None:
    datasets, side = RUNS[encoder]
    (tmp_path / "shallow.py").write_text(SHALLOW)
    suite = small(tmp_path, f"{tmp_path / 'shallow.py'}:{encoder}", datasets, 1)
    done = child("run", suite, "--data-root", data_root, "--out", tmp_path / "out", "--offline")
    assert done.returncode == 0, done.stderr
    records = Store(tmp_path / "out").records()
    assert {r.dataset for r in records} == set(datasets)
    for record in records:
        assert record.n == 1
        assert record.head.recipe["recipe"] == "paper"
        assert record.largest_perturbation <= 8 / 255 + 1e-6
        views = {"classification": f"resized to {side} x {side}", "segmentation": f"windows of {side}, "}
        assert record.head.view.startswith(views.get(record.task, "padded to multiples of"))
        if record.task == "classification":
            assert set(record.metrics) == {"top-1", "k-NN top-1"}
    for dataset in datasets:
        found = {r.attack.name for r in records if r.dataset == dataset}
        (task,) = {r.task for r in records if r.dataset == dataset}
        assert found == {"clean", "noise", "embed"} | OWN[task]
    compared = child("compare", tmp_path / "out", "paper")
    assert compared.returncode == 0, compared.stderr
    assert "Missing here: cifar10: all" in " ".join(compared.stdout.split())


def test_dry_run_shows_the_plan_and_leaves_nothing(data_root: Path, tmp_path: Path) -> None:
    suite = small(tmp_path, "timm:vit_small_patch16_224.random", ["cifar10"], 2)
    done = child("run", suite, "--data-root", data_root, "--out", tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"4 cells, .*about \d+", " ".join(done.stdout.split()))
    assert not (tmp_path / "out").exists()


def test_fetch_says_what_is_there_and_what_is_missing(data_root: Path, tmp_path: Path) -> None:
    suite = small(tmp_path, "timm:vit_small_patch16_224.random", ["cifar10", "voc2012"], 2)
    there = child("fetch", suite, "--data-root", data_root)
    assert there.returncode == 0, there.stderr
    assert there.stdout.count("ready") == 3
    assert " train and " in there.stdout
    missing = child("fetch", suite, "--data-root", tmp_path, "--only", "voc2012")
    assert missing.returncode == 1
    assert "VOCdevkit" in "".join(missing.stdout.split())
    assert "missing: voc2012;" in missing.stderr


def test_fetch_asks_for_all_that_a_run_reads(data_root: Path, tmp_path: Path) -> None:
    """Encoders of transfer, train images that heads are fitted on, and the text tower of templates."""
    encoder = "timm:vit_small_patch16_224.random"
    suite = yaml.safe_load(small(tmp_path, encoder, ["cifar10"], 2).read_text())

    def answer(**changes: object) -> str:
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump({**suite, **changes}))
        done = child("fetch", path, "--data-root", data_root)
        assert done.returncode == 1
        return done.stderr

    assert "missing: timm:no_such_model;" in answer(transfer_from=["timm:no_such_model"])
    texts = {**suite["head"], "zero_shot": "templates"}
    assert f"missing: {encoder};" in answer(head=texts)
    for path in (data_root / "cifar10").rglob("*train*"):
        path.rename(path.with_name(path.name.replace("train", "kept")))
    try:
        assert "missing: cifar10;" in answer()
    finally:
        for path in (data_root / "cifar10").rglob("*kept*"):
            path.rename(path.with_name(path.name.replace("kept", "train")))


def test_only_narrows_a_suite_and_a_pattern_without_a_match_is_an_error() -> None:
    assert [d.name for d in narrowed(PAPER, ["cifar*"]).datasets] == ["cifar10", "cifar100"]
    assert narrowed(PAPER, ["dinov2*", "ade20k"]).encoders == ("dinov2_vits14", "dinov2_vitb14")
    both = narrowed(PAPER, ["embed", "stl10"])
    assert [a.name for a in both.attacks or ()] == ["embed"]
    assert both.encoders == PAPER.encoders
    done = child("run", "paper", "--only", "imagenet")
    assert done.returncode == 1
    assert "--only imagenet matches nothing of suite paper" in done.stderr
