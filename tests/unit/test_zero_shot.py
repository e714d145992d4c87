"""Zero-shot classifiers: logits written out, those of a CLIP model, attacks, and files that make no sense."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import robustprobe as rp
from robustprobe.encoders import Encoder

pytestmark = pytest.mark.unit

NAMES = ["cat", "dog", "car", "tree"]


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
