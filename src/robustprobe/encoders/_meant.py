"""What was meant by the name of an encoder that is not known, or that lacks its source."""

import re
from collections.abc import Collection
from pathlib import Path
from types import MappingProxyType

import timm

from robustprobe.core.errors import UserError, letters, nearest, unknown_name

BUNDLED = Path(__file__).parent.parent / "assets" / "encoders"
_SIZES = MappingProxyType({"s": "small", "b": "base", "l": "large", "g": "giant", "h": "huge"})
_FAMILIES = MappingProxyType(
    {
        "dino": ("vit_{size}_patch{patch}_224.dino", "small", "16"),
        "dinov2": ("vit_{size}_patch{patch}_dinov2.lvd142m", "small", "14"),
        "dinov3": ("vit_{size}_patch{patch}_dinov3.lvd1689m", "small", "16"),
        "mae": ("vit_{size}_patch{patch}_224.mae", "base", "16"),
        "clip": ("vit_{size}_patch{patch}_clip_224.openai", "base", "16"),
        "siglip": ("vit_{size}_patch{patch}_siglip_224.webli", "base", "16"),
    }
)
"""What published encoders are called in timm, with the size and the patch that stand for the family."""
_CALLED = re.compile(
    rf"({'|'.join(_FAMILIES)})(?:vit|pretrain)*({'|'.join([*_SIZES.values(), *_SIZES])})?(?:patch)?(\d+)?(?:224)?"
)
_USUAL = ("_patch16_224", "_patch14_224", "_base_patch16_224")


def meant(name: str, short_names: Collection[str]) -> str:
    """` Did you mean 'timm:resnet50'?` for a name without its source; empty where nothing is similar."""
    if name.endswith(":"):
        return ""
    found = _with_source(name)
    return f" Did you mean '{found}'?" if found else _near(name, short_names)


def _with_source(name: str) -> str:
    """The name with the source that it lacks; empty where nothing says which."""
    if name.endswith(".py"):
        return f"{name}:Class"
    if Path(name).is_file():
        return f"file:{name}?arch=NAME"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        owner, _, own = name.partition("/")
        return f"timm:{own}" if owner == "timm" and timm.is_model(own.partition(".")[0]) else f"hf:{name}"
    if (BUNDLED / name.lower() / "card.json").is_file():
        return f"bundled:{name.lower()}"
    return f"timm:{found}" if (found := _published(name) or _same_letters(name)) else ""


def _near(name: str, short_names: Collection[str]) -> str:
    bundled = [f"bundled:{path.parent.name}" for path in BUNDLED.glob("*/card.json")]
    if found := nearest(name, [*bundled, *short_names]):
        return found
    longer = _longer(name)
    return f" Did you mean 'timm:{longer}'?" if longer else nearest(f"timm:{name}", [f"timm:{m}" for m in _models()])


def unknown_timm_name(name: str) -> UserError:
    """The error for a name that timm does not know, with the name that is meant there."""
    models = _models()
    found = _published(name) or _same_letters(name) or _longer(name)
    hint = f" Did you mean '{found}'?" if found else nearest(name, models)
    return UserError(
        f"unknown timm model '{name}'.{hint} {len(models):,} are known: `robustprobe list encoders WORD` shows them."
    )


def unknown_tag(architecture: str, tag: str) -> UserError:
    """The error for a tag that no weights of an architecture have."""
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    return unknown_name(f"tag of {architecture}", tag, tags)


def published_names(name: str) -> dict[str, str]:
    """What a name that papers and other libraries use is in timm, by its letters and digits; empty where unknown."""
    return {letters(name): found} if (found := _published(name) or _same_letters(name)) else {}


def _models() -> list[str]:
    return list(timm.list_models())


def _published(name: str) -> str:
    """The name in timm of an encoder that papers and other libraries call otherwise: `dino_vits16`."""
    found = _CALLED.fullmatch(letters(name))
    if found is None:
        return ""
    family, size, patch = found.groups()
    pattern, usual_size, usual_patch = _FAMILIES[family]
    named = pattern.format(size=_SIZES.get(size, size) or usual_size, patch=patch or usual_patch)
    return named if timm.is_model_pretrained(named) else ""


def _same_letters(name: str) -> str:
    """An architecture that differs from the name in dots, dashes and case only, with the tag of the name."""
    architecture, dot, tag = name.partition(".")
    found = next((one for one in _models() if letters(one) == letters(architecture)), "")
    return f"{found}{dot}{tag}" if found else ""


def _longer(name: str) -> str:
    """The architecture that a name is the beginning of: the usual one, or else the shortest."""
    start = name.lower()
    models = [one for one in _models() if len(start) > 2 and one.startswith(start)]
    return next((start + end for end in _USUAL if start + end in models), min(models, key=len, default=""))
