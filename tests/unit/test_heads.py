"""Kinds of heads: what they can learn, that none is taken for another, and that tables say which one judged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import robustprobe as rp
from robustprobe.core.errors import UserError
from robustprobe.core.spec import HeadSpec, Suite, load_suite, validated
from robustprobe.core.types import FeatureDims, Features, HeadDesign, LabelSpace
from robustprobe.encoders import Encoder
from robustprobe.probing import FeatureSet, FitJob, fit_probes, train_data, train_heads
from robustprobe.probing.recipes import recipe_of
from robustprobe.report.page.headline import headline
from robustprobe.report.tables.board import board
from robustprobe.report.tables.matrix import task_tables, transfer_matrices
from robustprobe.report.tables.results import render, table_rows
from robustprobe.results.protocol import protocol_name
from robustprobe.results.records import HeadFacts, Record
from robustprobe.results.store import Store
from robustprobe.tasks import TaskRecipe, load_task, task_kind
from tests.conftest import SHORT, SceneProbes, whole
from tests.unit.test_report_tables import attack, make_record, records_of

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
TASKS = ("classification", "segmentation", "depth", "normals")
SPACE = LabelSpace(classes=("no", "yes"))


def exclusive_or() -> FeatureSet:
    """A class that no linear head can tell: whether two features have the same sign."""
    cls = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    patches = torch.zeros(256, 2, 1, 1)
    return FeatureSet(cls, patches, {"classification": (cls[:, 0] * cls[:, 1] > 0).long()}, (1, 1))


def sign_of_the_left() -> FeatureSet:
    """A class per patch that only its left neighbour tells, which no 1x1 convolution sees."""
    patches = torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = (patches[:, 0].roll(1, -1) > 0).long()
    labels[..., 0] = 255
    return FeatureSet(torch.zeros(64, 2), patches, {"segmentation": labels}, (6, 6))


def train_score(name: str, data: FeatureSet, hidden: int) -> float:
    task, design = load_task(name, SPACE), HeadDesign(pooling="cls" if name == "classification" else "patch")
    recipe = TaskRecipe(learning_rates=(1e-2,), epochs=30, batch_size=32, designs=(design._replace(hidden=hidden),))
    (candidate,) = train_heads(FitJob(task, recipe, FeatureDims(2, 2), data, len(data.cls), 0, CPU))
    output = candidate.head(Features(data.cls, data.patches), data.size)
    return float(task.score(task.rows(output, data.targets[name])).nanmean())


@pytest.mark.parametrize(("name", "data"), [("classification", exclusive_or()), ("segmentation", sign_of_the_left())])
def test_an_mlp_learns_what_a_linear_head_cannot(name: str, data: FeatureSet) -> None:
    assert train_score(name, data, hidden=0) < 0.65
    assert train_score(name, data, hidden=32) > 0.9


def test_rates_that_break_a_hidden_layer_are_left_out_and_given_ones_are_kept() -> None:
    def rates(task: str, **fields: Any) -> tuple[float, ...]:
        return recipe_of(HeadSpec(**fields), task_kind(task)).learning_rates

    assert rates("classification", kind="mlp") == (1e-3, 1e-2)
    assert rates("classification", kind="mlp", recipe="paper") == (1e-3,)
    assert rates("classification", kind="mlp", recipe="standard") == rates("classification", recipe="standard")
    assert rates("depth", kind="mlp", recipe="standard") == (3e-4,)
    assert rates("classification", kind="mlp", learning_rates=(0.5,)) == (0.5,)
    assert rates("classification") == (1e-3, 1e-2, 1e-1)


@pytest.mark.parametrize("recipe", ["fast", "standard", "paper"])
def test_mlp_heads_of_every_task_are_fitted_cached_and_not_the_linear_ones(recipe: Any, tiny_encoder: Encoder) -> None:
    names = [name for name in TASKS if recipe in task_kind(name).recipes]
    data = train_data("scenes", Path("nowhere"), whole((16, 16)), SHORT)
    fields: dict[str, Any] = {"recipe": recipe, "train_limit": 24, "epochs": 1, "batch_size": 8}
    linear, first, again = (
        fit_probes(tiny_encoder, data, names, spec=HeadSpec(kind=kind, **fields), device=CPU)
        for kind in ("linear", "mlp", "mlp")
    )
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for name in names:
        answers: list[Tensor] = [found[name][0](images) for found in (linear, first, again)]
        assert (linear[name][1].design.hidden, first[name][1].design.hidden) == (0, 256)
        assert torch.equal(answers[1], answers[2])
        assert not torch.equal(answers[0], answers[1])


@pytest.mark.parametrize("given", ["mlp", {"kind": "mlp"}])
def test_a_suite_takes_a_kind_of_heads_alone(given: object, tmp_path: Path) -> None:
    assert validated(Suite, {"encoders": "a", "datasets": "b", "head": given}, "it").head == HeadSpec(kind="mlp")
    path = tmp_path / "suite.yaml"
    path.write_text(f"encoders: a\ndatasets: b\nhead: {given}\n")
    assert load_suite(path).head == HeadSpec(kind="mlp")


@pytest.mark.parametrize("given", ["mpl", {"kind": "resnet"}, {"kind": 2}])
def test_an_unknown_kind_of_head_is_one_mistake_that_names_those_there_are(given: object) -> None:
    with pytest.raises(UserError, match=r"head.kind: expected 'linear' or 'mlp', got"):
        validated(Suite, {"encoders": "a", "datasets": "b", "head": given}, "it")


def test_the_schema_of_suites_knows_kinds_of_heads() -> None:
    head = Suite.model_json_schema()["$defs"]["HeadSpec"]
    name, fields = head["anyOf"]
    assert name["enum"] == ["linear", "mlp"]
    assert fields["properties"]["kind"]["enum"] == ["linear", "mlp"]


@pytest.fixture(scope="module")
def both(scene_probes: SceneProbes, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Records of linear and of MLP heads in one folder."""
    out = tmp_path_factory.mktemp("both")
    for kind in ("linear", "mlp"):
        head = SHORT.model_copy(update={"kind": kind})
        rp.evaluate(
            scene_probes.encoder,
            "scenes",
            ["clean", "embed", "pgd"],
            head=head,
            limit=6,
            steps=2,
            examples=1,
            sanity_images=0,
            out=out,
        )
    return Store(out).records()


