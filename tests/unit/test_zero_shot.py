"""Zero-shot classifiers: logits written out, those of a CLIP model, attacks, runs, and files that make no sense."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import robustprobe as rp
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.spec import DatasetSpec, Suite
from robustprobe.core.spec_base import validated
from robustprobe.datasets import load_dataset
from robustprobe.encoders import Encoder
from robustprobe.evaluation.plan import make_plan
from robustprobe.probing import HeadPlan, plan_heads, probes
from robustprobe.results.labels import head_text
from robustprobe.results.store import Store

pytestmark = pytest.mark.unit

NAMES = ["cat", "dog", "car", "tree"]
SHAPES = ["sphere", "box", "cylinder", "cone", "pyramid", "octahedron"]
MIXED = ["cone", "sphere", "octahedron", "box", "pyramid", "cylinder"]
NOWHERE = Path("nowhere")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def written(path: Path, classes: object = NAMES, **tensors: Tensor) -> Path:
    save_file({"text": drawn(4, 16), **tensors}, path, metadata={"classes": json.dumps(classes)})
    return path


def test_logits_are_scaled_cosines(tiny_encoder: Encoder, tmp_path: Path) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    cls = tiny_encoder(images).cls
    plain = rp.zero_shot(tiny_encoder, written(tmp_path / "plain.safetensors"))
    cosine = torch.cosine_similarity(cls[:, None], drawn(4, 16)[None], dim=2)
    torch.testing.assert_close(plain(images), 100 * cosine)
    assert plain.task.space.classes == tuple(NAMES)
    options = {"text": drawn(4, 5), "projection": drawn(5, 16, seed=1), "scale": torch.tensor(7.0)}
    full = rp.zero_shot(tiny_encoder, written(tmp_path / "full.safetensors", bias=torch.tensor([-3.0]), **options))
    cosine = torch.cosine_similarity((cls @ options["projection"].T)[:, None], options["text"][None], dim=2)
    torch.testing.assert_close(full(images), 7 * cosine - 3)


def test_an_attack_fools_it(tiny_encoder: Encoder, tmp_path: Path) -> None:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    near = tiny_encoder(images).cls.mean(0) + 0.05 * drawn(4, 16)
    model = rp.zero_shot(tiny_encoder, written(tmp_path / "texts.safetensors", text=near))
    labels = model(images).argmax(1)
    result = rp.attack(model, images, labels, attack="pgd", eps="32/255", steps=10)
    assert result.metric == "top-1"
    assert result.score.mean() < 1


def test_logits_are_those_of_clip(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**vision, "vocab_size": 30, "max_position_embeddings": 8, "eos_token_id": 29, "bos_token_id": 28}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 8}, projection_dim=12
    )
    torch.manual_seed(0)
    clip = transformers.CLIPModel(config).eval()
    tokens = torch.tensor([[28, 1, 2, 29], [28, 3, 4, 29], [28, 5, 6, 29]])
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = clip(input_ids=tokens, pixel_values=(images - 0.5) / 0.5)
    path = tmp_path / "texts.safetensors"
    tensors = {
        "text": expected.text_embeds.contiguous(),
        "projection": clip.visual_projection.weight.detach().clone(),
        "scale": clip.logit_scale.detach().exp().clone(),
    }
    save_file(tensors, path, metadata={"classes": json.dumps(["a", "b", "c"])})
    folder = tmp_path / "clip"
    clip.save_pretrained(folder)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    model = rp.zero_shot(f"hf:{folder}", path)
    torch.testing.assert_close(model(images), expected.logits_per_image, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("classes", "tensors", "said"),
    [
        (NAMES[:3], {}, r"shape \(4, 16\) for 3 classes"),
        (["cat", "cat", "dog", "car"], {}, "4 classes with 3 names"),
        ("cat", {}, "classes that are a str"),
        (NAMES, {"text": torch.full((4, 16), torch.nan)}, "NaN or infinity in 'text'"),
        (NAMES, {"scale": torch.ones(2)}, "a scale of shape"),
        (NAMES, {"scale": torch.tensor(0.0)}, "a scale of 0, which is not above 0"),
        (NAMES, {"scale": torch.tensor(-4.6)}, "a scale of -4.6, which is not above 0"),
        (NAMES, {"text": drawn(4, 16) * torch.tensor([1.0, 1, 0, 1])[:, None]}, "text embeddings of zeros for 'car'"),
        (NAMES, {"projection": torch.zeros(16, 16)}, "a projection of zeros"),
        (NAMES, {"temperature": torch.ones(1)}, "the unknown tensor 'temperature'"),
        (NAMES, {"text": drawn(4, 5)}, "has 16 channels, the texts have 5"),
        (NAMES, {"projection": drawn(16, 3)}, r"expected a projection \(16, 16\)"),
    ],
)
def test_files_that_make_no_sense_are_one_clear_error(
    tiny_encoder: Encoder, tmp_path: Path, classes: object, tensors: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(rp.UserError, match=said):
        rp.zero_shot(tiny_encoder, written(tmp_path / "texts.safetensors", classes, **tensors))


def test_a_missing_file_and_another_format_are_one_clear_error(tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(rp.UserError, match=r"no file .*; expected a safetensors file"):
        rp.zero_shot(tiny_encoder, tmp_path / "none.safetensors")
    (tmp_path / "other.safetensors").write_text("cat")
    with pytest.raises(rp.UserError, match="cannot be used"):
        rp.zero_shot(tiny_encoder, tmp_path / "other.safetensors")


def shapes(path: Path, classes: object = MIXED, seed: int = 0, width: int = 16, text: Tensor | None = None) -> Path:
    """Texts for the classes of the generated scenes, in another order than there."""
    tensors = {"projection": drawn(5, width, seed=seed + 1), "scale": torch.tensor(9.0), "bias": torch.tensor([-2.0])}
    return written(path, classes, text=drawn(6, 5, seed=seed) if text is None else text, **tensors)


def planned(encoder: Encoder, tasks: list[str] | None = None, **head: object) -> HeadPlan:
    spec = validated(HeadSpec, {"train_limit": 24, **head}, "head")
    names = tasks or ["classification"]
    return plan_heads(encoder, DatasetSpec(name="scenes"), spec, root=NOWHERE, tasks=names)


def test_a_run_judges_by_the_texts_and_fits_nothing(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "fit_head", lambda *_: pytest.fail("a head was fitted"))
    monkeypatch.setattr(probes, "extract", lambda *_: pytest.fail("features were extracted"))
    size = (16, 16)
    data = load_dataset("scenes", root=NOWHERE, split="test", limit=12, size=size, tasks=["classification"])
    images = torch.stack([data[k].image for k in range(12)])
    labels = torch.stack([data[k].targets["classification"] for k in range(12)])
    shown = tiny_encoder(images).cls @ drawn(5, 16, seed=1).T
    # Each of the first images is nearest to its own text, so that answers differ.
    text = shown[:6].clone()
    path = shapes(tmp_path / "texts.safetensors", text=text)
    result = rp.evaluate(
        tiny_encoder,
        "scenes",
        ["clean", "noise"],
        tasks="classification",
        head={"zero_shot": path, "train_limit": 24},
        limit=12,
        size=size,
        sanity_images=0,
        root=NOWHERE,
        out=tmp_path / "out",
    )
    in_order = text[[MIXED.index(name) for name in SHAPES]]
    logits = 9 * torch.cosine_similarity(shown[:, None], in_order[None], dim=2) - 2
    own = rp.zero_shot(tiny_encoder, path)(images)
    torch.testing.assert_close(own[:, [MIXED.index(name) for name in SHAPES]], logits)
    (clean,) = [record for record in result.records if record.attack.name == "clean"]
    rows = Store(tmp_path / "out").rows(clean.fingerprint).to_pydict()
    assert rows["id"] == list(data.kept_ids)
    assert rows["prediction"] == logits.argmax(1).tolist()
    assert len(set(rows["prediction"])) == 6
    assert clean.headline.value == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert (clean.head.recipe["kind"], clean.head.train_images) == ("zero-shot", 0)
    assert str(tmp_path) not in clean.model_dump_json()
    assert head_text(clean).startswith("zero-shot by texts.safetensors ")
    assert "k-NN top-1" not in clean.metrics


def test_the_model_of_a_plan_has_the_logits_of_zero_shot_in_the_order_of_the_dataset(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    path = shapes(tmp_path / "texts.safetensors", seed=3)
    heads = planned(tiny_encoder, zero_shot=str(path))
    model = heads.fit(torch.device("cpu"))["classification"][0]
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    order = [MIXED.index(name) for name in SHAPES]
    torch.testing.assert_close(model(images), rp.zero_shot(tiny_encoder, path)(images)[:, order])


def test_the_plan_says_what_is_zero_shot_and_other_tasks_keep_their_heads(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    tasks = ["classification", "depth"]
    path = shapes(tmp_path / "texts.safetensors")
    own, usual = planned(tiny_encoder, tasks, zero_shot=path), planned(tiny_encoder, tasks)
    assert own.keys["depth"] == usual.keys["depth"]
    assert own.keys["classification"] != usual.keys["classification"]
    assert own.notes[0].startswith("classification is zero-shot by texts.safetensors ")
    assert usual.notes == own.notes[1:]


def test_heads_are_named_by_the_content_of_the_file_alone(tiny_encoder: Encoder, tmp_path: Path) -> None:
    files = [shapes(tmp_path / f"{n}.safetensors", seed=s) for n, s in (("a", 0), ("b", 0), ("c", 5))]
    first, same, other = (planned(tiny_encoder, zero_shot=file).keys["classification"] for file in files)
    assert first == same
    assert other not in (first, "")


def test_another_file_makes_other_cells_and_other_example_images(tiny_encoder: Encoder, tmp_path: Path) -> None:
    def names(path: Path) -> set[str]:
        scenes = {"name": "scenes", "limit": 4, "size": (16, 16)}
        told = {"encoders": "tiny", "datasets": scenes, "tasks": "classification", "attacks": ["clean", "pgd"]}
        suite = validated(Suite, {**told, "head": {"zero_shot": path, "train_limit": 24}}, "the suite")
        plan = make_plan(suite, Store(tmp_path / "out"), NOWHERE, torch.device("cpu"), [tiny_encoder])
        groups = {level.group for pair in plan.pairs for job in pair.jobs for level in job.levels}
        return groups | plan.fingerprints()

    first, same, other = (
        names(shapes(tmp_path / f"{name}.safetensors", seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 5))
    )
    assert len(first) == 4
    assert first == same
    assert not first & other


def test_a_file_that_changes_after_the_plan_is_refused(tiny_encoder: Encoder, tmp_path: Path) -> None:
    path = shapes(tmp_path / "texts.safetensors")
    heads = planned(tiny_encoder, zero_shot=path)
    assert heads.spec.zero_shot is not None
    assert planned(tiny_encoder, zero_shot=f"{path}@sha256:{heads.spec.zero_shot.sha256}").keys == heads.keys
    shapes(path, seed=1)
    with pytest.raises(rp.UserError, match="it is another file or has changed"):
        heads.fit(torch.device("cpu"))
    with pytest.raises(rp.UserError, match="it is another file or has changed"):
        planned(tiny_encoder, zero_shot=f"{path}@sha256:{heads.spec.zero_shot.sha256}")


@pytest.mark.parametrize(
    ("classes", "width", "tasks", "said"),
    [
        ([*MIXED[:5], "tube"], 16, None, "not the 6 of scenes: it lacks 'cylinder' and it has 'tube'"),
        ([f"a {name}" for name in MIXED], 16, None, "it has 'a cone', 'a sphere', 'a octahedron' and 3 more"),
        (MIXED, 12, None, r"expected a projection \(5, 16\)"),
        (MIXED, 16, ["depth"], "are for classification, and scenes is evaluated on depth"),
    ],
)
def test_texts_that_do_not_fit_a_run_are_one_clear_error_of_the_plan(
    tiny_encoder: Encoder, tmp_path: Path, classes: list[str], width: int, tasks: list[str] | None, said: str
) -> None:
    path = shapes(tmp_path / "texts.safetensors", classes, width=width)
    with pytest.raises(rp.UserError, match=said):
        planned(tiny_encoder, tasks, zero_shot=path)


def test_one_file_for_encoders_of_several_models_is_warned_of_and_the_number_says_it(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    def copied(name: str, teacher: str = "") -> Encoder:
        encoder = copy.deepcopy(tiny_encoder)
        encoder.card = encoder.card.model_copy(update={"name": name, "teacher": teacher})
        return encoder

    path = shapes(tmp_path / "texts.safetensors")
    told = {"encoders": ["one", "two"], "datasets": {"name": "scenes", "limit": 4, "size": (16, 16)}}
    told |= {"tasks": ["classification", "depth"], "attacks": "clean", "head": {"zero_shot": path, "train_limit": 24}}

    def warnings(*encoders: Encoder) -> list[str]:
        suite = validated(Suite, told, "the suite")
        plan = make_plan(suite, Store(tmp_path / "out"), NOWHERE, torch.device("cpu"), encoders)
        return [text for text in plan.warnings if "embedding space" in text]

    (said,) = warnings(copied("one"), copied("two"))
    assert "is used for 2 encoders (one, two)" in said
    assert not warnings(copied("one"), copied("two", teacher="one"))
    with pytest.warns(UserWarning, match="is used for 2 encoders"):
        result = rp.evaluate(
            [copied("one"), copied("two")],
            "scenes",
            "clean",
            tasks=["classification", "depth"],
            head={"zero_shot": path, "train_limit": 24},
            limit=4,
            size=(16, 16),
            root=NOWHERE,
        )
    told_by = {record.task: [check.name for check in record.doubts] for record in result.records}
    assert told_by["classification"] == ["plausible texts"]
    assert "plausible texts" not in told_by["depth"]


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"kind": "zero-shot"}, "expected 'linear' or 'mlp'"),
        ({"zero_shot": "a.safetensors", "kind": "mlp"}, "nothing of a zero-shot head is fitted, so it has no kind mlp"),
        ({"zero_shot": "a.safetensors", "training": "adversarial"}, "it has no training adversarial"),
        ({"zero_shot": ""}, "zero_shot"),
    ],
)
def test_a_suite_says_one_thing_of_its_heads(head: dict[str, str], said: str) -> None:
    told = {"encoders": "bundled:scenes", "datasets": "scenes", "head": head}
    with pytest.raises(rp.UserError, match=said):
        validated(Suite, told, "the suite")


def test_no_probe_is_fitted_of_texts(tiny_encoder: Encoder, tmp_path: Path) -> None:
    fields = {"zero_shot": shapes(tmp_path / "texts.safetensors")}
    with pytest.raises(rp.UserError, match=r"its model is rp.zero_shot\(encoder, file\)"):
        rp.fit_probe(tiny_encoder, "scenes", task="classification", **fields)  # type: ignore[arg-type]
