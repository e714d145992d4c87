"""Whether a robust score can be believed: what an attack that failed for the wrong reason would give away.

After Carlini et al. (2019, sections 4 and 5), Tramer et al. (2020) and the flags of AutoAttack; for dense tasks too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustprobe.attacks import Attacked, Victim, attack_class, load_attack
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.eps import default_eps
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.freeze import frozen
from robustprobe.core.sizes import AREA, SEVERITY, format_eps, threat_size_text
from robustprobe.core.spec import FEWEST_CHECKED
from robustprobe.core.threat import NORMS, over_image
from robustprobe.core.types import SanityCheck
from robustprobe.evaluation.model_checks import CheckedModel, batch_check, gradient_check, gradient_difference
from robustprobe.evaluation.same_computation import LayersAnew, SameComputation
from robustprobe.metrics.kept import share_kept
from robustprobe.metrics.statistics import NOISE_PATCH, WITHOUT_PATCH, Columns, patch_estimates
from robustprobe.tasks import Task

MOST_ZEROS = 0.05
MOST_RISING = 0.15
MOST_GAIN = 0.1
MOST_UNION = 0.05
# Share of the gradient that rounding may change, as in bfloat16.
MOST_DIFFERENCE = 0.05
# Times the usual eps of the norm; in Linf 64/255.
LARGE_FACTOR = 8
MOST_KEPT = 0.5
QUERIES = 100
ROUNDING = 1e-6


class JudgingModel(NamedTuple):
    """A model that judges images, with its labels (n, ...) for them, and what the best constant answer scores on all
    images of the run; None: as on these.
    """

    function: Callable[[Tensor], Tensor]
    targets: Tensor
    task: Task
    chance: float | None = None

    def scores(self, images: Tensor) -> Tensor:
        """Score of each image (n,), in the unit of the task's metric."""
        return self.scores_of(self.answers(images))

    def answers(self, images: Tensor) -> Tensor:
        """What the model answers to images (n, 3, H, W)."""
        with torch.no_grad():
            return self.function(images)

    def scores_of(self, answers: Tensor) -> Tensor:
        """As `scores`, of what the model answered."""
        with torch.no_grad():
            return self.task.score(self.task.rows(answers, self.targets)).double().cpu()

    def kept(self, images: Tensor, clean: Tensor, attacked: Tensor) -> float:
        """The share of the mean clean score above chance that is left; NaN where the clean score is not above chance.

        Args:
            images: (n, 3, H, W), whose labels give the level of chance where the run's is not known.
            clean: scores (n,), as `attacked`.
        """
        chance = self.chance
        if chance is None:
            rows = self.task.rows(self.answers(images), self.targets)
            chance = self.task.chance({name: column.cpu().numpy() for name, column in rows.items()})
        level = (0.0 if self.task.higher_is_better else math.inf) if chance is None else chance
        before, after = float(clean.nanmean()), float(attacked.nanmean())
        return float(share_kept(before, after, level, self.task.higher_is_better))

    def worse(self, a: Tensor, b: Tensor) -> Tensor:
        """The worse of two scores, image by image."""
        return torch.fmin(a, b) if self.task.higher_is_better else torch.fmax(a, b)

    def damage(self, clean: Tensor, attacked: Tensor) -> float:
        """How much worse the mean score has become."""
        change = float(clean.nanmean() - attacked.nanmean())
        return change if self.task.higher_is_better else -change


class Answers(NamedTuple):
    """What a judge answered to images and to what an attack made of them."""

    clean: Tensor
    adversarial: Tensor


class CheckedImages(NamedTuple):
    """What the attack could see of images (n, 3, H, W), their ids, what it made of them, and the harm (n,) it saw."""

    victim: Victim
    images: Tensor
    ids: Sequence[str]
    adversarial: Tensor
    damage: Tensor


