"""Errors name the page of the documentation that explains what went wrong."""

from pathlib import Path

import pytest

import robustprobe
from robustprobe.core.errors import PAGES, UserError
from robustprobe.datasets import load_dataset
from robustprobe.encoders import load_encoder
from robustprobe.results.store import Store

pytestmark = pytest.mark.unit
SOURCE = Path(robustprobe.__file__).parent
DOCS = SOURCE.parents[1] / "docs"


def test_every_page_and_every_part_of_the_package_exists() -> None:
    assert [page for page in PAGES.values() if not (DOCS / page).is_file()] == []
    places = [SOURCE / name.replace(".", "/") for name in PAGES]
    assert [place for place in places if not (place.is_dir() or place.with_suffix(".py").is_file())] == []


def test_an_error_names_the_page_of_the_part_that_raised_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_dataset("imagefolder:nowhere", root=tmp_path)
    assert error.value.page == "guides/data.md"
    with pytest.raises(UserError) as error:
        load_encoder("bundled:scene")
    assert error.value.page == "guides/encoders.md"
    with pytest.raises(UserError) as error:
        Store(tmp_path / "nowhere").records()
    assert error.value.page == "reference/results.md"


def test_an_error_from_elsewhere_names_none() -> None:
    assert UserError("a mistake").page == ""
    with pytest.raises(UserError) as error:
        raise UserError("a mistake")
    assert error.value.page == ""
