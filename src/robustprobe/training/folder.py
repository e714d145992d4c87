"""What a run leaves on disk, each file or folder whole or not there at all.

OUT/hardening.json                  what the run does
OUT/checkpoints/epoch-003/          an encoder after that epoch: card.json, encoder.safetensors; 0 is the teacher
OUT/state.safetensors               all that continuing needs
OUT/log.jsonl                       a line an update, and a line a look at held-out images
OUT/card.json, encoder.safetensors  the result, once it is done
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
from robustprobe.core.spec import format_eps
from robustprobe.encoders import Encoder
from robustprobe.encoders.file import CARD, WEIGHTS, Architecture, NamedArchitecture, build
from robustprobe.encoders.timm import TimmMap, TimmViT

SPEC, STATE, LOG, CHECKPOINTS = "hardening.json", "state.safetensors", "log.jsonl", "checkpoints"


def architecture_of(encoder: Encoder) -> dict[str, Any]:
    """What an encoder folder's card says of an architecture, tried out: a rebuilt encoder gives the same features.

    Raises:
        UserError: a folder cannot describe this encoder.
    """
    for described in _descriptions(encoder):
        if _rebuilds(described, encoder):
            return described.model_dump(mode="json")
    raise UserError(
        f"{encoder.card.name} cannot be hardened yet, because the result could not be saved: it is no model that "
        "timm builds by name. Take bundled:NAME, timm:NAME, file:DIR, or a checkpoint with file:PATH?arch=NAME."
    )


def _descriptions(encoder: Encoder) -> Iterator[Architecture | NamedArchitecture]:
    """What may describe an encoder, the shortest first."""
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
    """Where a run stands: updates done, seconds spent, and all tensors by name."""

    step: int
    seconds: float
    tensors: dict[str, Tensor]


@final
class RunFolder:
    """The folder of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, description: Mapping[str, Any]) -> bool:
        """Make the folder this run's; whether it was so before.

        Raises:
            UserError: it holds another run, or cannot be written.
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
        """Whether the result is there."""
        return (self.path / CARD).exists() and (self.path / WEIGHTS).exists()

    def checkpoint(self, epoch: int) -> Path:
        """The encoder folder of an epoch."""
        return self.path / CHECKPOINTS / f"epoch-{epoch:03d}"

    def checkpoints(self) -> dict[int, Path]:
        """Encoder folders by epoch."""
        found = sorted((self.path / CHECKPOINTS).glob("epoch-*/card.json"))
        return {int(p.parent.name.partition("-")[2]): p.parent for p in found}

    def save_encoder(self, path: Path, card: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """An encoder folder. The card comes last where the folder exists already."""
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
        """Keep all that continuing needs."""
        facts = {"step": str(saved.step), "seconds": repr(saved.seconds)}
        _write_tensors(self.path / STATE, saved.tensors, facts)

    def state(self) -> TrainingState | None:
        """Where the run stands, None at its start. Raises UserError for an unreadable file."""
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
        """Add a line to the log."""
        with (self.path / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop lines of the log about updates that will be done again, a line cut off, and files never finished."""
        sweep([self.path])
        path = self.path / LOG
        kept = [line for line in read_log(path) if line["step"] <= step]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: dict[str, str] | None = None) -> None:
    """A safetensors file."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(whole, metadata=facts))


def _read(path: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}. Give another folder with --out.") from error


def card_of(encoder: Encoder, architecture: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a hardened encoder; `facts` say how it came to be."""
    eps = format_eps(float(facts["eps"]))
    name = f"{encoder.card.name.rpartition(':')[2].rpartition('/')[2]}-{facts['method']}"
    return {
        "name": name,
        "summary": f"{encoder.card.name} after {facts['method']} at {eps}, epoch {facts['epoch']}",
        "licence": encoder.card.licence,
        "teacher": encoder.card.name,
        "architecture": dict(architecture),
        "hardening": dict(facts),
    }