def trace_checks(
    spec: AttackSpec, ends: tuple[float, float], size: Tensor, zero_gradient: Tensor, rising: Tensor
) -> list[SanityCheck]:
    """What the attack on all N images left behind: nothing is run again.

    Args:
        ends: smallest and largest pixel of the adversarial images.
        size: size of each perturbation (N,); `zero_gradient` and `rising` (N,) as in `Attacked`.
    """
    checks = [_extent(spec, ends, float(size.max()))]
    zeros, late = float(zero_gradient.nanmean()), float(rising.nanmean())
    if math.isfinite(zeros):
        means = ": the model hides its gradient, and this score says little" if zeros > MOST_ZEROS else ""
        checks.append(
            SanityCheck(
                "zero gradient", zeros, zeros <= MOST_ZEROS, f"{zeros:.1%} of input gradients are exactly 0{means}"
            )
        )
    if math.isfinite(late):
        means = ": more steps would find more" if late > MOST_RISING else ""
        text = f"{late:.1%} of the objective's gain came in the last fifth of the steps{means}"
        checks.append(SanityCheck("still rising", late, late <= MOST_RISING, text))
    return checks


def patch_check(task: Task, columns: Columns) -> list[SanityCheck]:
    """Whether a patch does more than one of noise in the same place; nothing for rows without a patch."""
    metric = task.metric
    found = patch_estimates(metric, task.statistics[metric], columns)
    if not found:
        return []
    attacked = task.estimates(columns)[metric].value
    clean, control = (found[f"{metric} {name}"].value for name in (WITHOUT_PATCH, NOISE_PATCH))
    sign = 1 if task.higher_is_better else -1
    more, passed = sign * (control - attacked), sign * (control - attacked) > 0 or attacked == control == 0
    means = "" if passed else ": the search found nothing that a random patch does not do"
    text = f"without patch {clean:.3g}, with one of noise {control:.3g}, with the attack's {attacked:.3g}{means}"
    return [SanityCheck("patch control", more, passed, text)]


def _extent(spec: AttackSpec, ends: tuple[float, float], largest: float) -> SanityCheck:
    """Whether images are in the box, and in the ball or of the area where there is one, and some image was changed."""
    (low, high), bounded = ends, spec.norm != SEVERITY
    inside = (not bounded or largest <= spec.eps + ROUNDING) and low >= 0 and high <= 1
    means = "" if inside else ": the attack left its ball or the box, and this score counts for nothing"
    still = largest == 0 and not attack_class(spec).keeps_wrong_images
    means = ": the attack changed no image, so this is the clean score, not a robust one" if still else means
    allowed = f"eps {spec.eps:.6g}" if spec.norm in NORMS else threat_size_text(spec.eps, spec.norm)
    most = f"{largest:.2%} of the pixels" if spec.norm == AREA else f"{largest:.6g}"
    text = f"images changed by {most} at most, {allowed}; pixels are in [{low:.3g}, {high:.3g}]{means}"
    passed = inside and not still
    return SanityCheck("ball", largest, passed, text) if bounded else SanityCheck("box", largest, passed, text)


def sample_checks(
    spec: AttackSpec, sample: CheckedImages, judges: Mapping[str, JudgingModel]
) -> dict[str, list[SanityCheck]]:
    """What a few images tell, by judging task: the attack is run again on them, stronger, weaker and blind."""
    again = _run(spec.model_copy(update={"seed": spec.seed + 1, "warm": ()}), sample)
    better = (again.damage > sample.damage).to(again.images.device)
    both = torch.where(over_image(better), again.images, sample.adversarial)
    usual = default_eps(spec.norm, (sample.images.shape[-2], sample.images.shape[-1]))
    large_eps = max(LARGE_FACTOR * usual, 2 * spec.eps)
    large_eps = min(large_eps, 1.0) if spec.norm == "linf" else large_eps
    step = spec.step_size * large_eps / spec.eps
    large = _attacked(spec.model_copy(update={"eps": large_eps, "step_size": step, "warm": ()}), sample)
    none = _attacked(spec.model_copy(update={"eps": 0.0, "warm": ()}), sample)
    stand_in = _through_stand_in(spec, sample)
    found = {}
    for name, judge in judges.items():
        answers = Answers(judge.answers(sample.images), judge.answers(sample.adversarial))
        clean, scores = (judge.scores_of(one) for one in answers)
        own = sample.victim.task == name
        found[name] = [
            _restart(judge, clean, scores, judge.scores(both)),
            _large(judge.kept(sample.images, clean, judge.scores(large)), format_eps(large_eps, spec.norm)),
            _nothing(spec, judge.scores(none), clean),
            *_model_checks(spec, judge, sample, answers),
            *([_black_box(spec, sample, judge, clean, scores)] if own and spec.name != "square" else []),
            *([_transfer(judge, clean, scores, stand_in)] if stand_in else []),
        ]
    return found


