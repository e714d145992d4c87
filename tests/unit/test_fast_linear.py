"""The faster road for linear layers gives what `F.linear` gives, and only where it may be taken."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import robustprobe as rp
from robustprobe.core.fast_linear import fast_linear, pays

pytestmark = pytest.mark.unit

here = pytest.mark.skipif(not pays(), reason="linear layers take torch's own road on this machine")


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def called(function: torch.Tensor) -> str:
    return type(function.grad_fn).__name__


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 7), (5, 64), (2, 9, 64), (2, 3, 4, 16)])
def test_values_and_gradients_agree_to_rounding(shape: tuple[int, ...], with_bias: bool) -> None:
    weight, bias = values(33, shape[-1]), values(33) if with_bias else None
    x = values(*shape).requires_grad_(True)
    plain = F.linear(x, weight, bias)
    with fast_linear():
        fast = F.linear(x, weight, bias)
        (found,) = torch.autograd.grad(fast.square().sum(), x)
    (expected,) = torch.autograd.grad(plain.square().sum(), x)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@here
def test_frozen_layers_take_it_and_layers_in_training_do_not() -> None:
    frozen, trained = nn.Linear(8, 4).requires_grad_(False), nn.Linear(8, 4)
    x = values(3, 8).requires_grad_(True)
    with fast_linear():
        assert called(frozen(x)) == "_LinearBackward"
        assert called(trained(x)) != "_LinearBackward"
        assert called(frozen.double()(x.double())) != "_LinearBackward"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert called(frozen.float()(x)) != "_LinearBackward"
    assert called(frozen(x)) != "_LinearBackward"


def test_layers_in_training_get_their_gradients() -> None:
    layer = nn.Linear(8, 4)
    with fast_linear():
        layer(values(3, 8)).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, values(3, 8).sum(0).expand(4, 8))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_a_compiled_model_keeps_the_kernels_of_its_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustprobe.core.fast_linear.pays", lambda: True)
    graphs: list[str] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(str(graph.graph))
        return graph.forward

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).eval()
    compiled = torch.compile(plain, backend=compiler)
    images = torch.rand(4, 3, 8, 8)
    labels = plain(images).argmax(1)
    results = [
        rp.attack(model, images, labels, attack="pgd", steps=3, eps="1/255", task="classification")
        for model in (plain, compiled)
    ]
    assert graphs
    assert not any("mkldnn" in graph or "Linear_apply" in graph or "_Linear" in graph for graph in graphs)
    assert all("linear" in graph for graph in graphs)
    torch.testing.assert_close(results[1].adversarial, results[0].adversarial)
