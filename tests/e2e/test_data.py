"""`robustprobe data`: what its user sees."""

from collections.abc import Callable
from pathlib import Path

import pytest

from robustprobe.core.registry import datasets
from tests.e2e.program import Answer
from tests.folders import LAYOUTS, write_ade20k, write_segfolder

pytestmark = pytest.mark.e2e

Call = Callable[..., Answer]
PINNED = [f"test-{row:05d}" for row in (0, 1, 5, 7, 8, 19, 22, 26, 33, 34)]


def test_a_subset_is_shown_with_its_terms_and_counts(call: Call, tmp_path: Path) -> None:
    write_ade20k(tmp_path / "ade20k", train=20)
    done = call("data", "check", "ade20k", "--data-root", tmp_path)
    assert done.code == 0, done.err
    for text in ("licence: ", "cite: Zhou et al.", "20,210", "note: test: found 4 of 2,000 images: a subset"):
        assert text in done.out
    assert "nothing wrong was found in the sample; --full reads every image" in done.out
    assert "nothing wrong was found." in call("data", "check", "ade20k", "--data-root", tmp_path, "--full").out


def test_what_is_wrong_ends_with_1_and_one_message(call: Call, tmp_path: Path) -> None:
    folder = write_ade20k(tmp_path / "ade20k")
    (folder / "annotations" / "validation" / "ADE_val_00000003.png").unlink()
    done = call("data", "check", "ade20k", "--data-root", tmp_path)
    assert done.code == 1
    assert "robustprobe: ade20k is not as expected. test: " in done.err
    assert "ADE_val_00000003.jpg has no label map" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", [n for n in LAYOUTS if not getattr(datasets.get(n), "generated", False)])
def test_nothing_there_ends_with_1_and_the_layout(call: Call, tmp_path: Path, name: str) -> None:
    own = getattr(datasets.get(name), "by_path", False)
    done = call("data", "check", f"{name}:{tmp_path}" if own else name, "--data-root", tmp_path)
    assert done.code == 1
    assert "expected" in done.err.lower()
    assert "Traceback" not in done.err
    assert "official" not in done.out


def test_ones_own_folder_is_checked(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_segfolder(tmp_path, {"train": 10, "test": 2})
    done = call("data", "check", f"segfolder:{tmp_path}")
    assert done.code == 0, done.err
    assert "3 of 3 classes" in done.out


def test_ids_of_a_limit_are_printed(call: Call, tmp_path: Path) -> None:
    LAYOUTS["cifar10"](tmp_path)
    done = call("data", "ids", "cifar10", "--limit", 10, "--data-root", tmp_path)
    assert done.code == 0, done.err
    # Pinned: a number is only comparable with another on the same images, one of each class here.
    assert done.out.split() == PINNED
    assert sorted(int(name[-2:]) % 10 for name in PINNED) == list(range(10))


def test_download_shows_terms_before_it_declines(call: Call, tmp_path: Path) -> None:
    done = call("data", "download", "cityscapes", "--data-root", tmp_path)
    assert done.code == 1
    assert "licence: non-commercial research" in done.out
    assert "see https://www.cityscapes-dataset.com" in done.err
    assert list(tmp_path.iterdir()) == []


def test_doctor_and_list_do_without_data(call: Call, tmp_path: Path) -> None:
    done = call("doctor", "--data-root", tmp_path)
    assert done.code == 0, done.err
    found = " ".join(done.out.split())
    assert "your own data: segfolder:PATH" in found
    assert "[plain_text/]{train,test}-*.parquet" in found
    assert {"imagenet", "ade20k"} <= set(call("list", "datasets").out.split())


@pytest.mark.parametrize("words", [("data",), ("data", "check", "--help"), ("data", "download", "--help")])
def test_help_is_there(call: Call, words: tuple[str, ...]) -> None:
    done = call(*words)
    assert done.code == 0
    assert "Usage: robustprobe data" in done.out
