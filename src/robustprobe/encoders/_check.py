"""Checks of an encoder against the contract of `Encoder`, each on random images."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustprobe.core.errors import UserError
from robustprobe.core.gradients import image_gradient
from robustprobe.core.types import Features
from robustprobe.encoders.base import Encoder

GRID = 6
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


@torch.no_grad()
def _in_place(encoder: Encoder) -> tuple[bool, str]:
    """One patch is changed: its token must change more than the token with row and column exchanged."""
    patch = encoder.card.patch_size
    plain = torch.full_like(_images(encoder)[:1], 0.5)
    if min(plain.shape[2:]) < 4 * patch:
        return True, "the map is too small for this check"
    marked = plain.clone()
    marked[:, :, :patch, 3 * patch : 4 * patch] = torch.tensor([1.0, 0.0, 0.0], device=plain.device)[:, None, None]
    change = (encoder(marked).patches - encoder(plain).patches).square().sum(1)[0]
    here, mirror = change[0, 3].item(), change[3, 0].item()
    if here <= mirror:
        return False, "a change at the right of the first row appears further down: rows and columns are exchanged"
    row, column = divmod(int(change.argmax()), change.shape[1])
    return True, f"a change at (0, 3) is largest at ({row}, {column})"


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
