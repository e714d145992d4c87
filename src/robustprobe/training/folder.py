"""The folder of a hardening run. Each file in it is complete or absent.

OUT/hardening.json                  the specification of the run
OUT/checkpoints/epoch-003/          an encoder after that epoch: card.json, encoder.safetensors; 0 is the teacher
OUT/state.safetensors               all that is needed to resume
OUT/log.jsonl                       one line per update, with feature drift after an epoch
OUT/card.json, encoder.safetensors  the result, once the run is done
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.files import sweep, write_whole
from robustprobe.core.sizes import format_eps
from robustprobe.encoders import Encoder
from robustprobe.encoders.file import CARD, WEIGHTS, Architecture, NamedArchitecture, build
from robustprobe.encoders.timm import TimmMap, TimmViT

SPEC, STATE, LOG, CHECKPOINTS = "hardening.json", "state.safetensors", "log.jsonl", "checkpoints"


def architecture_of(encoder: Encoder) -> dict[str, Any]:
    """The entry `architecture` of an encoder folder's card, tested: an encoder built from it gives the same features.

    Raises:
        UserError: an encoder folder cannot describe this architecture.
    """
    for described in _descriptions(encoder):
        if _rebuilds(described, encoder):
            return described.model_dump(mode="json")
    raise UserError(
        f"{encoder.card.name} cannot be hardened, because the result could not be saved: it is not a model that "
        "timm builds by name. Use bundled:NAME, timm:NAME, file:DIR, or a checkpoint with file:PATH?arch=NAME."
    )


def _descriptions(encoder: Encoder) -> Iterator[Architecture | NamedArchitecture]:
    """Descriptions that may fit an encoder, the shortest first."""
    if not isinstance(encoder, TimmViT | TimmMap):
        return
    norm = {"mean": tuple(encoder.mean.flatten().tolist()), "std": tuple(encoder.std.flatten().tolist())}
    if encoder.architecture:
        yield NamedArchitecture(timm=encoder.architecture, img_size=encoder.card.input_size[0], **norm)
    elif isinstance(encoder.model, VisionTransformer):
        model = cast(Any, encoder.model)
        yield Architecture(
            img_size=encoder.card.input_size[0],
            patch_size=encoder.card.patch_size,
            embed_dim=model.embed_dim,
            depth=len(model.blocks),
            num_heads=model.blocks[0].attn.num_heads,
            **norm,
        )


def _rebuilds(described: Architecture | NamedArchitecture, encoder: Encoder) -> bool:
    try:
        again = build(described, encoder.card.name)
        again.model.load_state_dict(cast(TimmViT | TimmMap, encoder).model.state_dict())
        images = torch.rand(1, 3, *encoder.card.input_size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            there, here = again.freeze()(images), encoder.cpu()(images)
    except (RuntimeError, ValueError, UserError):
        return False
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(there, here, strict=True))


class TrainingState(NamedTuple):
    """What is needed to resume: updates done, seconds spent, and all tensors by name."""

    step: int
    seconds: float
    tensors: dict[str, Tensor]


@final
class RunFolder:
    """Reads and writes the folder of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, description: Mapping[str, Any]) -> bool:
        """Reserve the folder for this run; returns whether it was reserved for it before.

        Raises:
            UserError: the folder holds another run, or cannot be written.
        """
        path = self.path / SPEC
        wanted = json.loads(json.dumps(description))
        if path.exists():
            found = _read(path)
            other = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
            if other:
                said = "; ".join(f"{k} {found.get(k)} there, {wanted.get(k)} here" for k in other[:4])
                raise UserError(
                    f"{self.path} holds another run ({said}). Give another folder with --out, or the same options."
                )
            return True
        try:
            (self.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(wanted, indent=1).encode())
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error}. Give another folder with --out.") from error
        return False

    @property
    def finished(self) -> bool:
        """Whether the run is done and its result complete."""
        return (self.path / CARD).exists() and (self.path / WEIGHTS).exists()

    def checkpoint(self, epoch: int) -> Path:
        """Path of the encoder after an epoch."""
        return self.path / CHECKPOINTS / f"epoch-{epoch:03d}"

    def checkpoints(self) -> dict[int, Path]:
        """Paths of the encoders there are, by epoch."""
        found = sorted((self.path / CHECKPOINTS).glob("epoch-*/card.json"))
        return {int(p.parent.name.partition("-")[2]): p.parent for p in found}

    def save_encoder(self, path: Path, card: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Write an encoder folder: by a rename, or into the folder of the run, where the card is written last."""
        making = path.parent / f"{path.name}.tmp" if path != self.path else self.path
        if path != self.path:
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
        _write_tensors(making / WEIGHTS, weights)
        write_whole(making / CARD, (json.dumps(card, indent=2) + "\n").encode())
        if making != path:
            shutil.rmtree(path, ignore_errors=True)
            making.rename(path)

    def save_state(self, saved: TrainingState) -> None:
        """Write all that is needed to resume."""
        facts = {"step": str(saved.step), "seconds": repr(saved.seconds)}
        _write_tensors(self.path / STATE, saved.tensors, facts)

    def state(self) -> TrainingState | None:
        """The saved state, or None where nothing was saved. Raises UserError for an unreadable file."""
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TrainingState(int(facts["step"]), float(facts["seconds"]), tensors)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}. Delete it to begin again.") from error

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line to the log."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Remove lines of the log after update `step`, an incomplete last line, and incomplete files."""
        sweep([self.path])
        path = self.path / LOG
        kept = [line for line in read_log(path) if line["step"] <= step]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a log."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: dict[str, str] | None = None) -> None:
    """Write tensors as a safetensors file."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(whole, metadata=facts))


def _read(path: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}. Give another folder with --out.") from error


def card_of(encoder: Encoder, architecture: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a hardened encoder; `facts` say how it was made."""
    eps = format_eps(float(facts["eps"]))
    name = f"{encoder.card.name.rpartition(':')[2].rpartition('/')[2]}-{facts['method']}"
    return {
        "name": name,
        "summary": f"{encoder.card.name} after {facts['method']} at {eps}, epoch {facts['epoch']}",
        "licence": encoder.card.licence,
        "teacher": encoder.card.spec or encoder.card.name,
        "architecture": dict(architecture),
        "hardening": dict(facts),
    }