def _run(spec: AttackSpec, sample: CheckedImages) -> Attacked:
    return load_attack(spec).run(sample.victim, sample.images, sample.ids)


def _attacked(spec: AttackSpec, sample: CheckedImages) -> Tensor:
    return _run(spec, sample).images


def _restart(judge: JudgingModel, clean: Tensor, scores: Tensor, both: Tensor) -> SanityCheck:
    gain = judge.damage(scores, both) / max(abs(float(clean.nanmean())), 1e-12)
    passed = gain <= MOST_GAIN or int(((both != scores) & ~scores.isnan()).sum()) < 2
    means = "" if passed else ": the attack depends on its start, give it restarts"
    return SanityCheck(
        "second restart", gain, passed, f"a second random start does more by {gain:.1%} of the clean score{means}"
    )


def _large(kept: float, eps: str) -> SanityCheck:
    if math.isnan(kept):
        return SanityCheck("large eps", 0.0, True, f"at eps {eps} nothing can be lost: clean scores are at chance")
    passed = kept <= MOST_KEPT
    means = "" if passed else ": no model is robust to so much, so the attack does not work on this one"
    text = f"at eps {eps} {kept:.1%} of the clean performance above chance is left{means}"
    return SanityCheck("large eps", kept, passed, text)


def _is_for_random(spec: AttackSpec) -> bool:
    """Whether attack and judge expect a model that answers at random."""
    return spec.eot_samples > 1 and spec.judgements > 1


def _nothing(spec: AttackSpec, scores: Tensor, clean: Tensor) -> SanityCheck:
    differ = float(((scores != clean) & ~(scores.isnan() & clean.isnan())).double().mean())
    passed = differ == 0 or _is_for_random(spec)
    means = "" if passed else ": the model does not answer the same twice"
    return SanityCheck("eps 0", differ, passed, f"at eps 0 {differ:.1%} of scores differ from the clean ones{means}")


def _model_checks(spec: AttackSpec, judge: JudgingModel, sample: CheckedImages, answers: Answers) -> list[SanityCheck]:
    output, again = answers.adversarial, judge.answers(sample.adversarial)
    spread = float((output - again).abs().max())
    expected = spread > 0 and _is_for_random(spec)
    means = f": the attack averages over {spec.eot_samples} draws, and the worst of {spec.judgements} answers counts"
    if spread > 0 and not expected:
        means = ": it is random, and an attack must average over its randomness (eot_samples and judgements)"
    text = f"two answers to one image differ by {spread:.2g}{means if spread else ''}"
    checks = [SanityCheck("same answer twice", spread, spread == 0 or expected, text)]
    # Differences of losses and answers of a random model measure its randomness.
    more = [] if expected else _gradient_checks(spec, sample, judge, answers)
    return [*checks, *judge.task.output_checks(output), *more]


def _gradient_checks(
    spec: AttackSpec, sample: CheckedImages, judge: JudgingModel, answers: Answers
) -> list[SanityCheck]:
    """Whether the model's gradient is its loss's, where the attack uses one, and whether it sees one image alone."""
    model = CheckedModel(judge.function, judge.task, sample.images, sample.ids, judge.targets)
    # The gradient of a straight-through backward pass is another one than the model's by intention.
    asked = attack_class(spec).uses_gradient and not spec.bpda
    gradient = gradient_check(model, spec.eps, spec.norm) if asked else None
    return [*([gradient] if gradient else []), batch_check(model, answers.clean)]


