"""`robustprobe.attack` and `robustprobe.minimal_eps`: attack any model, encoder or callable."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from robustprobe.attacks import Attack, Victim, load_attack
from robustprobe.attacks.base import check_images, target_tasks
from robustprobe.attacks.min_eps import MinEps
from robustprobe.core.device import device_of
from robustprobe.core.eps import default_eps
from robustprobe.core.errors import UserError
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.freeze import frozen
from robustprobe.core.notebook import CaptionedPicture, card_html
from robustprobe.core.pictures import AMPLIFICATION, amplified, difference, png_uri
from robustprobe.core.registry import attacks as known_attacks
from robustprobe.core.spec import AttackChoice, AttackSpec, format_eps, parse_eps, validated
from robustprobe.core.straight_through import StandIn
from robustprobe.core.threat import NORMS
from robustprobe.core.types import Features
from robustprobe.encoders import Encoder
from robustprobe.evaluation.victims import BackwardPass, encoder_victim, task_victim
from robustprobe.losses.embedding import embedding_distance, squared_distance
from robustprobe.probing.surrogate_heads import SurrogateHeads
from robustprobe.tasks import Model, Task, as_pixels, resize, task_kind

SHOWN = 4
"""Images that a notebook shows of a result."""

Bpda = str | Sequence[str] | Mapping[str, StandIn | None] | StandIn


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
    the score is called.
    """

    images: Tensor | None
    spec: AttackSpec | None
    metric: str

    def __new__(
        cls,
        adversarial: Tensor,
        score: Tensor,
        images: Tensor | None = None,
        spec: AttackSpec | None = None,
        metric: str = "score",
    ) -> "AttackResult":
        made = super().__new__(cls, adversarial, score)
        made.images, made.spec, made.metric = images, spec, metric
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
            largest = float(NORMS[spec.norm](spec.eps).size(self.adversarial - self.images).max())
            facts["largest change"] = f"{largest:.4g} ({spec.norm}); eps {format_eps(spec.eps, spec.norm)}"
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


