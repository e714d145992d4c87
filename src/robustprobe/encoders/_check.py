"""Checks of an encoder against the contract of `Encoder`, each on random images."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustprobe.core.errors import UserError
from robustprobe.core.gradients import image_gradient
from robustprobe.core.types import Features
from robustprobe.encoders._wrapped import WrappedNetwork
from robustprobe.encoders.base import Encoder

SOURCES = "robustprobe.encoders."
GRID, LEAST_GRID = 6, 4
MOST_SHIFTED = 17
"""A class token and 16 registers before the patches; behind them are two tokens at most."""
MOST_IN_PLACE, LEAST_ELSEWHERE = 0.4, 0.75
"""Shares of the changed patches that move the token of their place most; far from each other in a known wrong order."""
NEARLY = 1e-3
REACHED = 0.9
WIDEST, BYTES = 12.0, 100.0
"""No usual normalisation spreads black and white as far as the first, where images are not in 0 to 255."""
OFF_CENTRE = 0.2
"""Usual normalisations leave mid grey near 0; a second one moves it below by more than this share of the width."""


class ContractCheck(NamedTuple):
    """One clause of the contract, whether the encoder meets it, and what was measured."""

    name: str
    passed: bool
    seen: str


def check_encoder(encoder: Encoder) -> list[ContractCheck]:
    """Run every check of the contract, in order; a check that raises has failed."""
    checks: dict[str, Callable[[Encoder], tuple[bool, str]]] = {
        "frozen, in evaluation mode": _frozen,
        "shapes as in the card": _shapes,
        "deterministic features": _deterministic,
        "features independent of the batch": _alone,
        "gradient reaches the pixels": _gradient,
        "images in [0, 1], normalised inside": _normalised,
        "patch tokens in image order": _in_place,
        "several sizes": _sizes,
    }
    found = []
    for name, check in checks.items():
        try:
            found.append(ContractCheck(name, *check(encoder)))
        except UserError as error:
            found.append(ContractCheck(name, False, _once(str(error), found)))
        except Exception as error:
            seen = f"{type(error).__name__}: {str(error).strip()[:300]}"
            found.append(ContractCheck(name, False, _once(seen, found)))
    return found


def _once(message: str, found: Sequence[ContractCheck]) -> str:
    """A message, or where it stands already: one fault may make several checks fail."""
    earlier = next((check.name for check in found if check.seen == message), None)
    return f"as above: {earlier}" if earlier else message


def _frozen(encoder: Encoder) -> tuple[bool, str]:
    training = [n or "itself" for n, m in encoder.named_modules() if m.training]
    asking = [n for n, p in encoder.named_parameters() if p.requires_grad]
    if training:
        return False, f"{len(training)} modules in training mode, such as {training[0]}"
    if asking:
        return False, f"{len(asking)} parameters require a gradient, such as {asking[0]}"
    return True, f"{sum(p.numel() for p in encoder.parameters()):,} parameters"


def _shapes(encoder: Encoder) -> tuple[bool, str]:
    passed, seen = _fits(encoder, encoder.card.input_size)
    wrong = _not_finite(encoder) if passed else []
    return passed and not wrong, f"NaN or infinity on {', '.join(wrong)} images" if wrong else seen


def _sizes(encoder: Encoder) -> tuple[bool, str]:
    if encoder.card.fixed_size:
        return True, f"one size only, {encoder.card.input_size}, as in the card"
    patch = encoder.card.patch_size
    sizes = [(GRID * patch, GRID * patch), (GRID * patch, (GRID + 2) * patch), ((GRID + 3) * patch, GRID * patch)]
    for size in sizes:
        passed, seen = _fits(encoder, size)
        if not passed:
            return False, f"images of {size}: {seen}"
    return True, ", ".join(f"{h} x {w}" for h, w in sizes)


@torch.no_grad()
def _fits(encoder: Encoder, size: tuple[int, int]) -> tuple[bool, str]:
    patch, widths = encoder.card.patch_size, encoder.card.widths
    features = encoder(_images(encoder, size))
    wanted = (2, widths.cls), (2, widths.patch, size[0] // patch, size[1] // patch)
    seen = tuple(features.cls.shape), tuple(features.patches.shape)
    if seen != wanted:
        return False, f"cls and patches of {seen[0]} and {seen[1]} instead of {wanted[0]} and {wanted[1]}"
    if not all(torch.isfinite(f).all() for f in features):
        return False, "features that are not finite"
    return True, f"cls {seen[0]}, patches {seen[1]}"


@torch.no_grad()
def _deterministic(encoder: Encoder) -> tuple[bool, str]:
    images = _images(encoder)
    gap = _gap(encoder(images), encoder(images))
    return gap == 0 or (images.is_cuda and gap < NEARLY), f"relative difference {gap:.1e}"


@torch.no_grad()
def _alone(encoder: Encoder) -> tuple[bool, str]:
    images = _images(encoder)
    together, alone = encoder(images), encoder(images[:1])
    gap = _gap(Features(*(f[:1] for f in together)), alone)
    return gap < NEARLY, f"relative difference {gap:.1e}"


@torch.no_grad()
def _not_finite(encoder: Encoder) -> list[str]:
    """Of black, white and grey images, which have no contrast that code could divide by, those with wrong features."""
    images = _images(encoder)
    plain = {"black": 0.0, "white": 1.0, "grey": 0.5}
    return [k for k, v in plain.items() if not all(f.isfinite().all() for f in encoder(torch.full_like(images, v)))]


def _gradient(encoder: Encoder) -> tuple[bool, str]:
    images = _images(encoder).requires_grad_(True)
    with torch.enable_grad():
        features = encoder(images)
        shares = []
        for name, values in features._asdict().items():
            gradient = image_gradient(values.square().sum(), images, keep_graph=True)
            if not torch.isfinite(gradient).all():
                return False, f"one that is not finite, from {name}"
            shares.append((gradient != 0).float().mean().item())
    return min(shares) >= REACHED, f"from cls to {shares[0]:.0%} and from patches to {shares[1]:.0%} of the values"


@torch.no_grad()
def _normalised(encoder: Encoder) -> tuple[bool, str]:
    """The input of the first layer with weights for black and white images shows whether they were normalised."""
    images = _images(encoder)
    black, white = (_seen_first(encoder, torch.full_like(images, value)) for value in (0.0, 1.0))
    if black is None or white is None:
        return True, "no convolution or linear layer to inspect"
    seen = f"the first layer gets black as {black:.2f} and white as {white:.2f}"
    if abs(white - black) < 0.1:
        return False, f"{seen}: the encoder seems to expect values up to 255"
    middle, width = (black + white) / 2, white - black
    if WIDEST < width < BYTES or (width < BYTES and middle < -OFF_CENTRE * width):
        return False, f"{seen}: images seem to be normalised twice"
    if abs(black) < NEARLY and abs(white - 1) < NEARLY:
        return True, f"{seen}: nothing is normalised inside, which is right for weights that were trained so"
    return True, seen


def _seen_first(encoder: Encoder, images: Tensor) -> float | None:
    seen: list[float] = []

    def look(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if not seen and arguments:
            seen.append(arguments[0].float().mean().item())

    layers = [m for m in encoder.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_pre_hook(look) for m in layers]
    try:
        encoder(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen else None


def _in_place(encoder: Encoder) -> tuple[bool, str]:
    """Patches are changed one at a time: what changes most of their tokens must not lie elsewhere in the map."""
    grid = tuple(side // encoder.card.patch_size for side in _images(encoder).shape[2:])
    if min(grid) < LEAST_GRID:
        return True, "the map is too small for this check"
    doubt = _order_doubt(encoder)
    return not doubt, doubt or "no other order of the patches explains what changes of single patches do"


def order_doubt(encoder: Encoder) -> str:
    """A sentence on patch tokens of a user's own encoder or network that are not in the order of the image, else empty.

    Sources of encoders are tested for that. An encoder that fails says so where it is used.
    """
    if type(encoder).__module__.startswith(SOURCES) and not isinstance(encoder, WrappedNetwork):
        return ""
    with suppress(UserError):
        return _order_doubt(encoder)
    return ""


@torch.no_grad()
def _order_doubt(encoder: Encoder) -> str:
    """A sentence on patch tokens that are not in the order of the image: shifted, as where a class token or registers
    were not taken away, or turned; empty where none of these orders fits the features well, or the map is small.

    Patches of a row, of the first and of the last column are changed one at a time on a grey image. A token belongs to
    the patch whose change moves it most. So many tokens do not fit a wrong order by chance. In a list of tokens that is
    shifted, the ends of rows come into the next one; a convolution may see to one side, and does not do that.
    """
    patch, plain = encoder.card.patch_size, torch.full_like(_images(encoder)[:1], 0.5)
    height, width = plain.shape[2] // patch, plain.shape[3] // patch
    if min(height, width) < LEAST_GRID:
        return ""
    row, ends = 1, [*range(GRID // 2), *range(width - GRID // 2, width)]
    columns = [(y, x) for y in range(min(height, GRID)) for x in (0, width - 1)]
    places = list(dict.fromkeys([*((row, x) for x in ends), *columns]))
    changed = plain.repeat(len(places), 1, 1, 1)
    red = torch.tensor([1.0, 0.0, 0.0]).to(plain.device)[:, None, None]
    for image, (y, x) in zip(changed, places, strict=True):
        image[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch] = red
    moved = (encoder(changed).patches - encoder(plain).patches).square().sum(1).flatten(1)

    def share(order: Callable[[int, int], int]) -> float:
        """Of the tokens that an order gives to the changed patches, how many these move most; 0 if most have none."""
        where = [(number, order(y, x)) for number, (y, x) in enumerate(places)]
        inside = [(number, place) for number, place in where if 0 <= place < height * width]
        right = sum(int(moved[:, place].argmax()) == number for number, place in inside)
        return right / len(inside) if len(inside) > len(places) / 2 else 0.0

    if share(lambda y, x: y * width + x) > MOST_IN_PLACE:
        return ""
    # A shift by whole rows is not told from a convolution that sees upwards.
    shifts = [n for n in (-2, -1, *range(1, MOST_SHIFTED + 1)) if n % width]
    wrong: dict[str, Callable[[int, int], int]] = {
        **{f"are shifted by {n}": partial(_shifted, width, n) for n in shifts},
        "have rows and columns exchanged": lambda y, x: x * height + y,
        "are mirrored": lambda y, x: y * width + width - 1 - x,
        "are upside down": lambda y, x: (height - 1 - y) * width + x,
    }
    found = max(wrong, key=lambda name: share(wrong[name]))
    if share(wrong[found]) < LEAST_ELSEWHERE:
        return ""
    return (
        f"patch tokens {found}: heads on patches see another part of the image than their labels. Take class and "
        "register tokens away, and keep the order of the image, row by row"
    )


def _shifted(width: int, by: int, y: int, x: int) -> int:
    return y * width + x + by


def _images(encoder: Encoder, size: tuple[int, int] | None = None) -> Tensor:
    """Two images of noise in [0, 1], of a small size if the encoder takes any size."""
    small = (GRID * encoder.card.patch_size,) * 2
    height, width = size or (encoder.card.input_size if encoder.card.fixed_size else small)
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    placed = next(iter(encoder.state_dict().values()), images)
    return images.to(placed.device)


def _gap(first: Features, second: Features) -> float:
    """The largest difference of features, relative to the largest feature."""
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item() for a, b in zip(first, second, strict=True)
    )
