"""What an attack costs: floating-point operations of a vision transformer, passes, and no gradient of a parameter."""

from contextlib import nullcontext
from typing import cast

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import robustprobe as rp
from robustprobe.api.call_doubts import LOOKED_AT
from robustprobe.attacks import Attack, Victim, load_attack
from robustprobe.attacks.base import target_tasks
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.registry import attacks, tasks
from robustprobe.core.types import FeatureDims, Features, HeadDesign, LabelSpace
from robustprobe.encoders import Encoder
from robustprobe.tasks import fitting_attacks, load_task, resize

pytestmark = pytest.mark.unit

COUNT = 4
IMAGES = torch.rand(COUNT, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def transformer(fused: bool = True) -> nn.Module:
    """A small ViT in which every parameter wants a gradient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = VisionTransformer(
            img_size=64, patch_size=8, embed_dim=64, depth=3, num_heads=4, num_classes=10
        )
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", fused)  # noqa: B010
    return model.eval()


class Flops:
    """Counts operations, all of them and those of attention's matrix products."""

    def __init__(self) -> None:
        self.mode = FlopCounterMode(display=False)

    @property
    def total(self) -> int:
        return int(self.mode.get_total_flops())

    @property
    def attention(self) -> int:
        counts = self.mode.get_flop_counts()["Global"]
        return sum(n for op, n in counts.items() if "scaled_dot_product" in str(op) or "bmm" in str(op))


# `rp.attack` looks at a few images first, however many there are, to see what the model answers and whether that makes
# sense. In a small batch these would be more than is left between the passes an attack needs and the bound.
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("steps", [1, 10])
def test_a_step_of_pgd_costs_no_more_than_a_pass_there_and_back_to_the_image(
    steps: int, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back to the image, a linear layer costs one pass, attention two, and one half more where it is recomputed.

    Without the operator of frozen linear layers, which the counter does not know.
    """
    for user in ("attacks.base", "api.attack_images", "api.own_models"):
        monkeypatch.setattr(f"robustprobe.{user}.fast_linear", nullcontext)
    model, images = transformer(fused), IMAGES.repeat(16, 1, 1, 1)
    labels = model(images).argmax(1)

    def cloning(images: Tensor) -> Tensor:
        # The counter cannot follow a leaf into a module.
        logits: Tensor = model(images.clone())
        return logits

    forward, whole = Flops(), Flops()
    with forward.mode, torch.no_grad():
        cloning(images)
    with whole.mode:
        rp.attack(cloning, images, labels, attack="pgd", steps=steps, task="classification")
    share = forward.attention / forward.total
    assert 0.1 < share < 0.3
    assert whole.total <= (2 + 1.5 * share) * forward.total * (steps + 1)
    # It counts all there is: each step goes there and back.
    assert whole.total > 2 * forward.total * steps
    assert all(p.grad is None for p in model.parameters())


class Strict(nn.Module):
    """A model that refuses to be asked while its parameters want gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.net = transformer()

    def forward(self, images: Tensor) -> Tensor:
        assert not any(p.requires_grad for p in self.parameters())
        logits: Tensor = self.net(images)
        return logits


@pytest.mark.parametrize("attack", ["pgd", "apgd", "square", "ensemble"])
def test_parameters_want_no_gradient_during_an_attack_and_have_none_after(attack: str) -> None:
    model = Strict()
    labels = torch.zeros(COUNT, dtype=torch.int64)
    rp.attack(model, IMAGES, labels, attack=attack, steps=2, task="classification")
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


class Counted:
    """A model that counts images passed forward, and gradients that come back to them."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.forwards, self.backwards = model.requires_grad_(False), 0, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        if images.requires_grad:
            images.register_hook(self.came_back)
        answer: Tensor = self.model(images)
        return answer

    def came_back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@pytest.mark.parametrize("early_exit", [False, True])
def test_early_exit_fools_the_same_images_of_a_fragile_model_for_a_fraction_of_the_passes(early_exit: bool) -> None:
    model = Counted(transformer())
    labels = model.model(IMAGES).argmax(1)
    found = rp.attack(
        model, IMAGES, labels, attack="pgd", eps="32/255", steps=50, early_exit=early_exit, task="classification"
    )
    assert found.score.sum() == 0
    # One image to see what the model answers, a few to see whether labels and model make sense, the first of them twice
    # more, and every image once more for its score.
    searched = model.forwards - 1 - (min(LOOKED_AT, COUNT) + 2) - COUNT
    assert searched <= 0.1 * COUNT * 51 if early_exit else searched == COUNT * 51
    assert model.backwards <= searched


SPACE = LabelSpace(classes=("a", "b", "c", "d", "e"))
SMALL = torch.rand(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))
IDS = [str(i) for i in range(COUNT)]
# Looks at the clean image that an attack announces and need not take, one for each member of an ensemble.
LOOSE = 6


class Small(nn.Module):
    """A model for any task, or an encoder of one map."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.head = load_task(task, SPACE).head(FeatureDims(5, 5), HeadDesign()) if task else None

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.conv(images)
        if self.head is None:
            return maps
        answer: Tensor = self.head(Features(maps.mean((2, 3)), maps), (images.shape[-2], images.shape[-1]))
        return answer


def small_victim(task: str) -> tuple["Counted", Victim]:
    """A model and what an attack may see of it; class labels are the model's own answers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Counted(Small(task).eval())
    if not task:
        return model, Victim(
            model, surrogate_heads=lambda size: [lambda maps, small: resize(cast(Tensor, maps), small)]
        )
    kind = load_task(task, SPACE)
    labels = kind.example_targets(COUNT, (8, 8), torch.Generator().manual_seed(1))
    if not kind.label_axes:
        labels = model.model(SMALL).argmax(1)
    labels = kind.fit_labels(labels, (8, 8))
    return model, Victim(model, labels, SPACE, kind.attack_losses, task)


# Corruptions have a severity in place of a ball, and what is made on training images has passes of its own.
KINDS = {name: cast(type[Attack], attacks.get(name)) for name in attacks.names()}
MADE_PER_IMAGE = [name for name, kind in KINDS.items() if not (kind.own_unit or kind.uses_training)]
CASES = [(n, v) for n in MADE_PER_IMAGE for v in target_tasks(n, fitting_attacks(tasks.names()))]


@pytest.mark.parametrize("early_exit", [False, True])
@pytest.mark.parametrize(("name", "task"), CASES, ids=[f"{n} {v}".strip() for n, v in CASES])
def test_passes_an_attack_reports_are_those_the_model_saw(name: str, task: str, early_exit: bool) -> None:
    model, victim = small_victim(task)
    attack = load_attack(AttackSpec(name=name, steps=4, restarts=2, early_exit=early_exit, eps=2 / 255))
    found, most = attack.run(victim, SMALL, IDS), attack.passes(victim.attack_losses)
    assert (found.forwards, found.backwards) == (model.forwards, model.backwards)
    assert (found.forwards > 0) is (name not in ("clean", "noise"))
    assert found.forwards <= COUNT * most.forwards
    assert found.backwards <= COUNT * most.backwards


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("name", "task"), CASES, ids=[f"{n} {v}".strip() for n, v in CASES])
def test_passes_an_attack_announces_are_those_it_makes_where_nothing_breaks(name: str, task: str, warm: bool) -> None:
    _, victim = small_victim(task)
    attack = load_attack(AttackSpec(name=name, steps=50, eps=1e-6, warm=(1e-7,) if warm else ()))
    found = attack.run(victim, SMALL, IDS, SMALL if warm else None)
    most = attack.passes(victim.attack_losses)
    if name == "min-eps":
        # What does not break in the whole ball is tried in no smaller one.
        assert found.backwards == COUNT * 50
        return
    assert most.forwards - LOOSE <= found.forwards / COUNT <= most.forwards
    assert found.backwards == COUNT * most.backwards
    if (name, task) == ("ensemble", "classification"):
        assert (found.forwards, found.backwards) == (COUNT * (657 + warm), COUNT * 250)


def test_bisection_announces_the_passes_of_an_image_that_is_hard_to_break() -> None:
    _, victim = small_victim("classification")
    attack = load_attack(AttackSpec(name="min-eps", steps=20, eps=1.0))
    found, most = attack.run(victim, SMALL, IDS), attack.passes()
    assert COUNT * 20 < found.backwards <= COUNT * most.backwards
    assert found.forwards <= COUNT * most.forwards


def test_passes_through_the_layers_of_an_encoder_count_too(tiny_encoder: Encoder) -> None:
    images, seen = torch.rand(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(0)), []

    def layers(images: Tensor, which: tuple[int, ...]) -> list[Features]:
        seen.append(len(images))
        return tiny_encoder.layers(images, which)

    spec = AttackSpec(name="embed:l2@0", steps=3)
    found = load_attack(spec).run(Victim(tiny_encoder, layers=layers), images, [str(i) for i in range(COUNT)])
    # The clean images, three steps and the last iterate.
    assert (found.forwards, found.backwards) == (sum(seen), 3 * COUNT)
    assert len(seen) == 5
