"""Any network as an encoder: its patch tokens are found, its images normalised."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from robustprobe.core.arguments import checked_types
from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.freeze import frozen
from robustprobe.core.types import FeatureDims, Features
from robustprobe.core.usual_mode import usual_mode
from robustprobe.encoders.base import Encoder, EncoderCard

Grid = tuple[int, int]
# Networks that take any size are asked with this many patches more.
MORE = 2
MOST_PIXELS = 8192
"""Of a side of an image, as in the card of an encoder folder."""


class _Layout(NamedTuple):
    """How patch tokens lie in an output: `map` (B, D, h, w), `channels last` (B, h, w, D) or `tokens` (B, T, D)."""

    kind: str
    width: int
    ahead: int = 0


@checked_types("network")
@usual_mode()
def wrap(
    network: nn.Module,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    patch_size: int | None = None,
    input_size: int | Grid = (224, 224),
    layer: str | None = None,
    name: str = "",
) -> Encoder:
    """Any network as an `Encoder`: a classifier of torchvision, a transformer, or one of your own.

    Patch tokens are the last output inside that is a map (B, D, h, w) or (B, h, w, D), or a list of tokens (B, T, D),
    with a patch for every `patch_size` pixels; a class token and registers may stand before them. `cls` is the first
    token, or the mean of the patch tokens where there is no class token.

    Args:
        network: it takes images (B, 3, H, W), normalised by `mean` and `std`.
        mean: of each channel, in [0, 1], as the network was trained with; None: images are taken as they are.
        std: of each channel.
        patch_size: pixels along a patch; by default found from the size of the map.
        input_size: (H, W), or one number, of images that the network is made for.
        layer: name of the module inside whose output is read, such as `layer4`; by default the last that fits.
        name: what results call it; by default the name of its class.

    Raises:
        UserError: no such layer, no output that fits, or a network that does not take images of `input_size`.

    Example:
        >>> import robustprobe as rp, torchvision
        >>> network = torchvision.models.resnet18()  # weights="DEFAULT" downloads the published ones
        >>> encoder = rp.wrap(network, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> encoder.card.patch_size, encoder.card.widths  # what was found; then rp.evaluate(encoder, ...)
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"wrap takes a network (nn.Module), not a {type(network).__name__}; give the network itself.")
    if isinstance(network, Encoder):
        return network
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if wrong := [side for side in (*size, 1 if patch_size is None else patch_size) if not 1 <= side <= MOST_PIXELS]:
        raise UserError(f"a side of {wrong[0]} pixels is none; give 1 to {MOST_PIXELS}, such as input_size=224.")
    shift, scale = _channels(mean, 0.0, "mean"), _channels(std, 1.0, "std")
    if not bool((scale > 0).all()):
        raise UserError(f"std is {scale.tolist()}; expected numbers above 0, such as 0.229.")
    with frozen(network):
        found = _find(network, (shift, scale), size, patch_size, layer)
    notes = f"features are read from {found.layer or 'its output'}"
    if mean is None and std is None:
        notes += "; images in [0, 1] are not normalised, as no mean and std were given"
    card = EncoderCard(
        name=name or type(network).__name__,
        source="wrap",
        notes=notes,
        patch_size=found.patch,
        input_size=size,
        fixed_size=found.fixed_size,
        widths=FeatureDims(found.layout.width, found.layout.width),
    )
    return WrappedNetwork(card, network, shift, scale, found.layer, found.layout).freeze()