def attack(
    model: Callable[[Tensor], Any],
    images: Tensor,
    targets: Tensor | None = None,
    *,
    attack: str = "pgd",
    eps: str | float | None = None,
    norm: Literal["linf", "l2"] = "linf",
    objective: str = "",
    steps: int | None = None,
    step_size: str | float | None = None,
    restarts: int = 1,
    early_exit: bool = False,
    random_start: bool = True,
    iterate: Literal["best", "last"] = "best",
    precision: Literal["fp32", "bf16"] = "fp32",
    seed: int = 0,
    ids: Sequence[str] | None = None,
    task: str | None = None,
    goals: Tensor | None = None,
    eot_samples: int = 1,
    bpda: Bpda = (),
    judgements: int = 1,
    momentum: float = 0.0,
    input_diversity: float = 0.0,
    translation_kernel: int = 0,
) -> AttackResult:
    """Attack a model, an encoder, or any callable from images to outputs.

    Args:
        model: a `Model` of `fit_probe`, which resizes the images itself, or a callable on images (B, 3, H, W) in
            [0, 1]. Its answer for a task is logits (B, C), logits (B, C, h, w), or depth in metres (B, h, w) or
            (B, 1, h, w). For `embed` without a task it is `Features`, or any tensor to be moved.
        targets: labels (B,) int64, class maps (B, h, w) int64 with 255 ignored, or depth maps (B, h, w) in metres with
            0 where unknown.
        attack: a name from `robustprobe list attacks`, with its objective after a colon or as `objective`.
        eps: size of the ball in pixel units of [0, 1], as `8/255` or a number; by default what is usual for the
            norm and the size of the images: 8/255 for Linf, 0.5 at 32 x 32 for L2. The step is a quarter of
            it by default.
        steps: by default what the attack asks for.
        early_exit: a classifier's images leave as soon as they are fooled: much cheaper, and no less fooled.
        precision: of the attacked model; scores are measured in fp32 always.
        ids: names the images: random starts follow the id, not the place in the batch.
        task: a name from `robustprobe list tasks`, for a callable of your own.
        goals: images (B, 3, H, W) whose embedding to approach, for `embed:towards-l2` and its like.
        eot_samples: gradients that each step averages, for models that answer at random (Athalye et al. 2018).
        bpda: for models without a useful gradient, names of modules whose backward pass is taken to be the identity, or
            each with a function that stands in for it there; or a function that stands in for the whole model, images
            to answers of the same shape.
        judgements: answers that are asked for each image; the worst counts.
        momentum: decay of earlier gradients in sign steps, such as 1 (MI; Dong et al. 2018). It serves images that are
            to transfer to other models, as do the next two.
        input_diversity: probability that a step sees the image resized and padded at random (DI; Xie et al. 2019).
        translation_kernel: side in pixels of the Gaussian that smooths gradients, such as 15 (TI; Dong et al. 2019).

    Raises:
        UserError: unknown names, images outside [0, 1], labels out of range, outputs of the wrong shape, NaN.

    Example:
        >>> import robustprobe as rp
        >>> result = rp.attack(network, images, labels, task="classification", attack="apgd", eps="4/255")
        >>> result.score.mean()  # robust accuracy
    """
    choice = validated(AttackChoice, {"name": attack, "objective": objective}, f"attack '{attack}'")
    kind = cast(type[Attack], known_attacks.get(choice.name))
    check_images(images)
    radius = default_eps(norm, (images.shape[-2], images.shape[-1])) if eps is None else eps
    data: dict[str, Any] = {
        "name": choice.name,
        "objective": choice.objective,
        "eps": radius,
        "norm": norm,
        "step_size": step_size,
    }
    data |= {"steps": kind.steps if steps is None else steps, "restarts": restarts, "early_exit": early_exit}
    data |= {"random_start": random_start, "iterate": iterate, "seed": seed, "eot_samples": eot_samples}
    backward = _backward(bpda)
    data |= {"bpda": list(backward.modules), "judgements": judgements, "momentum": momentum}
    data |= {"input_diversity": input_diversity, "translation_kernel": translation_kernel}
    spec = validated(AttackSpec, data, f"attack '{attack}'")
    names = list(ids) if ids is not None else [str(i) for i in range(len(images))]
    images, targets, goals = _beside(model, images, targets, goals)
    with frozen(model), fast_linear():
        judge = _judge(model, images, targets, task)
        made = load_attack(spec)
        victim = _victim(model, spec.name, judge, images, goals, precision, backward)
        adversarial = made(victim, images, names)
        metric = judge.task.metric if judge else "squared distance"
        score = _worst_score(model, judge, images, adversarial, judgements)
        return AttackResult(adversarial, score, images, spec, metric)


def _backward(bpda: Bpda) -> BackwardPass:
    """What stands in for parts of a model in the backward pass, as `attack` was told it."""
    if callable(bpda):
        return BackwardPass(whole=bpda)
    if isinstance(bpda, Mapping):
        return BackwardPass(bpda)
    return BackwardPass(dict.fromkeys([bpda] if isinstance(bpda, str) else bpda))


