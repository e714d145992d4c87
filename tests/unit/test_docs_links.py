"""Links between the Markdown files of the repository lead to files and headings that exist."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(```+|~~~+).*?^\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
GENERATED = {ROOT / "docs/reference/command-line.md"}

pytestmark = pytest.mark.unit


def pages() -> list[Path]:
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
    written = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts]
    return found + [path for path in written if path not in GENERATED]


def headings(page: Path) -> set[str]:
    """The anchors of a page, made as GitHub and MyST make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain}


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere."""
    wrong = []
    for target, anchor in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        missing = not path.exists() and path not in GENERATED
        lost = anchor and path.suffix == ".md" and path.exists() and anchor not in headings(path)
        if missing or lost:
            wrong.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    return wrong


def test_every_link_leads_somewhere() -> None:
    assert [link for page in pages() for link in broken(page, page.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](#no-such-heading)", "[a](docs/index.md#no-such-heading)"])
def test_a_broken_link_is_found(link: str) -> None:
    assert len(broken(ROOT / "README.md", link)) == 1


def test_links_in_examples_are_not_links() -> None:
    assert broken(ROOT / "README.md", "```\n[a](nowhere.md)\n```\n") == []


def test_every_page_is_in_the_navigation() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8").splitlines()
    found = {
        page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in pages() if ROOT / "docs" in page.parents
    }
    assert sorted(found - {"index"} - set(index)) == []


def test_every_place_that_code_names_exists() -> None:
    listed = subprocess.run(
        ["git", "grep", "-hoE", r"docs/[a-z-]+/[a-z-]+\.(md|png)"], cwd=ROOT, capture_output=True, text=True
    )
    named = {ROOT / name for name in listed.stdout.split()}
    assert named
    assert sorted(path for path in named - GENERATED if not path.exists()) == []
