"""Kinds of heads: what they can learn, that none is taken for another, and that tables say which one judged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import robustprobe as rp
from robustprobe.core.device import Elapsed
from robustprobe.core.errors import UserError
from robustprobe.core.freeze import frozen
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.inner_attack import InnerAttack
from robustprobe.core.spec import DatasetSpec, Suite, load_suite
from robustprobe.core.spec_base import validated
from robustprobe.core.threat import NORMS
from robustprobe.core.types import FeatureDims, Features, HeadDesign, LabelSpace, Sample
from robustprobe.core.views import Resized
from robustprobe.encoders import Encoder, EncoderCard
from robustprobe.probing import (
    Candidate,
    FeatureSet,
    FitJob,
    fit,
    fit_probes,
    head_plan,
    label_size,
    plan_heads,
    spec_of_task,
    train_data,
    train_heads,
)
from robustprobe.probing.augment import Augmentation
from robustprobe.probing.features import FeatureBatch, ShownImages, Streamed
from robustprobe.probing.fit import attacked_images
from robustprobe.probing.recipes import recipe_of
from robustprobe.report.page.headline import headline
from robustprobe.report.tables.board import board
from robustprobe.report.tables.matrix import task_tables, transfer_matrices
from robustprobe.report.tables.results import render, table_rows
from robustprobe.results.labels import head_text
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
            tasks=["classification", "segmentation"],
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


def test_rows_of_two_kinds_of_heads_stand_in_the_same_order_whenever_they_were_made(both: list[Record]) -> None:
    def started(record: Record, when: dict[str, str]) -> Record:
        moment = when[record.head.recipe["kind"]]
        return record.model_copy(update={"provenance": record.provenance.model_copy(update={"started": moment})})

    for when in ({"linear": "2026-01-01T00:00:01", "mlp": "2026-01-01T00:00:00"}, dict.fromkeys(("linear", "mlp"), "")):
        (table, *_) = task_tables([started(r, when) for r in reversed(both)])
        assert [line.encoder for line in table.lines] == ["file:tiny (heads linear)", "file:tiny (heads mlp)"]


def test_kind_and_training_say_nothing_of_a_task_that_trains_no_head() -> None:
    asked = HeadSpec(kind="mlp", training="adversarial", knn=3)
    assert spec_of_task(asked, "retrieval") == HeadSpec(knn=3)
    assert spec_of_task(asked, "depth") == asked


def test_names_of_protocols_of_linear_heads_are_those_of_earlier_versions() -> None:
    def named(**recipe: str) -> str:
        facts = HeadFacts(fingerprint="h", recipe=recipe, learning_rate=1, held_out_score=1, train_images=1)
        return protocol_name([make_record(attack("pgd"), 0.5, head=facts)])

    assert named(recipe="standard", kind="linear") == protocol_name([make_record(attack("pgd"), 0.5)])
    assert named(recipe="standard", kind="mlp") != named(recipe="standard")


def test_records_without_a_kind_are_of_linear_heads() -> None:
    assert {row["head_kind"] for row in table_rows(records_of("bundled:scenes"))} == {"linear"}


def test_threats_of_heads_are_read_and_one_ball_has_one_name() -> None:
    def training(text: Any) -> str:
        return HeadSpec(training=text).training

    assert HeadSpec().threat is None
    assert training("adversarial") == training("adversarial:4/255") == training("adversarial:4/255:linf")
    assert HeadSpec(training="adversarial:8/255").threat == (8 / 255, "linf")
    assert HeadSpec(training="adversarial:0.5:l2").threat == (0.5, "l2")
    for text in ("clean", "adversarial:3/255", "adversarial:0.013", "adversarial:0.5:l2", "adversarial:12:l1"):
        assert training(training(text)) == training(text) == text
    assert HeadSpec(training="adversarial").on_clean_images == HeadSpec()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("robust", "expected clean, adversarial:EPS"),
        ("clean:4/255", "expected clean, adversarial:EPS"),
        ("adversarial:4/255:l3", "expected clean, adversarial:EPS"),
        (4, "expected clean, adversarial:EPS"),
        (None, "expected clean, adversarial:EPS"),
        ("adversarial:0", "an eps above 0"),
        ("adversarial:8", r"pixels are in \[0, 1\]"),
        ("adversarial:much", "'much' is not a number"),
    ],
)
def test_what_is_no_training_of_heads_is_one_mistake(given: object, said: str) -> None:
    with pytest.raises(UserError, match=f"head.training: .*{said}"):
        validated(Suite, {"encoders": "a", "datasets": "b", "head": {"training": given}}, "it")


class Shown(NamedTuple):
    """A head in training, what it is shown, and the ball in which that is attacked."""

    candidate: Candidate
    source: Streamed
    shown: ShownImages
    attack: InnerAttack

    def attacked(self, places: Sequence[int], seed: int = 0, epoch: int = 0) -> Tensor:
        """The images at some places of the batch, attacked on their own."""
        part = self.shown._replace(
            ids=[self.shown.ids[k] for k in places],
            images=self.shown.images[list(places)],
            target=self.shown.target[list(places)],
            epoch=epoch,
        )
        return attacked_images(self.candidate, self.source, self.attack, seed, part)

    def loss(self, images: Tensor) -> Tensor:
        """Training loss (B,) of the head on images."""
        features = self.source.view.features(self.source.encoder, images)
        with frozen(self.candidate.head):
            return self.candidate.loss(FeatureBatch(features, self.shown.target, self.shown.size))


def shown(probes: SceneProbes, name: str, norm: Any = "linf", eps: float = 4 / 255) -> Shown:
    task = load_task(name, probes.data.train.labels[name])
    recipe = recipe_of(SHORT, task).model_copy(update={"augment": "none"})
    candidate = Candidate(task, probes.encoder.card.widths, recipe.designs[0], 1e-2, recipe, 0)
    candidate.start(CPU)
    view = probes.data.views[name]
    augmentation = Augmentation("none", (16, 16), task, 0)
    source = Streamed(probes.encoder, view, probes.data.train, augmentation, recipe.label_stride)
    samples = [augmentation(probes.data.train[k], 0) for k in range(6)]
    size = label_size((16, 16), recipe.label_stride)
    target = task.fit_labels(torch.stack([sample.targets[name] for sample in samples]), size)
    images = torch.stack([sample.image for sample in samples])
    kept = ShownImages([sample.id for sample in samples], images, target, size, 0)
    return Shown(candidate, source, kept, InnerAttack(NORMS[norm](eps), 3, 0.5))


@pytest.mark.parametrize("name", TASKS)
def test_images_of_a_head_in_training_are_attacked_inside_the_ball_each_on_its_own(
    name: str, scene_probes: SceneProbes
) -> None:
    one = shown(scene_probes, name)
    images, state = one.shown.images, {k: v.clone() for k, v in one.candidate.head.state_dict().items()}
    whole_batch = one.attacked(range(6))
    assert float((whole_batch - images).abs().max()) <= 4 / 255 + 1e-6
    assert 0 <= float(whole_batch.min()) <= float(whole_batch.max()) <= 1
    with torch.no_grad():
        assert float((one.loss(whole_batch) - one.loss(images)).mean()) > 0
    torch.testing.assert_close(one.attacked([4, 1]), whole_batch[[4, 1]], rtol=0, atol=1e-5)
    assert not torch.equal(one.attacked(range(6), epoch=1), whole_batch)
    assert not torch.equal(one.attacked(range(6), seed=1), whole_batch)
    # Neither statistics nor modes of the head are touched by the attack.
    assert all(torch.equal(state[k], v) for k, v in one.candidate.head.state_dict().items())
    assert one.candidate.head.training
    assert all(p.requires_grad for p in one.candidate.head.parameters())


def test_the_ball_of_heads_may_be_one_of_l2(scene_probes: SceneProbes) -> None:
    one = shown(scene_probes, "classification", "l2", 0.5)
    size = (one.attacked(range(6)) - one.shown.images).flatten(1).norm(dim=1)
    assert 0.1 < float(size.max()) <= 0.5 + 1e-5


HARDENED = HeadSpec(training="adversarial:4/255", train_limit=24, epochs=1, batch_size=8, learning_rates=(3e-3, 1e-3))


@pytest.mark.parametrize("recipe", ["fast", "standard", "paper"])
def test_heads_of_every_task_and_recipe_are_fitted_on_attacked_images(recipe: Any, tiny_encoder: Encoder) -> None:
    names = [name for name in TASKS if recipe in task_kind(name).recipes]
    spec = HARDENED.model_copy(update={"recipe": recipe})
    data = train_data("scenes", Path("nowhere"), whole((16, 16)), spec)
    clean = fit_probes(tiny_encoder, data, names, spec=spec.on_clean_images, device=CPU)
    found = fit_probes(tiny_encoder, data, names, spec=spec, device=CPU)
    again = fit_probes(tiny_encoder, data, names, spec=spec, device=CPU)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for name in names:
        assert found[name][1].design == clean[name][1].design
        assert found[name][1].learning_rate == clean[name][1].learning_rate
        assert (found[name][1].knn_head is None) == (clean[name][1].knn_head is None)
        assert not torch.equal(found[name][0](images), clean[name][0](images))
        assert torch.equal(found[name][0](images), again[name][0](images))


def test_an_interrupted_fit_on_attacked_images_goes_on_to_the_same_head(
    scene_probes: SceneProbes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "SAVE_EVERY_SECONDS", 0.0)
    one = shown(scene_probes, "segmentation")
    recipe = one.candidate.recipe.model_copy(update={"epochs": 4, "learning_rates": (1e-2,)})
    widths, task = scene_probes.encoder.card.widths, one.candidate.task

    def job(key: str) -> FitJob:
        return FitJob(task, recipe, widths, one.source, 12, 0, CPU, key, one.attack)

    def stop(done: int, total: int) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    (straight,) = train_heads(job(""))
    with pytest.raises(KeyboardInterrupt):
        train_heads(job("attacked"), stop)
    (resumed,) = train_heads(job("attacked"))
    weights = zip(resumed.head.state_dict().values(), straight.head.state_dict().values(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)


class TensorImages(NamedTuple):
    """Images (N, 3, H, W) and their classes as a dataset."""

    images: Tensor
    labels: Tensor
    reading_threads: int = 1

    def __getitem__(self, place: Any) -> Any:
        return Sample(str(place), self.images[place], {"classification": self.labels[place]})


class Fragile(Encoder):
    """One feature that follows the label and any attack, and one that follows the label more weakly and no attack.

    Of an image, the mean of the red channel is seen a hundred times as large as that of the green one.
    """

    def __init__(self) -> None:
        widths = FeatureDims(2, 2)
        super().__init__(EncoderCard(name="fragile", patch_size=8, input_size=(16, 16), widths=widths))
        self.gain = nn.Parameter(torch.tensor([100.0, 1.0]))

    def features(self, images: Tensor) -> Features:
        colours = (images[:, :2] - 0.5) * self.gain[:, None, None]
        return Features(colours.mean((2, 3)), nn.functional.avg_pool2d(colours, 8))


def test_a_head_fitted_on_attacked_images_leaves_the_feature_that_an_attack_moves() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (128,), generator=generator)
    images = torch.full((128, 3, 16, 16), 0.5)
    images[:, 0] += (0.01 * (2 * labels - 1))[:, None, None]  # half of eps: an attack turns it round
    sure = torch.rand(128, generator=generator) < 0.9
    images[:, 1] += (0.2 * (2 * labels - 1) * (2 * sure - 1))[:, None, None]  # ten times eps
    encoder = Fragile().freeze()
    data = TensorImages(images, labels)
    view = Resized(size=(16, 16))
    task = load_task("classification", SPACE)
    source = Streamed(encoder, view, data, Augmentation("none", (16, 16), task, 0), 4)  # type: ignore[arg-type]
    recipe = TaskRecipe(learning_rates=(1e-1,), epochs=20, batch_size=32, designs=(HeadDesign(),))
    ball = InnerAttack(NORMS["linf"](0.02), 3, 0.5)
    scores = {}
    for inner in (None, ball):
        (candidate,) = train_heads(FitJob(task, recipe, FeatureDims(2, 2), source, 128, 0, CPU, attack=inner))
        batch = ShownImages([str(k) for k in range(128)], images, labels, (4, 4), 0)
        moved = attacked_images(candidate, source, ball, 1, batch)
        answers = [candidate.head(encoder(shown), (16, 16)).argmax(1) for shown in (images, moved)]
        scores[inner is None] = [float((answer == labels).float().mean()) for answer in answers]
    assert scores[True][0] > 0.98
    assert scores[True][1] < 0.1
    assert min(scores[False]) > 0.85


def test_the_plan_counts_the_passes_of_heads_on_attacked_images(
    scene_probes: SceneProbes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_plan, "fit_seconds", lambda *_: Elapsed(30.0, 60.0))

    def seconds(training: str) -> float:
        spec = HeadSpec(training=training, seed=7, train_limit=24, epochs=2)
        heads = plan_heads(
            scene_probes.encoder, DatasetSpec(name="scenes"), spec, root=Path("nowhere"), tasks=["depth"]
        )
        return heads.cost(Elapsed(1.0, 2.0), Elapsed(3.0, 6.0), CPU).seconds.computing

    images, held_out = 24, 6
    assert seconds("clean") == 30 + (images + held_out) * 1.0
    # Three steps and one pass for each image of both epochs, and one of three rates once for each of these passes.
    attacked = 2 * images * (1.0 + 3 * 3.0) + held_out * 1.0 + 4 * 30 / 3
    assert seconds("adversarial:4/255") == seconds("clean") + attacked


def test_an_implausible_ball_of_heads_is_doubted_in_the_plan(scene_probes: SceneProbes) -> None:
    def doubts(training: str) -> list[str]:
        spec = HeadSpec(training=training, train_limit=24)
        scenes = DatasetSpec(name="scenes")
        return plan_heads(scene_probes.encoder, scenes, spec, root=Path("nowhere"), tasks=["depth"]).doubts

    assert doubts("clean") == doubts("adversarial:4/255") == []
    assert "too small to matter" in doubts("adversarial:0.1/255")[0]


def test_tables_say_how_heads_were_fitted() -> None:
    def of(training: str, kind: str = "linear") -> Record:
        recipe = {"recipe": "fast", "kind": kind, "training": training}
        facts = HeadFacts(fingerprint="h", recipe=recipe, learning_rate=1, held_out_score=1, train_images=1)
        return make_record(attack("pgd"), 0.5, head=facts)

    assert head_text(of("clean")) == ""
    assert head_text(of("adversarial:4/255")) == "linear fitted adversarially at 4/255"
    assert head_text(of("adversarial:0.5:l2", "mlp")) == "mlp fitted adversarially at 0.5 l2"
    assert "heads: linear fitted adversarially at 4/255" in render([of("adversarial:4/255")], "rich")
    assert table_rows([of("adversarial:4/255")])[0]["head_training"] == "adversarial:4/255"
