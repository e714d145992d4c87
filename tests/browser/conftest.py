"""The page in a headless Chromium with the network off; skipped where there is no Chromium, driver or selenium."""

import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from robustprobe.report.leaderboard import write_leaderboard
from robustprobe.report.page.render import write_page
from robustprobe.results.records import Interval, Record
from robustprobe.results.store import Store
from tests.unit.test_report_page import DAMAGED, SURVIVED, add_choices, fill
from tests.unit.test_report_tables import AWKWARD, PLAIN, records_of

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"),
)
LONG = "timm:" + "vit_giant_patch14_reg4_" * 6 + "dinov2.lvd142m"
Browser = Any


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver")
    driver = shutil.which("chromedriver")
    if not CHROMIUM or driver is None:
        pytest.skip("chromium and its driver are not here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    service = webdriver.chrome.service.Service(driver)
    started = webdriver.Chrome(options=options, service=service)
    yield started
    started.quit()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Browser]]:
    """Opens a file at a width and in a theme; afterwards the console must be empty and no address asked for."""

    def open_page(path: Path, width: int = 1440, theme: str = "light") -> Browser:
        browser.get_log("browser")
        browser.get_log("performance")
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": theme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.get(path.as_uri())
        return browser

    yield open_page
    complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert complaints == []
    asked = [
        entry["message"] for entry in browser.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert not [message for message in asked if '"url":"http' in message]


def broken(records: list[Record]) -> list[Record]:
    nothing = Interval(value=math.nan, ci_low=math.nan, ci_high=math.nan)
    return [r.model_copy(update={"metrics": {r.metric: nothing}}) if r.attack.name == "pgd" else r for r in records]


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoders with awkward and endless names, one without a number, one without a task."""
    folder = tmp_path_factory.mktemp("results") / "one"
    whole = [*records_of(AWKWARD, -0.01), *records_of(PLAIN), *records_of(f"{PLAIN}-deacl", -0.1)]
    fill(Store(folder), whole)
    partial = [r for r in records_of("partial") if r.task != "depth"]
    fill(Store(folder), [*records_of(LONG, -0.05), *broken(records_of("broken")), *partial], examples=False)
    return folder


@pytest.fixture(scope="session")
def page(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(results, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture(scope="session")
def damaged_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with images chosen by damage."""
    store = fill(Store(tmp_path_factory.mktemp("damaged")), records_of(PLAIN))
    add_choices(store, [("safe", (SURVIVED,)), ("hurt", (DAMAGED,))])
    return write_page(store.folder, store.folder / "page.html")


@pytest.fixture(scope="session")
def site(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_leaderboard(results.parent, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of axe-core, fetched with npm."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("npm is not here, so axe-core cannot be fetched")
    command = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"axe-core could not be fetched: {done.stderr[-200:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()
