"""A package outside robustprobe adds a task, a dataset, an attack, a defence and an encoder source, a file each."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import torch

import robustprobe as rp
from robustprobe.cli import app
from robustprobe.core.errors import UserError
from robustprobe.core.registry import attacks, datasets, defences, sources, tasks
from robustprobe.report.charts.plot import write_plot
from robustprobe.results.store import Store

pytestmark = pytest.mark.contract

FOLDER = Path(__file__).parents[1] / "outside" / "src" / "outside_probe"
PUBLIC = {"", "core.spec", "core.types", *("attacks", "datasets", "tasks", "defences", "encoders")}
RUN = ["--encoder", "pool:16", "--dataset", "stripes", "--steps", "3", "--limit", "12", "--eps", "16/255"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("outside")
    chosen = [word for name in ("clean", "noise", "embed", "mifgsm", "pgd", "ensemble") for word in ("--attack", name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        app(["run", *RUN, *chosen, "--examples", "2", "--out", str(out / "results")], result_action="return_value")
    return out / "results"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_it_imports_public_names_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("robustprobe"):
            module = (node.module or "").removeprefix("robustprobe").removeprefix(".")
            assert module in PUBLIC
            assert not any(alias.name.startswith("_") for alias in node.names)


def test_every_kind_is_listed_with_its_summary() -> None:
    known = {attacks: "mifgsm", datasets: "stripes", defences: "cosine-fare", sources: "pool", tasks: "absrel"}
    for registry, name in known.items():
        assert name in registry.names()
        assert registry.summary(name)


def test_results_call_things_by_their_registered_names(results: Path) -> None:
    records = Store(results).records()
    assert {r.encoder for r in records} == {"pool:16"}
    assert {r.dataset for r in records} == {"stripes"}
    assert {r.task for r in records} == {"classification", "absrel"}
    made_for = {(r.attack.name, r.target_task) for r in records if r.target_task}
    both = ("classification", "absrel")
    assert made_for == {(name, task) for name in ("mifgsm", "pgd", "ensemble") for task in both}


def test_numbers_say_how_they_are_made_and_what_a_constant_scores(results: Path) -> None:
    for record in Store(results).records():
        assert record.statistic is not None
        assert record.chance is not None
        assert record.headline.ci_low <= record.headline.value <= record.headline.ci_high


def test_attacks_damage_the_outside_task(results: Path) -> None:
    scores = {
        r.attack.name: r.headline.value
        for r in Store(results).records()
        if r.task == "absrel" and r.target_task in ("", "absrel")
    }
    assert scores["mifgsm"] > scores["clean"]
    assert scores["ensemble"] > scores["clean"]


def test_table_page_plots_and_comparison_show_it(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["table", str(results), "--format", "json"], result_action="return_value")
    rows = json.loads(capsys.readouterr().out)
    assert "absrel" in {row["task"] for row in rows}
    app(["report", str(results), "-o", str(tmp_path / "page.html")], result_action="return_value")
    page = (tmp_path / "page.html").read_text()
    assert "Absrel" in page
    assert "mifgsm" in page
    with pytest.raises(UserError, match="a clean score above chance"):  # twelve images show no skill
        write_plot([results], "heatmap", tmp_path / "heatmap.svg")
    for kind in ("eps", "examples"):
        app(["plot", str(results), "--kind", kind, "-o", str(tmp_path / f"{kind}.svg")], result_action="return_value")
    app(["compare", str(results), str(results), "--format", "csv"], result_action="return_value")
    assert "absrel" in capsys.readouterr().out


def test_it_is_attacked_from_python_too() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 3, padding=1), torch.nn.Softplus())
    images, depth = torch.rand(4, 3, 16, 16), 1 + torch.rand(4, 16, 16)
    result = rp.attack(model, images, depth, attack="mifgsm", task="absrel", eps="16/255", steps=5)
    before = rp.attack(model, images, depth, attack="clean", task="absrel", eps=0)
    assert (result.score >= before.score - 1e-6).all()
    assert (result.score > before.score).any()


def test_it_hardens(tmp_path: Path) -> None:
    out = tmp_path / "hard"
    found = rp.harden("bundled:scenes", "stripes", "cosine-fare", epochs=1, out=out, size=(32, 32), limit=16)
    assert found.card.teacher == "bundled:scenes"


DOCS = Path(__file__).parents[2] / "docs" / "guides" / "extending.md"


def test_the_docs_show_the_files_as_they_are() -> None:
    blocks = re.findall(r"```python\n# outside_probe/(\w+)\.py\n(.*?)\n```", DOCS.read_text(), re.DOTALL)
    assert {name for name, _ in blocks} == {path.stem for path in FOLDER.glob("[!_]*.py")}
    for name, text in blocks:
        assert text == (FOLDER / f"{name}.py").read_text().rstrip()
    registered = (FOLDER.parents[1] / "pyproject.toml").read_text()
    assert re.findall(r"```toml\n(.*?)\n```", DOCS.read_text(), re.DOTALL)[0] in registered


def test_the_commands_of_the_docs_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"```shell\n(.*?)\n```", DOCS.read_text(), re.DOTALL)
    for line in commands.splitlines():
        app(shlex.split(line)[1:], result_action="return_value")
    assert len(Store(tmp_path / "results").records()) == 10
    assert rp.load_encoder(f"file:{tmp_path / 'hardened'}").card.teacher == "bundled:scenes"
