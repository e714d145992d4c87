"""Text towers of the transformers library: those of the CLIP and SigLIP models whose image towers are encoders."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from robustprobe.core.errors import UserError
from robustprobe.encoders._downloads import hub_file
from robustprobe.encoders._hf_loading import read_model, reading
from robustprobe.encoders.base import TextTower

TEXT_MODELS = {"clip": "CLIPModel", "siglip": "SiglipModel"}
# One of the first makes a tokenizer; the others change what it does.
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
MORE_FILES = ("tokenizer_config.json", "special_tokens_map.json", "merges.txt", "added_tokens.json")


class Repository(NamedTuple):
    """A repository as it was asked for: the spec, its name or folder, its commit (empty: a folder), and its files."""

    spec: str
    name: str
    commit: str
    folder: Path


def text_tower(origin: Repository, kind: str, vision: nn.Module) -> TextTower:
    """The text tower beside an image tower `vision` of transformers, of one of `TEXT_MODELS`.

    Raises:
        UserError: the repository has none, or no tokenizer.
    """
    seen = hashlib.sha256()
    for path in _tokenizer_files(origin):
        seen.update(path.name.encode() + path.read_bytes())
    model, tokenizer, digest = _loaded(origin, kind, seen.hexdigest())
    siglip = kind == "siglip"
    most = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        # SigLIP was trained on texts filled up to their full length, and reads the last place.
        tokens = tokenizer(
            list(texts),
            padding="max_length" if siglip else True,
            truncation=True,
            max_length=most,
            return_tensors="pt",
        )
        _check_told_apart(origin, texts, tokens["input_ids"])
        answer = model.get_text_features(**tokens)
        embedded: Tensor = getattr(answer, "pooler_output", answer)
        return embedded

    return TextTower(
        embed,
        digest,
        float(model.logit_scale.exp()),
        float(model.logit_bias) if siglip else 0.0,
        None if siglip else model.visual_projection.weight.detach(),
        cast(Any, getattr(vision, "vision_model", vision)).head if siglip else None,
    )


def _tokenizer_files(origin: Repository) -> list[Path]:
    """The files of a repository's tokenizer that are there; those of one on the hub are brought first."""
    if origin.commit:
        hub_file(origin.spec, origin.name, VOCABULARIES, origin.commit)
        for name in MORE_FILES:
            with suppress(UserError):
                hub_file(origin.spec, origin.name, [name], origin.commit)
    found = [path for name in (*VOCABULARIES, *MORE_FILES) if (path := origin.folder / name).is_file()]
    if not any(path.name in VOCABULARIES for path in found):
        raise UserError(
            f"{origin.spec} has no tokenizer in {origin.folder}, so its text tower cannot read templates; expected "
            f"{' or '.join(VOCABULARIES)}. Save it there with tokenizer.save_pretrained, or give a file of text "
            "embeddings."
        )
    return found


@lru_cache(maxsize=1)
def _loaded(origin: Repository, kind: str, tokenizer_digest: str) -> tuple[Any, Any, str]:
    """The model without its image tower, in fp32, its tokenizer, and what names the content of both."""
    with reading(f"the tokenizer of {origin.spec}", origin.folder) as transformers:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            origin.folder, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    model = read_model(origin.folder, TEXT_MODELS[kind], origin.spec, "text tower")
    # The image tower is the encoder's own.
    del model.vision_model
    seen = hashlib.sha256(tokenizer_digest.encode())
    for name, weights in model.state_dict().items():
        seen.update(name.encode() + weights.contiguous().numpy().tobytes())
    return model.eval().requires_grad_(False), tokenizer, seen.hexdigest()


def _check_told_apart(origin: Repository, texts: Sequence[str], tokens: Tensor) -> None:
    """Raises UserError where the tokenizer reads two texts alike, as one without their letters does."""
    read: dict[tuple[int, ...], str] = {}
    for text, row in zip(texts, tokens.tolist(), strict=True):
        if (other := read.setdefault(tuple(row), text)) != text:
            raise UserError(
                f"the tokenizer of {origin.spec} reads '{other}' and '{text}' alike, so their classes would have one "
                "text. Give other templates or names, or another tokenizer."
            )
