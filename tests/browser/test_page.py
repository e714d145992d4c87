"""The page as people use it: sorting, filtering, the viewer, downloads, narrow screens, themes and no scripts."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustprobe.report.charts.series import LEGIBLE, shortened
from robustprobe.report.page.render import render_page
from tests.browser.conftest import LONG, Browser
from tests.unit.test_report_page import clean_image, delta_of
from tests.unit.test_report_tables import AWKWARD, PLAIN, attack, make_record

pytestmark = pytest.mark.browser
Opened = Callable[..., Browser]
DRAWN = "return document.querySelector('.viewer').dataset.shown || ''"


def all_texts(browser: Browser, selector: str) -> list[str]:
    """The text of every element that is not hidden."""
    script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent).map(e => e.textContent)"
    return [text.strip() for text in browser.execute_script(script, selector)]


def find(browser: Browser, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def wait(browser: Browser, script: str, wanted: Callable[[Any], bool], *arguments: object) -> Any:
    for _ in range(100):
        if wanted(found := browser.execute_script(script, *arguments)):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{script} stayed {found!r}")


def redrawn(browser: Browser, act: Callable[[], object]) -> None:
    """Acts, and waits until the viewer has drawn what came of it."""
    before = wait(browser, DRAWN, bool)
    act()
    wait(browser, DRAWN, lambda shown: shown != before)


def set_range(browser: Browser, name: str, value: int) -> None:
    script = (
        "const e = document.querySelector(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(script, f".viewer .{name}", value)


def pixels(browser: Browser, selector: str) -> Any:
    script = """
        const canvas = document.querySelector(arguments[0]);
        return [canvas.width, ...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
    """
    width, *data = browser.execute_script(script, selector)
    return np.array(data).reshape(-1, width, 4)[..., :3]


def choose(browser: Browser, name: str, text: str) -> None:
    script = """
        const select = document.querySelector(arguments[0]);
        select.value = arguments[1];
        select.dispatchEvent(new Event('change'));
    """
    browser.execute_script(script, f".viewer .{name}", text)


def test_names_stay_text(opened: Opened, page: Path) -> None:
    browser = opened(page)
    assert AWKWARD in all_texts(browser, ".board tbody th")
    assert browser.execute_script("return document.scripts.length") == 2


def test_headings_sort_and_incomplete_rows_stay_apart(opened: Opened, page: Path) -> None:
    browser = opened(page)
    ranked = ".board .ranked th"
    assert all_texts(browser, ranked) == [PLAIN, AWKWARD, shortened(LONG, LEGIBLE), f"{PLAIN}-deacl"]
    robust, encoder = (f".board .keys th:nth-child({k}) button" for k in (3, 1))
    find(browser, robust).click()
    assert all_texts(browser, ranked)[0] == PLAIN, "what is best comes first"
    assert find(browser, ".board .keys th:nth-child(3)").get_attribute("aria-sort") == "descending"
    find(browser, robust).click()
    assert all_texts(browser, ranked)[0] == f"{PLAIN}-deacl"
    find(browser, encoder).click()
    assert all_texts(browser, ranked)[0] == PLAIN
    apart = all_texts(browser, ".board .incomplete th")
    assert apart[0].startswith("Not ranked")
    assert [name.partition("missing:")[0] for name in apart[1:]] == ["broken", "partial"]


def test_a_missing_number_sorts_last_both_ways(opened: Opened, page: Path) -> None:
    browser = opened(page)
    rows = ".board .incomplete tr:not(.apart) th"
    column = browser.execute_script(
        "return [...document.querySelectorAll('.keys th')].findIndex(e => e.textContent === 'depthpgd') + 1"
    )
    for _ in range(2):
        find(browser, f".board .keys th:nth-child({column}) button").click()
        assert [name.partition("missing:")[0] for name in all_texts(browser, rows)] == ["broken", "partial"]


def test_encoders_and_tasks_can_be_filtered(opened: Opened, page: Path) -> None:
    browser = opened(page)
    find(browser, ".filters .find").send_keys(LONG[20:-20])
    assert all_texts(browser, ".filters .count") == ["1 of 6 shown"], "the whole of a name that is shown in short"
    find(browser, ".filters .find").clear()
    find(browser, ".filters .find").send_keys("DEACL")
    assert all_texts(browser, ".board .ranked th") == [f"{PLAIN}-deacl"]
    assert all_texts(browser, ".filters .count") == ["1 of 6 shown"]
    assert "depthpgd" in " ".join(all_texts(browser, ".board .keys th"))
    browser.find_elements("css selector", ".filters .benchmark")[1].click()
    assert "depthpgd" not in " ".join(all_texts(browser, ".board .keys th"))


def test_the_change_is_the_difference_times_the_slider_around_grey(opened: Opened, page: Path) -> None:
    browser = opened(page)
    redrawn(browser, lambda: choose(browser, "attack", "segpgd"))
    delta = delta_of("segpgd").astype(int)
    assert np.array_equal(pixels(browser, ".card .row.images canvas"), np.clip(128 + 10 * delta, 0, 255))
    redrawn(browser, lambda: set_range(browser, "amplify", 50))
    assert np.array_equal(pixels(browser, ".card .row.images canvas"), np.clip(128 + 50 * delta, 0, 255))
    assert all_texts(browser, ".amplify-text") == ["50"]


def test_changed_pixels_are_white(opened: Opened, page: Path) -> None:
    browser = opened(page)
    redrawn(browser, lambda: choose(browser, "attack", "pgd"))
    size = clean_image().shape[0]
    mask = np.arange(size * size).reshape(size, size) % 5
    expected = np.where(mask != mask[::-1], 255, 40)
    assert np.array_equal(pixels(browser, ".card .row:has(.layers) canvas")[..., 0], expected)


def test_the_viewer_shows_every_encoder_and_what_it_said(opened: Opened, page: Path) -> None:
    browser = opened(page)
    redrawn(browser, lambda: choose(browser, "attack", "pgd"))
    assert sorted(all_texts(browser, ".card h3")) == sorted([PLAIN, AWKWARD, f"{PLAIN}-deacl"])
    words = " ".join(all_texts(browser, ".card")[0].split())
    for said in ("✓ <b>ball</b> (the true class) 0.70", "box 0.90", "IoU", "RMSE", "1.0 m", "8.0 m"):
        assert said in words
    assert "pgd 8/255" in browser.execute_script("return document.querySelector('.words').textContent")


def test_the_viewer_works_by_keyboard(opened: Opened, page: Path) -> None:
    browser = opened(page)
    stage = find(browser, ".stage")
    attack = "return document.querySelector('.viewer .attack').value"
    before = wait(browser, attack, bool)
    redrawn(browser, lambda: stage.send_keys("a"))
    assert browser.execute_script(attack) != before
    redrawn(browser, lambda: stage.send_keys(" "))
    assert find(browser, ".blink").get_attribute("aria-pressed") == "true"
    assert "clean instead" in all_texts(browser, ".card .row.images figcaption")
    redrawn(browser, lambda: stage.send_keys("\ue014"))
    assert "arrow" in stage.get_attribute("aria-label").lower()


def test_images_chosen_by_damage_come_in_groups_and_say_why(opened: Opened, damaged_page: Path) -> None:
    browser = opened(damaged_page)
    wait(browser, DRAWN, bool)
    groups = "return [...document.querySelectorAll('.viewer .image optgroup')].map(e => [e.label, e.textContent])"
    assert browser.execute_script(groups) == [
        ["random", "test-<i>7</i> · <b>ball</b>"],
        ["most damaged", "hurt · <b>ball</b> · depth"],
        ["survived", "safe · <b>ball</b> · depth"],
    ]
    assert all_texts(browser, ".viewer > .why") == ["drawn at random"]
    redrawn(browser, lambda: find(browser, ".stage").send_keys("\ue014"))
    assert all_texts(browser, ".viewer > .why") == [f"most damaged in depth by depthpgd 8/255 on {PLAIN}"]
    redrawn(browser, lambda: choose(browser, "order", "damaged"))
    assert browser.execute_script(groups) == []


def test_the_overlay_follows_its_slider(opened: Opened, page: Path) -> None:
    browser = opened(page)
    wait(browser, DRAWN, bool)
    set_range(browser, "opacity", 25)
    script = "return getComputedStyle(document.querySelector('.layers img + img')).opacity"
    assert float(browser.execute_script(script)) == pytest.approx(0.25)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_the_data_can_be_downloaded(opened: Opened, page: Path, tmp_path: Path, kind: str) -> None:
    browser = opened(page)
    settings = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", settings)
    link = find(browser, f'a[download="robustprobe.{kind}"]')
    browser.execute_script("arguments[0].scrollIntoView()", link)
    link.click()
    file = tmp_path / f"robustprobe.{kind}"
    for _ in range(100):
        if file.exists():
            break
        time.sleep(0.05)
    text = file.read_text()
    assert len(json.loads(text) if kind == "json" else text.splitlines()[1:]) == 5 * 18 + 12


def test_the_eps_of_the_matrix_is_chosen_and_filters_stay(opened: Opened, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    records = [make_record(attack("clean"), 0.8, encoder=name) for name in ("one", "two")]
    records += [make_record(attack("pgd", k / 255), 0.5 - k / 20, encoder=n) for k in (2, 8) for n in ("one", "two")]
    file.write_text(render_page(records), encoding="utf-8")
    browser = opened(file, 375)
    assert "0.100" in " ".join(all_texts(browser, ".board td"))
    assert all_texts(browser, ".more") == ["The table continues to the right: scroll it, or leave tasks out. →"]
    find(browser, ".level .find").send_keys("two")
    browser.find_elements("css selector", ".levels > label")[1].click()
    assert "0.400" in " ".join(all_texts(browser, ".board td"))
    assert "0.100" not in " ".join(all_texts(browser, ".board td"))
    assert all_texts(browser, ".board .ranked th") == ["two"]


def test_no_control_of_the_viewer_lies_under_another_one_on_a_phone(opened: Opened, page: Path) -> None:
    browser = opened(page, 375)
    wait(browser, DRAWN, bool)
    script = """const boxes = [...document.querySelectorAll('.controls select, .controls button, .controls input')]
      .filter(e => e.offsetParent).map(e => e.getBoundingClientRect());
    return boxes.some((a, k) => boxes.slice(k + 1).some(b =>
      a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1))"""
    assert not browser.execute_script(script)


def test_no_chart_is_cut_on_a_wide_screen(opened: Opened, page: Path) -> None:
    script = """
        const charts = [...document.querySelectorAll('figure .scroll')].filter(e => e.querySelector('svg'));
        return charts.map(e => [e.getAttribute('aria-label'), e.scrollWidth - e.clientWidth]);
    """
    beyond = dict(opened(page, 1440).execute_script(script))
    assert len(beyond) > 3
    assert "Chart: Robustness profile" in beyond
    assert {name for name, width in beyond.items() if width > 0} == set()


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("name", ["page", "damaged_page", "site"])
def test_nothing_is_wider_than_the_screen(
    opened: Opened, request: pytest.FixtureRequest, name: str, width: int
) -> None:
    browser = opened(request.getfixturevalue(name), width)
    if name != "site":
        wait(browser, DRAWN, bool)
    browser.execute_script("for (const e of document.querySelectorAll('details')) e.open = true")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["page", "damaged_page", "site"])
def test_axe_finds_nothing_serious(
    opened: Opened, request: pytest.FixtureRequest, axe: str, name: str, theme: str
) -> None:
    browser = opened(request.getfixturevalue(name), theme=theme)
    if name != "site":
        wait(browser, DRAWN, bool)
    browser.execute_script(axe)
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    serious = [
        (violation["id"], node["html"][:200])
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"][:3]
    ]
    assert serious == []


@pytest.fixture
def without_scripts(browser: Browser) -> Iterator[None]:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    yield
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.usefixtures("without_scripts")
def test_without_scripts_tables_charts_and_images_are_there(opened: Opened, page: Path) -> None:
    browser = opened(page)
    for selector in (".board tbody th", ".chart", ".exhibit[open] .sheet td img", ".exhibit[open] .guesses"):
        assert find(browser, selector).is_displayed(), selector
    for selector in (".viewer", ".filters"):
        assert not find(browser, selector).is_displayed(), selector


def test_the_leaderboard_sorts_and_links_to_pages(opened: Opened, site: Path) -> None:
    browser = opened(site)
    find(browser, ".board .keys th:nth-child(3) button").click()
    link = find(browser, ".board .ranked th a")
    assert link.text.replace("\n", "") == PLAIN
    link.click()
    assert PLAIN in find(browser, "h1").text
