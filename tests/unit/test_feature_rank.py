"""Narrowing: the directions that attacks move least for what they vary, and encoders that show only these."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import robustprobe as rp
from robustprobe import UserError
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.training.feature_rank import TokenStatistics, feature_rank, movement, reduce_rank, spreads, tokens

pytestmark = pytest.mark.unit


def images(count: int = 24) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_directions_that_vary_most_for_what_they_are_moved_come_first() -> None:
    spread = TokenStatistics(
        torch.zeros(3), torch.diag(torch.tensor([9.0, 4.0, 1.0])), torch.diag(torch.tensor([9.0, 1.0, 0.1]))
    )
    squeeze, stretch = feature_rank(spread, 2)
    assert squeeze.abs().argmax(1).tolist() == [2, 1]
    torch.testing.assert_close(squeeze @ spread.natural @ squeeze.T, torch.eye(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(stretch @ squeeze, torch.diag(torch.tensor([0.0, 1.0, 1.0])), atol=1e-3, rtol=0)


def test_what_is_guessed_is_the_best_linear_guess() -> None:
    generator = torch.Generator().manual_seed(1)
    mixing, moved = (torch.randn(4, 4, generator=generator) for _ in range(2))
    natural = mixing @ mixing.T
    squeeze, stretch = feature_rank(TokenStatistics(torch.zeros(4), natural, moved @ moved.T), 2)
    error = torch.eye(4) - stretch @ squeeze
    # Of the best guess, what is left is uncorrelated with what it was made from.
    torch.testing.assert_close(error @ natural @ squeeze.T, torch.zeros(4, 2), atol=1e-3, rtol=0)


def test_movement_is_the_mean_of_jacobians_with_themselves(tiny_encoder: Encoder) -> None:
    some = images(3)
    jacobian = torch.autograd.functional.jacobian(lambda x: tiny_encoder(x).cls.sum(0), some)
    rows = jacobian.flatten(1)
    torch.testing.assert_close(movement(tiny_encoder, some)[0], rows @ rows.T / 3, rtol=1e-4, atol=1e-6)


def test_movement_of_patch_tokens_is_right_on_average(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    single = images(1)
    jacobian = torch.autograd.functional.jacobian(lambda x: tokens(tiny_encoder(x))[1], single).flatten(2)
    exact = torch.einsum("tip,tjp->ij", jacobian, jacobian) / len(jacobian)
    monkeypatch.setattr("robustprobe.training.feature_rank.PASS", 1)
    found = movement(tiny_encoder, single.expand(400, -1, -1, -1))[1]
    assert float((found - exact).norm() / exact.norm()) < 0.1


def test_a_narrowed_encoder_lies_in_few_directions(tiny_encoder: Encoder) -> None:
    found = reduce_rank(tiny_encoder, images(), 3)
    features = found(images())
    for kind in tokens(features):
        assert torch.linalg.matrix_rank(kind - kind.mean(0), rtol=1e-4) == 3
    assert found.card.widths == tiny_encoder.card.widths
    assert found.digest != tiny_encoder.digest


def test_all_directions_change_nothing(tiny_encoder: Encoder) -> None:
    # Its layer norm leaves one direction without variance.
    found = reduce_rank(tiny_encoder, images(200), 15)
    for here, there in zip(found(images()), tiny_encoder(images()), strict=True):
        torch.testing.assert_close(here, there, atol=1e-3, rtol=1e-3)


def test_attacks_move_a_narrowed_encoder_less_for_what_it_varies(tiny_encoder: Encoder) -> None:
    def ratio(encoder: Encoder) -> float:
        return float(movement(encoder, images(8))[0].trace() / spreads(encoder, images())[0].natural.trace())

    assert ratio(reduce_rank(tiny_encoder, images(), 3)) < 0.8 * ratio(tiny_encoder)


def test_only_the_last_block_is_narrowed(tmp_path: Path) -> None:
    encoder = load_encoder("bundled:scenes")
    some = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = reduce_rank(encoder, some, 2)
    before, last, also = found.layers(some, [-2, -1, 3])
    assert torch.equal(before.cls, encoder.layers(some, [-2])[0].cls)
    assert torch.equal(last.cls, found(some).cls)
    assert torch.equal(also.patches, found(some).patches)


@pytest.mark.parametrize("count", [0, 17])
def test_more_directions_than_channels_are_refused(count: int, tiny_encoder: Encoder) -> None:
    with pytest.raises(UserError, match=f"has 16 channels; the feature rank must be 1 to 16, not {count}"):
        reduce_rank(tiny_encoder, images(), count)


def test_a_hardened_and_narrowed_encoder_loads_as_any_other(tmp_path: Path) -> None:
    given: dict[str, Any] = {"limit": 8, "batch_size": 4, "steps": 1, "feature_rank": 4, "out": tmp_path / "out"}
    robust = rp.harden("bundled:scenes", "scenes", "anyhead", epochs=1, **given)
    again = load_encoder(f"file:{tmp_path / 'out'}")
    assert again.digest == robust.digest
    assert cast(Any, again).base.card.widths == (128, 128)
    patches = tokens(again(torch.rand(2, 3, 64, 64)))[1]
    assert torch.linalg.matrix_rank(patches - patches.mean(0), rtol=1e-4) == 4


def test_the_last_checkpoint_is_the_result_and_not_narrowed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(encoder: Encoder, images: Tensor, count: int) -> Encoder:
        calls.append(count)
        return reduce_rank(encoder, images, count)

    monkeypatch.setattr("robustprobe.training.loop.reduce_rank", counted)
    out, given = tmp_path / "out", {"limit": 8, "batch_size": 4, "steps": 1, "feature_rank": 4}
    rp.harden("bundled:scenes", "scenes", "anyhead", epochs=1, out=out, **given)  # type: ignore[arg-type]
    assert calls == [4, 4]
    weights = "encoder.safetensors"
    assert (out / weights).read_bytes() == (out / "checkpoints" / "epoch-001" / weights).read_bytes()
    assert (out / weights).read_bytes() != (out / "checkpoints" / "epoch-000" / weights).read_bytes()


def test_without_epochs_an_encoder_is_only_narrowed(tmp_path: Path) -> None:
    teacher = load_encoder("bundled:scenes")
    found = rp.harden(teacher, "scenes", "anyhead", epochs=0, limit=8, feature_rank=4, out=tmp_path / "out")
    base = cast(Any, found).base
    assert all(
        torch.equal(a, b) for a, b in zip(base.state_dict().values(), teacher.state_dict().values(), strict=True)
    )
