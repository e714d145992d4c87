"""What `rp.evaluate` and `rp.load_results` give: a data frame that shows itself, on stores made by hand."""

import copy
import gc
import pickle
import re
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

import robustprobe as rp
from robustprobe.api.results import kept_while_used
from robustprobe.core.notebook import CaptionedPicture, card_html
from robustprobe.report.tables.results import KEYS
from robustprobe.report.tables.tidy import ROW_KEYS
from robustprobe.results.records import CheckFact
from robustprobe.results.store import Store
from tests.unit.test_compare import classified, fill

pytestmark = pytest.mark.unit
HOSTILE = "<script>alert(1)</script>&\"'"


def made(folder: Path, encoder: str = "a:a", right: int = 1) -> Store:
    failed = CheckFact(name="zero gradient", value=1, passed=False, meaning="hidden gradients")
    clean, attacked = np.ones(8, dtype=int), np.array([1] * right + [0] * (8 - right))
    return fill(
        folder,
        classified(clean, name="clean", encoder=encoder),
        classified(attacked, encoder=encoder, checks=(failed,)),
        classified(clean, name="segpgd", encoder=encoder, target_task="segmentation"),
    )


def test_results_are_a_data_frame_with_the_images_behind_it(tmp_path: Path) -> None:
    result = rp.load_results(made(tmp_path).folder)
    assert isinstance(result, pd.DataFrame)
    assert tuple(result.columns) == KEYS
    assert list(result["attack"]) == ["clean", "pgd"]
    assert list(rp.load_results(tmp_path, transfer=True)["attack"]) == ["clean", "pgd", "segpgd"]
    rows = result.rows()
    assert tuple(rows.columns) == ROW_KEYS
    assert rows.groupby("attack")["score"].mean().to_dict() == {"clean": 1.0, "pgd": 0.125}
    assert len(result.rows(transfer=True)) == 24
    assert r"\toprule" in result.to_latex()
    assert r"\toprule" in rp.load_results(tmp_path, transfer=True).to_latex(layout="paper")
    with pytest.raises(rp.UserError, match="no attacks made for other tasks"):
        result.to_latex(layout="paper", transfer=True)
    with pytest.raises(rp.UserError, match="no results in"):
        rp.load_results(tmp_path / "nowhere")


def test_what_is_made_from_results_is_a_plain_frame(tmp_path: Path) -> None:
    result = rp.load_results(made(tmp_path).folder)
    for frame in (
        result[["value"]],
        result[result["value"] > 0],
        result.copy(),
        copy.deepcopy(result),
        result.table(),
        pickle.loads(pickle.dumps(result)),
        pd.concat([result, result]),
    ):
        assert type(frame) is pd.DataFrame
        assert "value" in frame


def test_results_say_what_was_found_in_words(tmp_path: Path) -> None:
    text = str(rp.load_results(made(tmp_path).folder))
    assert "2 numbers of a:a" in text
    assert "clean score" in text
    assert len(text.splitlines()) <= 3
    assert len(text) < 600


def test_several_folders_are_read_as_one(tmp_path: Path) -> None:
    stores = made(tmp_path / "a"), made(tmp_path / "b", "b:b", right=4)
    result = rp.load_results(*(store.folder for store in stores))
    assert result.groupby("encoder")["value"].min().to_dict() == {"a:a": 0.125, "b:b": 0.5}
    assert result.rows().groupby("encoder").size().to_dict() == {"a:a": 16, "b:b": 16}
    with pytest.raises(rp.UserError, match="takes one folder a side, not 2"):
        rp.compare(result, "paper")


def test_a_part_of_a_folder_is_shown_alone(tmp_path: Path) -> None:
    store = made(tmp_path / "a")
    (wanted,) = [r.fingerprint for r in store.records() if r.attack.name == "clean"]
    result = rp.Results([Store(store.folder, {wanted})])
    assert list(result["attack"]) == ["clean"]
    assert set(result.rows()["attack"]) == {"clean"}
    page = result.report(tmp_path / "page.html").read_text()
    assert "hidden gradients" not in page


