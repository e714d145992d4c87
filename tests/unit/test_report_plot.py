"""Plots as files, and the page over HTTP."""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from robustprobe.core.errors import UserError
from robustprobe.report.charts.plot import write_plot
from robustprobe.report.page.serve import PageServer
from robustprobe.results.store import Store
from tests.unit.test_report_page import DAMAGED, SURVIVED, add_choices, fill
from tests.unit.test_report_tables import AWKWARD, PLAIN, checkpoints_of, records_of

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    epochs = [r for k in (1, 2) for r in checkpoints_of(f"x-{k}", k)]
    fill(Store(folder), [*records_of(PLAIN), *records_of(AWKWARD)])
    fill(Store(folder), epochs, examples=False)
    return folder


@pytest.mark.parametrize("kind", ["profile", "eps", "pareto", "heatmap", "curve", "examples"])
def test_every_kind_is_an_svg_on_white_with_names(folder: Path, tmp_path: Path, kind: str) -> None:
    text = write_plot([folder], kind, tmp_path / f"{kind}.svg").read_text()
    assert text.startswith("<svg")
    assert 'fill="white"' in text
    assert "<script>" not in text
    assert "var(--" not in text
    assert (PLAIN if kind != "curve" else "epoch of hardening") in text


def test_png_and_pdf_are_what_they_say(folder: Path, tmp_path: Path) -> None:
    with Image.open(write_plot([folder], "pareto", tmp_path / "new" / "a.png")) as image:
        assert image.width > 1000
    assert write_plot([folder], "pareto", tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_example_images_say_why_they_were_chosen(tmp_path: Path) -> None:
    store = fill(Store(tmp_path / "results"), records_of(PLAIN))
    add_choices(store, [("hurt", (DAMAGED,)), ("safe", (SURVIVED,))])
    one, two = (write_plot([store.folder], "examples", tmp_path / f"{n}.svg", n).read_text() for n in (1, 2))
    assert "drawn at random" in one
    assert "hurt" not in one
    assert f"most damaged in depth by depthpgd 8/255 on {PLAIN}" in two
    assert "safe" not in two


def test_wrong_wishes_are_the_users_to_mend(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown kind of plot 'epz'. Did you mean 'eps'"):
        write_plot([folder], "epz", tmp_path / "a.svg")
    with pytest.raises(UserError, match="0 samples leave no image"):
        write_plot([folder], "examples", tmp_path / "a.svg", 0)
    with pytest.raises(UserError, match=r"ends in '.jpg'; give a file that ends in .svg, .png, .pdf"):
        write_plot([folder], "eps", tmp_path / "a.jpg")
    bare = fill(Store(tmp_path / "bare"), records_of(PLAIN), examples=False).folder
    for kind in ("curve", "examples"):
        with pytest.raises(UserError, match=f"nothing to draw as {kind}"):
            write_plot([bare], kind, tmp_path / "a.svg")


@pytest.fixture
def server() -> Iterator[PageServer]:
    with PageServer("<p>ä</p>".encode()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_page_is_served_on_loopback_alone(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.server_port}/"
    assert ask(server, "/") == (200, "<p>ä</p>".encode())
    assert ask(server, "/", "HEAD") == (200, b"")


@pytest.mark.parametrize("path", ["/../etc/passwd", "//etc/passwd", "/%2e%2e/etc/passwd", "/cells", "/?x"])
def test_nothing_else_is_served(server: PageServer, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_other_names_of_this_machine_are_refused(server: PageServer) -> None:
    assert ask(server, "/", Host="evil.example:80")[0] == 403
    assert ask(server, "/", Host=f"localhost:{server.server_port}")[0] == 200


def test_nothing_can_be_sent(server: PageServer) -> None:
    assert ask(server, "/", "POST")[0] == 501
