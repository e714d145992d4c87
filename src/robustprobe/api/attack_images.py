"""`robustprobe.attack`: attack any model, encoder or callable."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprobe.api.attack_result import AttackResult
from robustprobe.api.call_doubts import LabelledModel, call_doubts
from robustprobe.api.inputs import as_ids, as_images, as_labels, check_layout, only
from robustprobe.api.own_models import OwnModel, check_embedding, check_real, in_type_of, own_model
from robustprobe.attacks import Attack, Attacked, Victim, load_attack
from robustprobe.attacks.base import check_images, target_tasks
from robustprobe.core.arguments import came, checked_types
from robustprobe.core.attack_spec import LOST_SHARE, RANDOM_POSITION, AttackChoice, AttackSpec
from robustprobe.core.corruption_names import ATTACK, GROUP
from robustprobe.core.device import device_of
from robustprobe.core.eps import default_eps
from robustprobe.core.errors import UserError
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.freeze import frozen
from robustprobe.core.patches import box_mask
from robustprobe.core.registry import attacks as known_attacks
from robustprobe.core.sizes import OWN_UNITS, Norm, OwnUnit, SizeUnit
from robustprobe.core.spec_base import validated
from robustprobe.core.straight_through import StandIn
from robustprobe.core.types import Features
from robustprobe.core.user_warnings import warn_user
from robustprobe.core.usual_mode import recording
from robustprobe.datasets import batch_doubts
from robustprobe.encoders import Encoder
from robustprobe.evaluation.memory import largest_batch
from robustprobe.evaluation.victims import BackwardPass, encoder_victim, task_victim
from robustprobe.losses.embedding import embedding_distance, squared_distance
from robustprobe.probing.surrogate_heads import SurrogateHeads
from robustprobe.tasks import Model, Task, resize, task_kind

Images = Tensor | NDArray[Any] | Sequence[Any]
Labels = Tensor | NDArray[Any] | Sequence[Any] | int
Bpda = str | Sequence[str] | Mapping[str, StandIn | None] | StandIn

_OWN = ("model", "images", "targets", "attack", "eps", "severity", "area", "ids", "goals", "bpda")


@checked_types(*_OWN, "task")
def attack(
    model: Callable[[Tensor], Any],
    images: Images,
    targets: Labels | None = None,
    *,
    attack: str = "pgd",
    eps: str | float | None = None,
    severity: int | None = None,
    norm: Norm = "linf",
    objective: str = "",
    steps: int | None = None,
    step_size: str | float | None = None,
    restarts: int = 1,
    early_exit: bool = False,
    random_start: bool = True,
    iterate: Literal["best", "last"] = "best",
    precision: Literal["fp32", "bf16"] = "fp32",
    seed: int = 0,
    ids: Sequence[str | int] | None = None,
    task: str | None = None,
    goals: Images | None = None,
    eot_samples: int = 1,
    bpda: Bpda = (),
    judgements: int = 1,
    momentum: float = 0.0,
    input_diversity: float = 0.0,
    translation_kernel: int = 0,
    lost_share: float | None = None,
    area: str | float | None = None,
    position: str = RANDOM_POSITION,
    position_samples: int = 1,
) -> AttackResult:
    """Attack a model, an encoder, or any callable from images to outputs.

    Args:
        model: a `Model` of `fit_probe`, which resizes the images itself, or a callable on images (B, 3, H, W) in
            [0, 1]. Its answer for a task is logits (B, C) of two classes or more, logits (B, C, h, w), or depth in
            metres (B, h, w) or (B, 1, h, w). For `embed` without a task it is `Features`, or any tensor to be moved.
            Of a dictionary or object, `logits`, `out` or `predicted_depth` is taken. Networks that it holds are
            attacked in evaluation mode, and are left as they were.
        images: (B, 3, H, W) in [0, 1], a tensor, an array or a list of images of one size; never written to. They take
            the type of the model's weights, float32 where these are in half precision. As many are attacked at once
            as half of the free memory holds.
        targets: labels (B,) int64, class maps (B, h, w) int64 with 255 ignored, or depth maps (B, h, w) in metres with
            0 where unknown; a tensor, an array or a list.
        attack: a name from `robustprobe list attacks`, with its objective after a colon or as `objective`.
        eps: size of the ball in pixel units of [0, 1], as `8/255` or a number; by default what is usual for the
            norm and the size of the images: 8/255 for Linf, at 32 x 32 0.5 for L2 and 12 for L1. The step is a quarter
            of it by default.
        severity: of a corruption such as `corruption:fog`, from 1 to 5; by default 3. Corruptions have no eps.
        steps: by default what the attack asks for.
        early_exit: a classifier's images leave as soon as they are fooled: much cheaper, and no less fooled.
        precision: of the attacked model; scores are measured in fp32 always.
        ids: names or numbers of the images: random starts follow the id, not the place in the batch.
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
        lost_share: share of an image's clean score that `min-eps` has to cost it, by default 0.5.
        area: of a `patch`, the share of the image that it covers, such as `5%` or 0.05, its default. Patches have no
            eps, and labels under them do not count.
        position: where a patch lies: `random` by the image's id, `worst` of four such places, `centre`, or two shares
            such as `0.2,0.8`, down and to the right, of the way that it has room.
        position_samples: places that each step averages over, for a patch whose place the attack does not know.

    Raises:
        UserError: unknown names, images outside [0, 1], labels out of range, a model that fails on an image, outputs of
            the wrong shape, NaN.
        UserWarning: labels that are legal but make little sense, images without a label that counts (their score is
            NaN), outputs that are probabilities, a model that is right on no clean image, answers at random or by the
            other images of the batch, an eps out of proportion, and gradients that are exactly 0, so that the score
            means little.

    Example:
        >>> import robustprobe as rp
        >>> result = rp.attack(network, images, labels, task="classification", attack="apgd", eps="4/255")
        >>> result.score.mean()  # robust accuracy
    """
    name, task = only(attack, "attack"), only(task, "task")
    if not isinstance(task, str | None):
        raise UserError(f"task is {task!r}; expected a name from `robustprobe list tasks`.")
    choice = validated(AttackChoice, {"name": name, "objective": objective}, f"attack '{name}'")
    if choice.name == GROUP:
        raise UserError(f"attack takes one corruption, such as {ATTACK}:fog; evaluate takes {GROUP}.")
    kind = cast(type[Attack], known_attacks.get(choice.name))
    with recording():
        given = _given(model, images, targets, goals, ids)
        size = (given.images.shape[-2], given.images.shape[-1])
        backward = _backward(bpda)
        data: dict[str, Any] = {
            "steps": kind.steps if steps is None else steps,
            "step_size": step_size,
            "restarts": restarts,
            "early_exit": early_exit,
            "random_start": random_start,
            "iterate": iterate,
            "seed": seed,
            "eot_samples": eot_samples,
            "bpda": list(backward.modules),
            "judgements": judgements,
            "momentum": momentum,
            "input_diversity": input_diversity,
            "translation_kernel": translation_kernel,
            "lost_share": _lost_share(kind, lost_share),
            "position": position,
            "position_samples": position_samples,
        }
        data |= {"name": choice.name, "objective": choice.objective}
        data |= _size_of_attack(kind, eps, norm, {"severity": severity, "area": area}, size)
        spec = validated(AttackSpec, data, f"attack '{name}'")
        return _attacked(spec, given, task, _known_precision(precision), backward)


def _lost_share(kind: type[Attack], given: float | None) -> float:
    """The share as the spec takes it, 0 for attacks that take none. Raises UserError for one that makes no sense."""
    if given is None:
        return LOST_SHARE if "lost_share" in kind.tuning else 0.0
    if not 0 < given < 1:
        raise UserError(f"lost_share is {given:g}; expected a share above 0 and below 1, such as {LOST_SHARE}.")
    return given


def _size_of_attack(
    kind: type[Attack],
    eps: str | float | None,
    norm: str,
    own: Mapping[OwnUnit, str | float | None],
    size: tuple[int, int],
) -> dict[str, Any]:
    """The size of an attack as its spec takes it. Raises UserError for an eps, severity or area of the wrong attack."""
    unit = kind.own_unit
    wrong = [name for name, given in own.items() if given is not None and name != unit]
    if wrong:
        instead = f"{unit}, such as {OWN_UNITS[unit].example}" if unit else "eps, such as 8/255"
        raise UserError(f"{wrong[0]} is for {OWN_UNITS[wrong[0]].things}; give {instead}.")
    if not unit:
        return {"norm": norm, "eps": default_eps(cast(SizeUnit, norm), size) if eps is None else only(eps, "eps")}
    if eps is not None:
        raise UserError(f"{OWN_UNITS[unit].things} have no eps; give {unit}, such as {OWN_UNITS[unit].example}.")
    return {unit: OWN_UNITS[unit].usual if own[unit] is None else only(own[unit], unit)}


class _Given(NamedTuple):
    """What attack was given, checked: everything on one device, in the type of the model's weights."""

    model: Callable[[Tensor], Any]
    images: Tensor
    targets: Tensor | None
    goals: Tensor | None
    ids: list[str]


