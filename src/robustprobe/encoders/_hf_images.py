"""What a repository's image processor does to pixels, read from its settings."""

import json
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from robustprobe.core.errors import UserError

FILES = ("preprocessor_config.json", "processor_config.json")
AS_USUAL = 1e-6


class PixelScale(NamedTuple):
    """Mean and standard deviation for images in [0, 1], and a note where the settings are implausible."""

    mean: list[float]
    std: list[float]
    note: str = ""


def read_json(path: Path, spec: str) -> dict[str, Any]:
    """The JSON object of a repository's file. Raises UserError where there is none."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{spec} has no {path.name} in {path.parent}; an encoder's repository holds one.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}; expected a JSON object.")
    return found


def processor_settings(folder: Path, spec: str) -> dict[str, Any]:
    """Settings of the image processor: a file of their own, or as transformers 5 saves them, a part of the processor's.

    Raises:
        UserError: the repository has neither, or a file without an image processor.
    """
    own, shared = (folder / name for name in FILES)
    if own.is_file() or not shared.is_file():
        return read_json(own, spec)
    part = read_json(shared, spec).get("image_processor")
    if not isinstance(part, dict):
        raise UserError(f"{shared.name} of {spec} describes no image processor, and there is no {own.name}.")
    return part


def pixel_scale(settings: dict[str, Any], spec: str) -> PixelScale:
    """What the processor does to pixels of 0 to 255, as mean and deviation of images in [0, 1].

    It multiplies by `rescale_factor` (1/255) unless `do_rescale` is false, then subtracts `image_mean` and divides by
    `image_std` unless `do_normalize` is false.

    Raises:
        UserError: settings that are not numbers.
    """
    factor = settings.get("rescale_factor", 1 / 255)
    if not (_is_number(factor) and factor > 0):
        raise UserError(f"the image processor of {spec} has a rescale_factor of {factor!r}; expected a number above 0.")
    scale = 255 * factor if settings.get("do_rescale", True) else 255.0
    scale = 1.0 if abs(scale - 1) < AS_USUAL else scale
    mean, std = _mean_and_std(settings, spec)
    # As the settings say, but images that were scaled before would look like this too.
    note = ""
    if scale > 2 and max(std) <= 1:
        note = (
            f"its image processor does not scale pixels to [0, 1] (do_rescale false) and normalises with deviations of "
            f"{max(std):g} at most: the network sees values up to {(scale - min(mean)) / min(std):,.0f}"
        )
    return PixelScale([m / scale for m in mean], [s / scale for s in std], note)


def check_channels(config: Any, spec: str) -> None:
    """Raises UserError for a model that takes other than three channels, or patches that are no squares."""
    channels, patch = getattr(config, "num_channels", 3), config.patch_size
    if channels != 3:
        raise UserError(
            f"{spec} takes images of {channels} channel{'s' * (channels != 1)}; robustprobe's images have 3. Write "
            "your own class that converts them, as my.py:Class."
        )
    if not isinstance(patch, int):
        raise UserError(f"{spec} has patches of {patch}; robustprobe reads square ones. Use another model.")


def _mean_and_std(settings: dict[str, Any], spec: str) -> tuple[list[float], list[float]]:
    if settings.get("do_normalize") is False:
        return [0.0] * 3, [1.0] * 3
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if not (_is_colour(mean) and _is_colour(std) and all(std)):
        raise UserError(f"the image processor of {spec} gives no image_mean and image_std of 3 numbers.")
    return mean, std


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and isfinite(value)


def _is_colour(value: object) -> TypeGuard[list[float]]:
    numbers = value if isinstance(value, list) else []
    return len(numbers) == 3 and all(map(_is_number, numbers))
