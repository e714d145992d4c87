"""What was meant by the name of an encoder that lacks its source."""

import re
from collections.abc import Collection
from pathlib import Path

import timm

from robustprobe.core.errors import nearest

BUNDLED = Path(__file__).parent.parent / "assets" / "encoders"


def meant(name: str, short_names: Collection[str]) -> str:
    """` Did you mean 'timm:resnet50'?` for a name without its source; empty where nothing is similar."""
    if name.endswith(".py"):
        return f" Did you mean '{name}:Class'?"
    if Path(name).is_file():
        return f" Did you mean 'file:{name}?arch=NAME'?"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return f" Did you mean 'hf:{name}'?"
    if timm.is_model(name.lower()):
        return f" Did you mean 'timm:{name.lower()}'?"
    bundled = [f"bundled:{path.parent.name}" for path in BUNDLED.glob("*/card.json")]
    if f"bundled:{name}" in bundled:
        return f" Did you mean 'bundled:{name}'?"
    return nearest(name, [*bundled, *short_names]) or nearest(f"timm:{name}", [f"timm:{m}" for m in timm.list_models()])
