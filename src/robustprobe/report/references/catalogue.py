"""References: published tables with their source and what differs in protocol, one YAML file each."""

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from robustprobe.core.errors import unknown_name
from robustprobe.core.sizes import Eps
from robustprobe.core.spec_base import Spec, validated

FOLDER = Path(__file__).parents[2] / "assets" / "references"


class PublishedScore(Spec):
    """A score under an attack, by its name in the publication."""

    attack: str
    eps: Eps
    value: float


class PublishedEncoder(Spec):
    """An encoder or a whole network, its clean score, and its scores under attacks."""

    encoder: str
    clean: float
    attacked: tuple[PublishedScore, ...] = Field(min_length=1)


class Reference(Spec):
    """A published table: where it stands, how it was read, and what differs from robustprobe's protocol.

    `ours` names the attacks of robustprobe that come nearest to the publication's, the nearest first.
    """

    title: str
    citation: str
    read: str
    task: str
    dataset: str
    metric: str
    unit: Literal["share", "m"] = "share"
    higher_is_better: bool
    ours: tuple[str, ...] = Field(min_length=1)
    differences: tuple[str, ...] = Field(min_length=1)
    rows: tuple[PublishedEncoder, ...] = Field(min_length=1)


@cache
def references() -> dict[str, Reference]:
    """Every reference by its name, which is that of its file."""
    return {p.stem: _read(p) for p in sorted(FOLDER.glob("*.yaml"))}


def find_reference(name: str) -> Reference:
    """A reference by its name. Raises UserError for an unknown one."""
    if name not in references():
        raise unknown_name("reference", name, references())
    return references()[name]


def _read(path: Path) -> Reference:
    return validated(Reference, yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