def test_heads_of_two_kinds_in_one_folder_are_measured_apart(both: list[Record]) -> None:
    kinds = [r.head.recipe["kind"] for r in both]
    assert kinds.count("linear") == kinds.count("mlp") > 0
    by_kind = {kind: [r for r in both if r.head.recipe["kind"] == kind] for kind in kinds}
    for part in ("fingerprint", "group"):
        assert not {getattr(r, part) for r in by_kind["linear"]} & {getattr(r, part) for r in by_kind["mlp"]}
    assert {r.head.reads for r in by_kind["mlp"]} == {
        "cls of 1, hidden layer of 256",
        "patch of 1, hidden layer of 256",
    }
    assert {row["head_kind"] for row in table_rows(both)} == {"linear", "mlp"}


def test_tables_page_and_ranking_name_heads_that_are_not_linear(both: list[Record]) -> None:
    for table in task_tables(both):
        assert [line.encoder for line in table.lines] == ["file:tiny (heads linear)", "file:tiny (heads mlp)"]
        assert "; heads: linear and mlp; " in table.caption
    assert {row.encoder for row in board(both).rows} == {"file:tiny (heads linear)", "file:tiny (heads mlp)"}
    assert {m.title for m in transfer_matrices(both)} == {
        f"Transfer: file:tiny (heads {kind}) on scenes" for kind in ("linear", "mlp")
    }
    assert "heads: linear and mlp" in render(both, "rich")
    assert ("Heads", "linear and mlp") in headline(both, board(both)).facts
    linear = [r for r in both if r.head.recipe["kind"] == "linear"]
    assert "heads:" not in render(linear, "rich")


def test_names_of_protocols_of_linear_heads_are_those_of_earlier_versions() -> None:
    def named(**recipe: str) -> str:
        facts = HeadFacts(fingerprint="h", recipe=recipe, learning_rate=1, held_out_score=1, train_images=1)
        return protocol_name([make_record(attack("pgd"), 0.5, head=facts)])

    assert named(recipe="standard", kind="linear") == protocol_name([make_record(attack("pgd"), 0.5)])
    assert named(recipe="standard", kind="mlp") != named(recipe="standard")


def test_records_without_a_kind_are_of_linear_heads() -> None:
    assert {row["head_kind"] for row in table_rows(records_of("bundled:scenes"))} == {"linear"}