@final
class WrappedNetwork(Encoder):
    """A network whose patch tokens are the output of one of its modules, or its own."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, card: EncoderCard, network: nn.Module, mean: Tensor, std: Tensor, layer: str, layout: _Layout
    ) -> None:
        super().__init__(card)
        self.network, self.layer, self.layout = network, layer, layout
        where = next(iter(network.state_dict().values()), mean)
        self.register_buffer("mean", mean.to(where.device))
        self.register_buffer("std", std.to(where.device))

    def features(self, images: Tensor) -> Features:
        height, width = images.shape[2] // self.card.patch_size, images.shape[3] // self.card.patch_size
        given = (images - self.mean) / self.std
        if not torch.is_autocast_enabled(images.device.type):
            # Weights may be of another type, such as float16.
            given = given.to(next((w.dtype for w in self.network.parameters() if w.is_floating_point()), given.dtype))
        outputs = _outputs(self.network, given, self.layer)
        if self.layer not in outputs:
            raise UserError(f"{self.card.name}: the layer {self.layer} answered no tensor for these images.")
        return _read(outputs[self.layer], self.layout, (height, width))

    def settings(self) -> list[int | float | str]:
        # What a module holds beside weights, such as strides and activations, stands in its own description.
        shape = re.sub(r" at 0x[0-9a-f]+", "", repr(self.network))
        return [self.layer, *map(str, self.layout), self.card.patch_size, shape]


class _Found(NamedTuple):
    layer: str
    layout: _Layout
    patch: int
    fixed_size: bool


def _channels(given: float | Sequence[float] | None, default: float, what: str) -> Tensor:
    values = torch.as_tensor(default if given is None else given, dtype=torch.float32).flatten()
    if len(values) not in (1, 3) or not torch.isfinite(values).all():
        raise UserError(f"{what} is {given}; expected one number, or one for each of the three channels.")
    return values.expand(3).reshape(3, 1, 1).clone()


def _find(network: nn.Module, norm: tuple[Tensor, Tensor], size: Grid, patch: int | None, layer: str | None) -> _Found:
    modules = dict(network.named_modules())
    if layer is not None and layer not in modules:
        raise unknown_name(f"layer of {type(network).__name__}", layer, [n for n in modules if n])
    seen = _tried(network, norm, size)
    if isinstance(seen, Exception):
        raise UserError(
            f"{type(network).__name__} does not take images of {size}: {type(seen).__name__}: {seen}. Give its "
            "input_size."
        ) from seen
    names = [layer] if layer is not None else ["", *[n for n in reversed(seen) if n]]
    for key in names:
        for found in _fits(seen.get(key), size, patch):
            side = (size[0] + MORE * found[1], size[1] + MORE * found[1])
            other = _tried(network, norm, side)
            if isinstance(other, Exception):
                return _Found(key, *found, True)
            if any(found == again for again in _fits(other.get(key), side, found[1])):
                return _Found(key, *found, False)
    shapes = ", ".join(f"{n or 'its output'} {tuple(t.shape)}" for n, t in list(seen.items())[-6:])
    raise UserError(
        f"no patch tokens found in {type(network).__name__}{f' at {layer}' if layer else ''} for images of {size}"
        f"{f' and patch size {patch}' if patch else ''}; it answers {shapes}. Name a layer=, or write an Encoder."
    )


def _tried(network: nn.Module, norm: tuple[Tensor, Tensor], size: Grid) -> "dict[str, Tensor] | Exception":
    where = next(iter(network.state_dict().values()), norm[0])
    kind = where.dtype if where.is_floating_point() else torch.float32
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    images = ((images - norm[0]) / norm[1]).to(where.device, kind)
    try:
        with torch.no_grad():
            return _outputs(network, images)
    except Exception as error:
        return error


def _outputs(network: nn.Module, images: Tensor, only: str | None = None) -> dict[str, Tensor]:
    """Outputs by the name of the module, in the order in which they were made, the network's own (``""``) last."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, answer: Any) -> None:
            tensor = _main(answer)
            if tensor is not None:
                outputs.pop(name, None)
                outputs[name] = tensor

        return hook

    hooks = [m.register_forward_hook(keep(n)) for n, m in network.named_modules() if only is None or n == only]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _main(answer: Any) -> Tensor | None:
    """The tensor of patch tokens in an answer: itself, of DINOv2's and transformers' dictionaries, or the first."""
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, Mapping):
        named = (answer.get(key) for key in ("last_hidden_state", "x_norm_patchtokens", "out", "logits"))
        answer = [*named, *answer.values()]
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return next((part for part in answer if isinstance(part, Tensor) and part.ndim in (3, 4)), None)
    return None


def _fits(tensor: Tensor | None, size: Grid, patch: int | None) -> list[tuple[_Layout, int]]:
    """Layouts in which an output for two images of `size` may be read, each with its patch size."""
    if tensor is None or tensor.ndim not in (3, 4) or len(tensor) != 2 or not tensor.is_floating_point():
        return []
    shape = tuple(tensor.shape)
    if tensor.ndim == 3:
        return _fits_tokens(shape, size, patch)
    found = []
    for kind, grid, width in (("map", shape[2:], shape[1]), ("channels last", shape[1:3], shape[3])):
        side = patch or (size[0] // grid[0])
        exact = side >= 1 and grid == (size[0] // side, size[1] // side) and not (size[0] % side or size[1] % side)
        if exact and grid != (1, 1) and side > 1:
            found.append((_Layout(kind, width), side))
    return found


def _fits_tokens(shape: tuple[int, ...], size: Grid, patch: int | None) -> list[tuple[_Layout, int]]:
    sides = (
        [patch] if patch else [side for side in (14, 16, 8, 32, 4, 28, 56) if not (size[0] % side or size[1] % side)]
    )
    ahead = {side: shape[1] - (size[0] // side) * (size[1] // side) for side in sides}
    # A class token and up to 16 registers stand before the patch tokens.
    return [(_Layout("tokens", shape[2], more), side) for side, more in ahead.items() if 0 <= more <= 17]


def _read(tensor: Tensor, layout: _Layout, grid: Grid) -> Features:
    if layout.kind == "tokens":
        tokens = tensor[:, layout.ahead :].transpose(1, 2)
        patches = tokens.reshape(len(tensor), layout.width, *grid)
        return Features(tensor[:, 0] if layout.ahead else patches.mean((2, 3)), patches)
    patches = tensor if layout.kind == "map" else tensor.permute(0, 3, 1, 2)
    return Features(patches.mean((2, 3)), patches)