def _black_box(
    spec: AttackSpec, sample: CheckedImages, judge: JudgingModel, clean: Tensor, scores: Tensor
) -> SanityCheck:
    kept = {name: value for name, value in spec.model_dump().items() if name in ("eps", "norm", "seed", "eot_samples")}
    blind = AttackSpec(name="square", steps=QUERIES, **kept)
    more = union_damage(judge, clean, scores, _attacked(blind, sample))
    means = "" if more.passed else ": the gradient misleads, so the score is too good"
    text = f"a black-box attack with {QUERIES} queries {more.text}{means}"
    return SanityCheck("black box", more.gain, more.passed, text)


class UnionDamage(NamedTuple):
    """What the worse of two results adds, image by image, to the first alone, as a share of the clean score."""

    gain: float
    passed: bool
    text: str


def union_damage(judge: JudgingModel, clean: Tensor, scores: Tensor, others: Tensor) -> UnionDamage:
    """Of an attack and of other images the worse result counts: gradients that mislead on some images are found too."""
    both = judge.worse(scores, judge.scores(others))
    worse = (both != scores) & ~scores.isnan()
    gain = judge.damage(scores, both) / max(abs(float(clean.nanmean())), 1e-12)
    passed = gain <= MOST_UNION or int(worse.sum()) < 2
    share = float(worse.double().mean())
    return UnionDamage(gain, passed, f"does more on {share:.0%} of images, {gain:.1%} of the clean score")


class _StandIn(NamedTuple):
    """Which share of the gradient is another one in a stand-in, and the images that the attack makes through it.

    Where the attack is not made, `reason` says why.
    """

    difference: float = 0.0
    images: Tensor | None = None
    reason: str = ""


def _through_stand_in(spec: AttackSpec, sample: CheckedImages) -> _StandIn | None:
    """The same attack through the model's operations, differentiated anew, where that gives another gradient.

    None where the attack uses no gradient, or the model is random and expected to be.
    """
    if not attack_class(spec).uses_gradient or _is_for_random(spec):
        return None
    seen = sample.victim
    try:
        with fast_linear(), frozen(seen.function):
            stand_in = SameComputation(seen.function)
            # `gradient` looks at the images themselves; an attack needs gradients at what it makes of them.
            difference = gradient_difference(seen.function, stand_in, sample.adversarial[:FEWEST_CHECKED])
            if difference <= MOST_DIFFERENCE:
                return _StandIn(difference)
            layers = LayersAnew(seen.layers) if seen.layers else None
            through = sample._replace(victim=seen._replace(function=stand_in, layers=layers))
            return _StandIn(difference, _attacked(spec.model_copy(update={"warm": ()}), through))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # Operations of all kinds run again, on other images: what one of them refuses is no fault of the number.
        return _StandIn(reason=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def _transfer(judge: JudgingModel, clean: Tensor, scores: Tensor, stand_in: _StandIn) -> SanityCheck:
    if stand_in.reason:
        text = f"the model's operations could not be differentiated anew ({stand_in.reason})"
        return SanityCheck("transfer", 0.0, True, text)
    if stand_in.images is None:
        text = f"the model's operations, differentiated anew, give its gradient up to {stand_in.difference:.1%}"
        return SanityCheck("transfer", 0.0, True, text)
    more = union_damage(judge, clean, scores, stand_in.images)
    means = "" if more.passed else ": the model hides its gradient, so the score is too good"
    text = (
        f"the model's operations, differentiated anew, give another gradient (by {stand_in.difference:.1%}); "
        f"the attack through them {more.text}{means}"
    )
    return SanityCheck("transfer", more.gain, more.passed, text)
