"""Zero-shot heads of templates: logits of CLIP and SigLIP as transformers has them, and what cannot be read."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import robustprobe as rp
from robustprobe.core.head_spec import PROMPT, HeadSpec
from robustprobe.core.spec import DatasetSpec
from robustprobe.core.spec_base import validated
from robustprobe.datasets import load_dataset
from robustprobe.encoders import Encoder
from robustprobe.probing import plan_heads
from robustprobe.probing.zero_shot import check_names
from robustprobe.results.labels import head_text

pytestmark = pytest.mark.unit
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = (
    *("a", "photo", "of", "drawing", ".", "cat", "dog", "traffic", "light"),
    *("sphere", "box", "cylinder", "cone", "pyramid", "octahedron"),
)
CLASSES = ("cat", "traffic_light", "dog")
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
NORM = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.2, 0.25]}
SEVERAL = "a photo of a {}.|a drawing of a {}.| {} "


def tokenizer(words: Sequence[str]) -> Any:
    """Whole words, between a first and a last token, filled up with a third one."""
    vocabulary = {word: place for place, word in enumerate(("<pad>", "<s>", "</s>", "<unk>", *words))}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [("<s>", 1), ("</s>", 2)]
    raw.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def saved(folder: Path, kind: str, words: Sequence[str] = WORDS) -> Any:
    """A model with random weights and its tokenizer, as transformers writes them."""
    own = "CLIP" if kind == "clip" else "Siglip"
    text = {**TOWER, "vocab_size": 30, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2}
    text |= {"pad_token_id": 0} | ({} if kind == "clip" else {"projection_size": 16})
    extra = {"projection_dim": 12} if kind == "clip" else {}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    config = getattr(transformers, f"{own}Config")(text_config=text, vision_config=vision, **extra)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{own}Model")(config).eval()
        for weights in model.parameters():
            # Fresh weights are so small that every text would be nearly the same.
            weights.data = 0.5 * torch.randn_like(weights) if weights.ndim > 1 else weights.data
        model.logit_scale.data.fill_(2.0)
    model.save_pretrained(folder)
    tokenizer(words).save_pretrained(folder)
    settings = {**NORM, "image_processor_type": f"{own}ImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model


@pytest.fixture(scope="module", params=["clip", "siglip"])
def repository(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, str]:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, saved(folder, request.param), request.param


def shown() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def own_logits(model: Any, kind: str, texts: list[str], images: Tensor) -> Tensor:
    """Zero-shot logits of transformers itself, with the padding that its documentation asks for."""
    padding = {"padding": "max_length", "max_length": 12} if kind == "siglip" else {"padding": True}
    tokens = tokenizer(WORDS)(texts, return_tensors="pt", **padding)
    mean, std = (torch.tensor(NORM[name])[:, None, None] for name in ("image_mean", "image_std"))
    with torch.no_grad():
        logits: Tensor = model(**tokens, pixel_values=(images - mean) / std).logits_per_image
    return logits


def test_logits_are_those_of_transformers(repository: tuple[Path, Any, str]) -> None:
    folder, model, kind = repository
    expected = own_logits(
        model, kind, ["a photo of a cat.", "a photo of a traffic light.", "a photo of a dog."], shown()
    )
    found = rp.zero_shot(f"hf:{folder}", "templates", classes=CLASSES)
    torch.testing.assert_close(found(shown()), expected, rtol=1e-5, atol=1e-5)
    assert expected.std(1).min() > 0.01
    assert found.task.space.classes == CLASSES


def test_several_templates_are_averaged_as_unit_vectors(repository: tuple[Path, Any, str]) -> None:
    folder, model, kind = repository
    each = [
        own_logits(model, kind, [t.format(name.replace("_", " ")) for name in CLASSES], shown())
        for t in ("a photo of a {}.", "a drawing of a {}.", "{}")
    ]
    scale, bias = model.logit_scale.exp().item(), model.logit_bias.item() if kind == "siglip" else 0.0
    tower = rp.load_encoder(f"hf:{folder}").text_tower()
    units = [
        torch.nn.functional.normalize(tower.embed([t.format(n.replace("_", " ")) for n in CLASSES]), dim=1)
        for t in ("a photo of a {}.", "a drawing of a {}.", "{}")
    ]
    # The cosine with a mean of unit vectors is the mean cosine over the length of that mean.
    length = torch.stack(units).mean(0).norm(dim=1)
    expected = scale * torch.stack([(logits - bias) / scale for logits in each]).mean(0) / length + bias
    found = rp.zero_shot(f"hf:{folder}", SEVERAL, classes=CLASSES)
    torch.testing.assert_close(found(shown()), expected, rtol=1e-5, atol=1e-5)
    assert length.max() < 0.9999


def test_a_run_judges_by_the_templates_and_the_record_names_them(
    repository: tuple[Path, Any, str], tmp_path: Path
) -> None:
    folder, model, kind = repository
    result = rp.evaluate(
        f"hf:{folder}",
        "scenes",
        ["clean", "pgd"],
        tasks="classification",
        head={"zero_shot": "templates", "train_limit": 24},
        limit=4,
        size=(32, 32),
        steps=2,
        sanity_images=0,
        root=tmp_path,
        out=tmp_path / "out",
    )
    data = load_dataset("scenes", root=tmp_path, split="test", limit=4, size=(32, 32), tasks=["classification"])
    texts = [f"a photo of a {name}." for name in data.spaces["classification"].classes]
    logits = own_logits(model, kind, texts, torch.stack([data[k].image for k in range(4)]))
    clean = next(record for record in result.records if record.is_clean)
    rows = result.stores[0].rows(clean.fingerprint).to_pydict()
    assert rows["prediction"] == logits.argmax(1).tolist()
    assert head_text(clean).startswith(f"zero-shot by {PROMPT} ")
    again = validated(HeadSpec, clean.head.recipe, "head")
    assert again.zero_shot is not None
    assert again.zero_shot.templates == (PROMPT,)
    assert key_of(folder, again) == clean.head.fingerprint


def key_of(folder: Path, spec: HeadSpec) -> str:
    encoder = rp.load_encoder(f"hf:{folder}")
    plan = plan_heads(encoder, DatasetSpec(name="scenes"), spec, root=folder, tasks=["classification"])
    return plan.keys["classification"]


def test_other_weights_of_the_text_tower_and_other_templates_are_other_heads(tmp_path: Path) -> None:
    model = saved(tmp_path, "clip")

    def key(folder: Path, texts: str) -> str:
        return key_of(folder, validated(HeadSpec, {"zero_shot": texts, "train_limit": 24}, "head"))

    first = key(tmp_path, "templates")
    assert first == key(tmp_path, PROMPT)
    assert first != key(tmp_path, "a drawing of a {}.")
    model.text_projection.weight.data[0, 0] += 1
    other = tmp_path / "other"
    model.save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (other / name).write_bytes((tmp_path / name).read_bytes())
    assert rp.load_encoder(f"hf:{other}").digest == rp.load_encoder(f"hf:{tmp_path}").digest
    assert key(other, "templates") != first


def test_another_setting_of_the_tokenizer_is_another_head(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    saved(first, "clip")
    shutil.copytree(first, second)
    spec = HeadSpec.model_validate({"zero_shot": "templates"})
    assert key_of(first, spec) == key_of(second, spec)
    third = tmp_path / "third"
    shutil.copytree(first, third)
    settings = json.loads((third / "tokenizer_config.json").read_text())
    (third / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 4}))
    assert key_of(first, spec) != key_of(third, spec)


def test_an_encoder_without_a_text_tower_is_one_clear_error(tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(
        rp.UserError, match=r"has no text tower, so templates cannot be embedded\. Take a CLIP or SigLIP"
    ):
        rp.zero_shot(tiny_encoder, "templates", classes=CLASSES)
    whole = saved(tmp_path / "both", "clip")
    transformers.CLIPVisionModel(whole.config.vision_config).save_pretrained(tmp_path / "one")
    (tmp_path / "one" / "preprocessor_config.json").write_text(json.dumps(NORM))
    with pytest.raises(rp.UserError, match="has no text tower"):
        rp.zero_shot(f"hf:{tmp_path / 'one'}", "templates", classes=CLASSES)


def test_a_missing_tokenizer_and_one_without_the_words_are_one_clear_error(tmp_path: Path) -> None:
    saved(tmp_path, "siglip", [word for word in WORDS if word not in ("cat", "dog")])
    with pytest.raises(rp.UserError, match=r"reads 'a photo of a cat\.' and 'a photo of a dog\.' alike"):
        rp.zero_shot(f"hf:{tmp_path}", "templates", classes=CLASSES)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(rp.UserError, match=r"has no tokenizer in .*expected tokenizer\.json or vocab\.json"):
        rp.zero_shot(f"hf:{tmp_path}", "templates", classes=CLASSES)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ((), "it lists none"),
        (("0", "1", "2"), "its classes are '0', '1', '2'"),
        (("n01440764", "n01443537"), "its classes are 'n01440764', 'n01443537'"),
        (("class 1", "class_2", "__"), "its classes are 'class 1', 'class_2', '__'"),
    ],
)
def test_classes_without_names_are_one_clear_error(classes: tuple[str, ...], said: str) -> None:
    with pytest.raises(rp.UserError, match=f"no names of classes for the templates.*{said}"):
        check_names(classes, "a dataset")


def test_names_that_hold_numbers_are_names() -> None:
    check_names(("boeing 747", "a320", "747", "猫"), "a dataset")


def test_a_file_has_its_classes_inside(tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(rp.UserError, match="has the names of its classes inside, and 3 came beside"):
        rp.zero_shot(tiny_encoder, tmp_path / "texts.safetensors", classes=CLASSES)
