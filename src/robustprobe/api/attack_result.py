"""What `robustprobe.attack` gives: attacked images with their scores, shown in notebooks."""

from typing import NamedTuple, final

from torch import Tensor

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.notebook import CaptionedPicture, card_html
from robustprobe.core.pictures import AMPLIFICATION, amplified, difference, png_uri
from robustprobe.core.sizes import format_eps, threat_size_text
from robustprobe.core.threat import NORMS, THREATS
from robustprobe.tasks import as_pixels

SHOWN = 4
"""Images that a notebook shows of a result."""


class _AttackTensors(NamedTuple):
    """`adversarial` (B, 3, H, W) inside the ball and [0, 1]; `score` (B,) per-image score of the model on them."""

    adversarial: Tensor
    score: Tensor


@final
class AttackResult(_AttackTensors):
    """`adversarial` (B, 3, H, W) inside the ball and [0, 1]; `score` (B,) per-image score of the model on them.

    Both are on the device of the model, where it is a module. A notebook shows clean images, attacked ones and the
    change, ten times as large.

    The score is in the task's metric (classification 1 or 0, segmentation IoU, depth RMSE in metres). Without a task it
    is the squared distance the embedding has moved. `images` are the clean ones, `spec` is the attack and `metric` what
    the score is called. `damage` (B,) is what the attack itself measured, NaN where it measures nothing.
    """

    images: Tensor | None
    spec: AttackSpec | None
    metric: str
    damage: Tensor | None

    def __new__(
        cls,
        adversarial: Tensor,
        score: Tensor,
        images: Tensor | None = None,
        spec: AttackSpec | None = None,
        metric: str = "score",
        damage: Tensor | None = None,
    ) -> "AttackResult":
        made = super().__new__(cls, adversarial, score)
        made.images, made.spec, made.metric, made.damage = images, spec, metric, damage
        return made

    def facts(self) -> dict[str, str]:
        """What was done and what came of it, in words."""
        spec, (count, *shape) = self.spec, self.adversarial.shape
        scores = self.score.float()
        spread = f", from {scores.min():.3g} to {scores.max():.3g}" if count > 1 else ""
        facts = {"images": f"{count} of shape {tuple(shape)}"}
        if count:
            facts[f"mean {self.metric}"] = f"{scores.mean():.3g}{spread}"
        if spec and self.images is not None and count:
            largest = float(THREATS[spec.norm](spec.eps).size(self.adversarial - self.images).max())
            own = f"; {threat_size_text(spec.eps, spec.norm)}"
            size = f"({spec.norm}); eps {format_eps(spec.eps, spec.norm)}" if spec.norm in NORMS else own
            facts["largest change"] = f"{largest:.4g} {size}".replace(" ;", ";")
        return facts

    def __repr__(self) -> str:
        told = ", ".join(f"{name}: {fact}" for name, fact in self.facts().items())
        return f"AttackResult({self.spec.label if self.spec else 'unknown attack'}; {told})"

    def _repr_html_(self) -> str:
        title = f"Attacked by {self.spec.label}, {self.spec.steps} steps" if self.spec else "Attacked images"
        count = 0 if self.images is None else min(SHOWN, len(self.images))
        return card_html(title, self.facts(), [self._pictures(position) for position in range(count)])

    def _pictures(self, position: int) -> list[CaptionedPicture]:
        clean, attacked = (
            as_pixels(images[position]) for images in (self.images, self.adversarial) if images is not None
        )
        return [
            CaptionedPicture(png_uri(clean), "clean"),
            CaptionedPicture(png_uri(attacked), f"attacked: {self.metric} {self.score[position]:.3g}"),
            CaptionedPicture(png_uri(amplified(difference(clean, attacked))), f"change x {AMPLIFICATION}"),
        ]