def _given(model: Callable[[Tensor], Any], images: Any, targets: Any, goals: Any, ids: Any) -> _Given:
    own = own_model(model)
    images, labels = as_images(images), as_labels(targets)
    check_layout(images)
    check_images(images)
    names = as_ids(ids, len(images))
    goals = None if goals is None else as_images(goals, "goals")
    images, labels, goals = _beside(model, images, labels, goals)
    goals = None if goals is None else in_type_of(model, goals)
    return _Given(own, in_type_of(model, images), labels, goals, names)


def _known_precision(name: str) -> str:
    if name not in ("fp32", "bf16"):
        raise UserError(f"precision is {name!r}; expected 'fp32' or 'bf16'.")
    return name


def _attacked(
    spec: AttackSpec, given: _Given, task: str | None, precision: str, backward: BackwardPass
) -> AttackResult:
    """The attack in batches that fit into memory; images do not depend on each other."""
    model, images, _, goals, ids = given
    if not len(images):
        none = torch.zeros(0, device=images.device)
        return AttackResult(images.clone(), none, images, spec, damage=none)
    made = load_attack(spec)
    if isinstance(model, OwnModel):
        model.look(images)
    with frozen(model), fast_linear():
        judge = _judge(model, images, given.targets, task)
        victim_of = _victims(model, spec.name, images.device, precision, backward)
        most = largest_batch(victim_of(judge, images, goals).function, images, made.uses_gradient)
        for text in call_doubts(spec, judge, images[:most]):
            warn_user(f"{text}.")
        adversarial, scores, damage, zeros = [], [], [], []
        for start in range(0, len(images), most):
            part = slice(start, start + most)
            few = None if judge is None else judge._replace(targets=judge.targets[part])
            victim = victim_of(few, images[part], None if goals is None else goals[part])
            found = made.run(victim, images[part], ids[part])
            adversarial.append(found.images)
            damage.append(found.damage)
            zeros.append(found.zero_gradient)
            few = few and _outside(few, found, images[part])
            scores.append(_worst_score(model, few, images[part], adversarial[-1], spec.judgements))
    metric = judge.task.metric if judge else "squared distance"
    # An error already where there was no random start: nothing was tried at all.
    if stuck := int((torch.cat(zeros) == 1).sum()):
        warn_user(
            f"{spec.name}: every gradient was exactly 0 on {stuck} of {len(images)} images, so nothing was tried there "
            "beside the random start, and their score says little. Try square, or name what hides the gradient (bpda)."
        )
    return AttackResult(torch.cat(adversarial), torch.cat(scores), images, spec, metric, torch.cat(damage))