def _beside(
    model: Callable[[Tensor], Any], images: Tensor, targets: Tensor | None, goals: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Images, labels and goals on the device of a module; where they are for any other callable."""
    place = device_of(model) if isinstance(model, nn.Module) else None
    if place is None:
        return images, targets, goals
    return images.to(place), None if targets is None else targets.to(place), None if goals is None else goals.to(place)


def _victim(
    model: Callable[[Tensor], Any],
    name: str,
    judge: "_Judge | None",
    images: Tensor,
    goals: Tensor | None,
    precision: str,
    bpda: BackwardPass,
) -> Victim:
    """What an attack may see of a model."""
    kind = cast(type[Attack], known_attacks.get(name))
    if kind.access in ("nothing", "encoder"):
        encoder, view = model, None
        if isinstance(model, Model) and isinstance(model.encoder, Encoder):
            encoder, view = model.encoder, replace(model.view, layers=1)
        surrogates = SurrogateHeads(encoder, images.device) if isinstance(encoder, Encoder) else None
        return encoder_victim(encoder, view, precision=precision, goals=goals, surrogates=surrogates, bpda=bpda)
    if judge is None or not target_tasks(name, {judge.task.name: judge.task.attacks}):
        has = f"a model for {judge.task.name}" if judge else "no task; name it with task="
        needs = "a task" if kind.access == "task" else kind.access
        raise UserError(f"attack {name} needs a model for {needs} and its labels; it got {has}.")
    size = (images.shape[-2], images.shape[-1])
    seen = task_victim(judge.function, judge.task, judge.targets, size, precision=precision, bpda=bpda)
    return seen._replace(space=judge.task.space_of_set([judge.targets]))


def minimal_eps(
    model: Callable[[Tensor], Any],
    images: Tensor,
    targets: Tensor,
    *,
    eps: str | float | None = None,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 50,
    seed: int = 0,
    ids: Sequence[str] | None = None,
) -> Tensor:
    """The smallest eps that breaks each image of a classifier, (B,): by bisection with Auto-PGD, to `eps` / 64.

    `eps`, the largest size tried, is by default twice what is usual for the norm and the size of the images.

    An upper bound, as every attack's. 0 for images that are wrong from the start, infinity for those that `eps` did
    not break. `attack="min-eps"` gives the images too.

    Raises:
        UserError: as `attack`.

    Example:
        >>> import robustprobe as rp
        >>> sizes = rp.minimal_eps(network, images, labels, eps="16/255")
    """
    check_images(images)
    largest = 2 * default_eps(norm, (images.shape[-2], images.shape[-1])) if eps is None else parse_eps(eps)
    options = {"eps": largest, "norm": norm, "steps": steps, "seed": seed, "ids": ids}
    found = attack(model, images, targets, attack="min-eps", task=MinEps.access, **cast(Any, options))
    size = NORMS[norm](largest).size(found.adversarial - images.to(found.adversarial.device))
    return torch.where(found.score.to(size.device) > 0, torch.inf, size)


class _Judge(NamedTuple):
    function: Callable[[Tensor], Tensor]
    task: Task
    targets: Tensor


def _judge(model: Callable[[Tensor], Any], images: Tensor, targets: Tensor | None, task: str | None) -> _Judge | None:
    function: Callable[[Tensor], Tensor]
    if isinstance(model, Model):
        if task not in (None, model.task.name):
            raise UserError(f"the model is for {model.task.name}, not {task}; leave task= out.")
        judged, function = model.task, model
    elif task is None:
        return None
    else:
        kind = task_kind(task)
        function = _at_image_size(model, kind) if kind.label_axes else model
        with torch.no_grad():
            output = kind.check_output(function(images[:1]), task)
        judged = kind(kind.implied_space(output), task)
    if targets is None:
        raise UserError(f"targets are missing; a score for {judged.name} needs the labels of the images.")
    return _Judge(function, judged, judged.check_targets(targets, len(images)))


def _at_image_size(model: Callable[[Tensor], Any], kind: type[Task]) -> Callable[[Tensor], Any]:
    """The model with its maps upsampled to the image, as heads do; a task of (B, h, w) may answer (B, 1, h, w)."""

    def maps(images: Tensor) -> Any:
        output = model(images)
        flat = kind.output_axes == 3
        if flat and isinstance(output, Tensor) and output.ndim == 3:
            output = output[:, None]
        if not isinstance(output, Tensor) or output.ndim != 4 or (flat and output.shape[1] != 1):
            return output
        output = resize(output, (images.shape[-2], images.shape[-1]))
        return output[:, 0] if flat else output

    return maps


def _worst_score(
    model: Callable[[Tensor], Any], judge: _Judge | None, images: Tensor, adversarial: Tensor, times: int
) -> Tensor:
    """Of several judgements of each image the worst; without a task the farthest embedding."""
    scores = torch.stack([_score(model, judge, images, adversarial) for _ in range(times)])
    lowest = judge is not None and judge.task.higher_is_better
    return scores[0] if times == 1 else scores.amin(0) if lowest else scores.amax(0)


@torch.no_grad()
def _score(model: Callable[[Tensor], Any], judge: _Judge | None, images: Tensor, adversarial: Tensor) -> Tensor:
    if judge is not None:
        output = judge.function(adversarial).float()
        if output.isnan().any():
            raise UserError("the model answers NaN, which would count as a broken image; correct the model.")
        return judge.task.score(judge.task.rows(output, judge.targets))
    clean, moved = model(images), model(adversarial)
    return embedding_distance(moved, clean) if isinstance(clean, Features) else squared_distance(moved, clean)
