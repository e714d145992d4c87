"""An encoder behind a test-time defence: defended:jpeg:SPEC, also bit-depth, noise, dithering, views"""

from typing import final

import torch
from torch import Tensor

from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.types import Features
from robustprobe.encoders._input_defences import DEFENCES
from robustprobe.encoders.base import Encoder, Source, load_encoder


@final
class DefendedSource(Source):
    """Loads the encoder of the rest of the spec and puts a defence before it."""

    def load(self, name: str) -> Encoder:
        defence, colon, spec = name.partition(":")
        if not colon:
            raise UserError(f"'defended:{name}' names no encoder; write such as defended:jpeg:bundled:photos.")
        return Defended(load_encoder(spec), defence)


@final
class Defended(Encoder):
    """An encoder that sees what a test-time defence leaves of images; its module `defence` is that for `--bpda`.

    Such defences serve to show what attacks have to adapt to; none of them is to be relied on.

    Raises:
        UserError: no such defence.
    """

    def __init__(self, encoder: Encoder, defence: str) -> None:
        if defence not in DEFENCES:
            raise unknown_name("test-time defence", defence, DEFENCES)
        name = f"defended:{defence}:{encoder.card.name}"
        super().__init__(encoder.card.model_copy(update={"name": name, "spec": ""}))
        self.kind, self.encoder, self.defence = defence, encoder, DEFENCES[defence]()

    def features(self, images: Tensor) -> Features:
        answers = [self.encoder(self.defence(images)) for _ in range(self.defence.votes)]
        return Features(*(torch.stack(parts).mean(0) for parts in zip(*answers, strict=True)))

    def settings(self) -> list[int | float | str]:
        return [self.kind, type(self.encoder).__qualname__, *self.encoder.settings()]
