"""Every mistake of the user's: exit code 1, one message that helps, no traceback, nothing half written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.program import Answer, child

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]
SMALL = "encoders: ['bundled:scenes']\ndatasets: [{name: scenes, limit: 4}]"


def assert_mistake(answer: Answer, *words: str) -> None:
    assert answer.code == 1
    assert "Traceback" not in answer.err + answer.out
    message = " ".join((answer.err + answer.out).split())
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--encoder", "bundled:scene"], ["unknown bundled encoder", "Did you mean 'scenes'?"]),
        (["--encoder", "scenes"], ["names no encoder source", "bundled:"]),
        (["--encoder", "hubb:x"], ["unknown encoder source"]),
        (["--encoder", "missing.py:Tiny"], ["no file missing.py"]),
        (["--encoder", "file:nowhere"], ["no nowhere/card.json"]),
        (["--dataset", "scenez"], ["unknown dataset", "Did you mean 'scenes'?"]),
        (["--dataset", "cifar10"], ["no data/cifar10", "--data-root"]),
        (["--dataset", "camvid"], ["no data/camvid;", "{train,val,test}.txt"]),
        (["--attack", "pdg"], ["unknown attack", "Did you mean 'pgd'?"]),
        (["--eps", "-1/255"], ["is no size", "8/255"]),
        (["--eps", "8/0"], ["divides by zero"]),
        (["--eps", "8"], ["outside [0, 1]", "8/255"]),
        (["--eps", "eight"], ["not a number"]),
        (["--limit", "0"], ["limit 0 leaves no image"]),
        (["--image-size", "0"], ["size", "greater than 0"]),
        (["--steps", "0"], ["steps", "greater than or equal to 1"]),
        (["--device", "tpu9"], ["device 'tpu9'"]),
        (["--zero-shot", "texts.safetensors"], ["no file texts.safetensors", "metadata 'classes'"]),
        (["--bogus", "1"], ["--bogus"]),
    ],
)
def test_wrong_options(call: Call, my_encoder: Path, tmp_path: Path, options: list[str], words: list[str]) -> None:
    base = {"--encoder": f"{my_encoder}:Tiny", "--dataset": "scenes", "--limit": "4", "--out": str(tmp_path / "out")}
    base |= dict(zip(options[::2], options[1::2], strict=True))
    answer = call("run", *(part for pair in base.items() for part in pair))
    assert_mistake(answer, *words)
    assert not list((tmp_path / "out").rglob("*.json"))


def test_an_attack_without_a_task_it_fits(call: Call, my_encoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cifar10"
    path.mkdir()
    answer = call(
        "run", "--encoder", f"{my_encoder}:Tiny", "--dataset", "cifar10", "--attack", "segpgd", "--out", tmp_path / "o"
    )
    assert_mistake(answer, "attack segpgd needs segmentation labels")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("encoders: [a", ["cannot be read as YAML"]),
        ("encoderz: []", ["unknown key encoderz", "Did you mean 'encoders'?"]),
        ("just words", ["suite.yaml cannot be used: expected keys with values"]),
        ("encoders: ['bundled:scenes']\ndatasets: []", ["datasets"]),
        (f"{SMALL}\nhead: fast", ["head.kind: expected 'linear' or 'mlp', got 'fast'"]),
        ("encoders: ['bundled:scenes']\ndatasets: [{name: scenes}]\neps: [-1]", ["eps"]),
    ],
)
def test_wrong_suite_files(call: Call, tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    assert_mistake(call("run", path, "--out", tmp_path / "out"), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("harmed: 2", ["harmed is called extreme_examples now; write extreme_examples"]),
        ("checks: 4", ["checks is called sanity_images now; write sanity_images"]),
        ("head: {neighbours: 5}", ["head.neighbours is called knn now; write knn"]),
        ("attacks: [layout]", ["attack 'layout' is called 'surrogate' now; write surrogate"]),
        ("attacks: [clean, worst]", ["attack 'worst' is called 'ensemble' now; write ensemble"]),
        ("attacks: [{name: smallest, steps: 5}]", ["attack 'smallest' is called 'min-eps' now; write min-eps"]),
    ],
)
def test_former_names_in_suite_files_get_todays(call: Call, tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(f"{SMALL}\n{text}")
    assert_mistake(call("run", path, "--out", tmp_path / "out"), *words)
    assert not list((tmp_path / "out").rglob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "demo", "--harmed", "2"], "--harmed is called --extreme-examples now"),
        (["run", "demo", "--harmed=2"], "--harmed is called --extreme-examples now"),
        (["run", "demo", "--checks", "0"], "--checks is called --sanity-images now"),
        (["run", "demo", "--attack", "worst"], "attack 'worst' is called 'ensemble' now"),
        (["curve", "folder", "--checks", "0"], "--checks is called --sanity-images now"),
        (["harden", "--protect", "both"], "--protect is called --tokens now"),
        (["harden", "--directions", "8"], "--directions is called --feature-rank now"),
    ],
)
def test_former_names_of_options_get_todays(call: Call, tmp_path: Path, arguments: list[str], words: str) -> None:
    assert_mistake(call(*arguments, "--out", tmp_path / "out"), words)
    assert not list(tmp_path.rglob("*.json"))


def test_a_suite_that_is_not_there(call: Call, tmp_path: Path) -> None:
    assert_mistake(call("run", "dmo", "--out", tmp_path), "unknown suite 'dmo'", "Did you mean 'demo'?")
    assert_mistake(call("run", tmp_path / "no.yaml", "--out", tmp_path), "no suite file")


def test_nothing_named(call: Call) -> None:
    assert_mistake(call("run"), "no encoders named")


def test_a_class_that_is_no_encoder(call: Call, my_encoder: Path, tmp_path: Path) -> None:
    answer = call("run", "--encoder", f"{my_encoder}:NotAnEncoder", "--dataset", "scenes", "--out", tmp_path / "out")
    assert_mistake(answer, "not a subclass of robustprobe.Encoder")


def test_an_encoder_that_answers_nan(call: Call, my_encoder: Path, tmp_path: Path) -> None:
    options = ["--encoder", f"{my_encoder}:Blind", "--dataset", "scenes", "--limit", "4", "--train-limit", "8"]
    assert_mistake(call("run", *options, "--out", tmp_path / "out"), "NaN")
    assert not list((tmp_path / "out").rglob("*.json"))


def test_an_output_that_cannot_be_written(call: Call, my_encoder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    answer = call("run", "--encoder", f"{my_encoder}:Tiny", "--dataset", "scenes", "--out", blocked)
    assert_mistake(answer, "results cannot be written", "--out")
    assert blocked.read_text() == "in the way"


def test_results_that_are_not_there(call: Call, tmp_path: Path) -> None:
    assert_mistake(call("table", tmp_path), "no results in")
    assert_mistake(call("report", tmp_path), "no results in")
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "x.json").write_text("{}")
    assert_mistake(call("table", tmp_path), "x.json", "cannot be read")


def test_a_page_that_cannot_be_written(call: Call, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_mistake(call("report", finished, "-o", tmp_path / "file" / "page.html"), "page.html")


def test_a_corrupt_image_in_the_middle(call: Call, my_encoder: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    folder = tmp_path / "data" / "camvid"
    folder.mkdir(parents=True)
    for split, count in (("train", 12), ("val", 4)):
        for name in (split, f"{split}annot"):
            (folder / name).mkdir()
        lines = []
        for i in range(count):
            colours = np.random.default_rng(i).integers(0, 255, (360, 480, 3), dtype=np.uint8)
            Image.fromarray(colours).save(folder / split / f"{i}.jpg")
            Image.fromarray(colours[..., 0] % 12).save(folder / f"{split}annot" / f"{i}.png")
            lines.append(f"{split}/{i}.jpg {split}annot/{i}.png")
        (folder / f"{split}.txt").write_text("\n".join(lines))
    (folder / "val" / "2.jpg").write_bytes(b"not a picture")
    options = ["--encoder", f"{my_encoder}:Tiny", "--dataset", "camvid", "--data-root", tmp_path / "data"]
    answer = call("run", *options, "--steps", 1, "--batch-size", 2, "--out", tmp_path / "out")
    assert_mistake(answer, "image 2 cannot be read", "Replace the file")
    assert not (tmp_path / "out").exists(), "a run that wrote no number leaves no folder"


def test_as_a_process_too(tmp_path: Path) -> None:
    done = child("run", "--encoder", "bundled:scene", "--dataset", "scenes", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("robustprobe: unknown bundled encoder")
    assert done.stderr.endswith("(More: docs/guides/encoders.md)\n")