def test_a_notebook_shows_intervals_and_escapes_everything(tmp_path: Path) -> None:
    html = rp.load_results(made(tmp_path, HOSTILE).folder)._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<table") == html.count("</table>") == 1
    cells = [" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in re.findall("<td.*?</td>", html, re.DOTALL)]
    assert cells[0] == "1.000 [0.950, 1.050]"
    assert cells[1] == "0.125 †1 [0.075, 0.175]"
    assert "†1 zero gradient, 1 number: hidden gradients" in html


def test_cards_escape_everything() -> None:
    html = card_html(HOSTILE, {HOSTILE: HOSTILE}, [[CaptionedPicture(HOSTILE, HOSTILE)]])
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 6


def test_results_compare_plot_and_report_as_folders_do(tmp_path: Path) -> None:
    first, second = (rp.load_results(made(tmp_path / n, n, k).folder) for n, k in (("a", 1), ("b", 8)))
    compared = rp.compare(first, second, encoders=["a", "b"])
    assert "b is more robust than a" in " ".join(compared.verdict)
    assert compared.verdict[0] in str(compared)
    assert set(compared.table()["finding"]) == {"better", "equal"}
    assert "b is more robust than a" in compared._repr_html_().partition("<table")[0]
    assert rp.compare(tmp_path / "a", str(tmp_path / "b"), encoders=["a", "b"]).verdict == compared.verdict
    with pytest.raises(rp.UserError, match="nothing to compare with"):
        rp.compare(first)
    chart = rp.plot(first, "eps", tmp_path / "eps.png")
    assert (tmp_path / "eps.png").read_bytes().startswith(b"\x89PNG")
    assert chart._repr_svg_().startswith("<svg")
    assert chart.save(tmp_path / "eps.svg").exists()
    for given in (first, tmp_path / "a", [str(tmp_path / "a")]):
        assert rp.write_report(given, tmp_path / "page.html").read_text().count("hidden gradients") > 0
    with pytest.raises(rp.UserError, match="neither a number of images nor"):
        first.report(tmp_path / "page.html", samples="some")  # type: ignore[arg-type]
    with pytest.raises(rp.UserError, match="unknown kind of plot 'epz'"):
        rp.plot(first, "epz")  # type: ignore[arg-type]


def test_show_prints_the_tables_where_there_is_no_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rp.load_results(made(tmp_path).folder)
    rp.show(result)
    shown = capsys.readouterr().out
    assert "0.125 [0.075, 0.175] †1" in shown
    assert " ".join(result.headline.split()) in " ".join(shown.split())
    rp.show(rp.compare(result, "paper"))
    assert capsys.readouterr().out.startswith("Comparison of")


def test_temporary_results_go_with_the_last_who_holds_them(tmp_path: Path) -> None:
    folder = made(tmp_path / "temporary").folder
    result = kept_while_used(rp.load_results(folder), folder)
    assert folder.exists()
    del result
    gc.collect()
    assert not folder.exists()


def test_load_results_does_not_import_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = f"import sys, robustprobe as rp; print(rp.load_results({str(made(tmp_path).folder)!r})); "
    program += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_results_in_memory_are_compared_without_the_names_of_temporary_folders() -> None:
    quick: dict[str, Any] = {"tasks": "classification", "limit": 8, "head": {"train_limit": 32}}
    quick |= {"examples": 0, "extreme_examples": 0, "sanity_images": 0, "progress": False}
    one, other = (rp.evaluate(f"bundled:{name}", "scenes", "clean", **quick) for name in ("scenes", "photos"))
    compared = rp.compare(one, other, encoders=["bundled:scenes", "bundled:photos"])
    html = cast(Any, compared)._repr_html_()
    shown = [html, compared.to_latex(), *compared.verdict]
    assert "first: bundled:scenes, results of bundled:scenes" in html
    with pytest.raises(rp.UserError) as unnamed:
        rp.compare(one, other)
    with pytest.raises(rp.UserError) as unknown:
        rp.compare(one, other, encoders=["bundled:scenes", "bundled:scenes"])
    with pytest.raises(rp.UserError) as alone:
        rp.compare(one)
    assert "rp.compare(first, second, encoders=['bundled:scenes', 'bundled:photos'])" in str(unnamed.value)
    shown += [str(error.value) for error in (unnamed, unknown, alone)]
    assert not [text for text in shown if tempfile.gettempdir() in text or "robustprobe-" in text]