def _outside(judge: LabelledModel, attacked: Attacked, images: Tensor) -> LabelledModel:
    """The judge with the labels that count: outside of patches."""
    if attacked.boxes is None:
        return judge
    mask = box_mask(attacked.boxes.to(judge.targets.device), (images.shape[-2], images.shape[-1]))
    return judge._replace(targets=judge.task.without(judge.targets, mask))


def _backward(bpda: Bpda) -> BackwardPass:
    """What stands in for parts of a model in the backward pass, as `attack` was told it."""
    if callable(bpda) and not isinstance(bpda, type):
        return BackwardPass(whole=bpda)
    if isinstance(bpda, Mapping):
        return BackwardPass(bpda)
    names = [bpda] if isinstance(bpda, str) else bpda
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError(f"bpda is {came(bpda)}; give names of modules, or functions that stand in for them.")
    return BackwardPass(dict.fromkeys(names))


def _beside(
    model: Callable[[Tensor], Any], images: Tensor, targets: Tensor | None, goals: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Images, labels and goals on the device of a module; for any other callable on the device of the images."""
    place = (device_of(model) if isinstance(model, nn.Module) else None) or images.device
    if targets is not None and targets.is_meta and not images.is_meta:
        raise UserError("targets are on the device meta, which holds no values; give labels.")
    return images.to(place), None if targets is None else targets.to(place), None if goals is None else goals.to(place)


VictimOf = Callable[[LabelledModel | None, Tensor, Tensor | None], Victim]


def _victims(
    model: Callable[[Tensor], Any], name: str, device: torch.device, precision: str, bpda: BackwardPass
) -> VictimOf:
    """What an attack may see of a model, for labels, images and goals of a batch; surrogate heads are fitted once."""
    kind = cast(type[Attack], known_attacks.get(name))
    label_free = kind.access in ("nothing", "encoder")
    encoder, view = model, None
    if isinstance(model, Model) and isinstance(model.encoder, Encoder):
        encoder, view = model.encoder, replace(model.view, layers=1)
    surrogates = SurrogateHeads(encoder, device) if isinstance(encoder, Encoder) else None

    def victim(judge: LabelledModel | None, images: Tensor, goals: Tensor | None) -> Victim:
        if label_free:
            return encoder_victim(encoder, view, precision=precision, goals=goals, surrogates=surrogates, bpda=bpda)
        if judge is None or not target_tasks(name, {judge.task.name: judge.task.attacks}):
            has = f"a model for {judge.task.name}" if judge else "no task; name it with task="
            needs = "a task" if kind.access == "task" else kind.access
            raise UserError(f"attack {name} needs a model for {needs} and its labels; it got {has}.")
        if isinstance(model, OwnModel):
            check_real(model.answer)
        size = (images.shape[-2], images.shape[-1])
        seen = task_victim(judge.function, judge.task, judge.targets, size, precision=precision, bpda=bpda)
        return seen._replace(space=judge.space)

    return victim


def _judge(
    model: Callable[[Tensor], Any], images: Tensor, targets: Tensor | None, task: str | None
) -> LabelledModel | None:
    function: Callable[[Tensor], Tensor]
    if isinstance(model, Model):
        if task not in (None, model.task.name):
            raise UserError(f"the model is for {model.task.name}, not {task}; leave task= out.")
        judged, function = model.task, model
    elif task is None:
        if isinstance(model, OwnModel):
            check_embedding(model.answer)
        return None
    else:
        kind = task_kind(task)
        answer = model.answer if isinstance(model, OwnModel) else model(images[:1])
        function = _at_image_size(model, kind) if kind.label_axes else model
        output = kind.check_output(_at_size(answer, kind, images), task)
        judged = kind(kind.implied_space(output), task)
    if targets is None:
        raise UserError(f"targets are missing; a score for {judged.name} needs the labels of the images.")
    labels = judged.check_targets(targets, len(images))
    for text in batch_doubts(judged, labels):
        warn_user(text)
    return LabelledModel(function, judged, labels, judged.space_of_set([labels]))


def _at_image_size(model: Callable[[Tensor], Any], kind: type[Task]) -> Callable[[Tensor], Any]:
    """The model with its maps upsampled to the image, as heads do."""
    return lambda images: _at_size(model(images), kind, images)


def _at_size(output: Any, kind: type[Task], images: Tensor) -> Any:
    """An answer as the task takes it: maps at the size of the images; one of (B, h, w) may come as (B, 1, h, w).

    Raises:
        UserError: maps whose channels are last.
    """
    flat = kind.output_axes == 3
    if kind.label_axes and isinstance(output, Tensor) and _channels_are_last(output, images):
        raise UserError(
            f"the model answers {tuple(output.shape)} for images {tuple(images.shape)}: its channels seem to be last. "
            "Write lambda images: model(images).permute(0, 3, 1, 2)."
        )
    if not kind.label_axes or not isinstance(output, Tensor):
        return output
    if flat and output.ndim == 3:
        output = output[:, None]
    if output.ndim != 4 or (flat and output.shape[1] != 1):
        return output
    output = resize(output, (images.shape[-2], images.shape[-1]))
    return output[:, 0] if flat else output


def _channels_are_last(output: Tensor, images: Tensor) -> bool:
    """Whether the middle axes of (B, h, w, C) have the shape of the images, and the last ones have not."""
    if output.ndim != 4:
        return False
    height, width = images.shape[-2:]
    _, first, second, third = output.shape
    return first * width == second * height and second * width != third * height


def _worst_score(
    model: Callable[[Tensor], Any], judge: LabelledModel | None, images: Tensor, adversarial: Tensor, times: int
) -> Tensor:
    """Of several judgements of each image the worst; without a task the farthest embedding."""
    scores = torch.stack([_score(model, judge, images, adversarial) for _ in range(times)])
    lowest = judge is not None and judge.task.higher_is_better
    return scores[0] if times == 1 else scores.amin(0) if lowest else scores.amax(0)


@torch.no_grad()
def _score(model: Callable[[Tensor], Any], judge: LabelledModel | None, images: Tensor, adversarial: Tensor) -> Tensor:
    if judge is not None:
        output = judge.function(adversarial).float()
        if output.isnan().any():
            raise UserError("the model answers NaN, which would count as a broken image; correct the model.")
        return judge.task.score(judge.task.rows(output, judge.targets))
    clean, moved = model(images), model(adversarial)
    return embedding_distance(moved, clean) if isinstance(clean, Features) else squared_distance(moved, clean)
