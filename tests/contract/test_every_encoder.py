"""Every bundled encoder keeps the contract of `Encoder`, and every source that of `Source`."""

from pathlib import Path

import pytest
import torch

from robustprobe import Encoder, UserError, load_encoder
from robustprobe.core.registry import sources
from robustprobe.encoders._check import check_encoder
from robustprobe.encoders.bundled import FOLDER
from tests.unit.encoders_on_disk import without_network

pytestmark = pytest.mark.contract

NAMES = sorted(p.parent.name for p in FOLDER.glob("*/card.json"))


@pytest.fixture(scope="module", params=NAMES)
def bundled(request: pytest.FixtureRequest) -> Encoder:
    return load_encoder(f"bundled:{request.param}")


def images(size: tuple[int, int]) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [None, (64, 64), (96, 128)])
def test_features_have_the_shapes_of_the_card(bundled: Encoder, size: tuple[int, int] | None) -> None:
    card = bundled.card
    height, width = size or card.input_size
    features = bundled(images((height, width)))
    assert features.cls.shape == (2, card.widths.cls)
    assert features.patches.shape == (2, card.widths.patch, height // card.patch_size, width // card.patch_size)
    assert torch.isfinite(features.cls).all()
    assert torch.isfinite(features.patches).all()


def test_encoder_is_frozen(bundled: Encoder) -> None:
    assert not any(m.training for m in bundled.modules())
    assert not any(p.requires_grad for p in bundled.parameters())


def test_features_are_deterministic_and_tell_images_apart(bundled: Encoder) -> None:
    batch = images(bundled.card.input_size)
    first, second = bundled(batch), bundled(batch)
    assert torch.equal(first.cls, second.cls)
    assert torch.equal(first.patches, second.patches)
    assert not torch.allclose(first.cls[0], first.cls[1])


def test_gradient_reaches_every_pixel(bundled: Encoder) -> None:
    batch = images(bundled.card.input_size).requires_grad_(True)
    features = bundled(batch)
    for output in features:
        (gradient,) = torch.autograd.grad(output.square().sum(), batch, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).float().mean() > 0.99


def test_patches_lie_where_they_are_in_the_image(bundled: Encoder) -> None:
    """A patch token answers most to its own patch, so that heads on patches see maps the right way round."""
    patch = bundled.card.patch_size
    plain = torch.full((1, 3, 4 * patch, 4 * patch), 0.5)
    marked = plain.clone()
    marked[:, :, patch : 2 * patch, 2 * patch : 3 * patch] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    change = (bundled(marked).patches - bundled(plain).patches).square().sum(1)[0]
    assert int(change.argmax()) == 1 * 4 + 2


def test_card_says_what_a_user_must_know(bundled: Encoder) -> None:
    assert bundled.card.name.startswith("bundled:")
    assert bundled.card.source == "bundled"
    assert bundled.card.licence not in ("", "unknown")
    assert len(bundled.digest) == 64


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small_enough_to_ship(name: str) -> None:
    files = [p for p in Path(FOLDER / name).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 8 * 2**20


def test_bundled_encoders_differ() -> None:
    digests = [load_encoder(f"bundled:{name}").digest for name in NAMES]
    assert len(set(digests)) == len(NAMES)


def test_the_users_own_check_passes(bundled: Encoder) -> None:
    found = check_encoder(bundled)
    assert all(check.passed for check in found), found


@pytest.mark.parametrize("source", sources.names())
@pytest.mark.parametrize("name", ["no/such:thing", "nothing", "?", "@", ":", "a@b", "no/such.pth?arch=test_vit"])
def test_sources_refuse_what_they_have_not_in_one_message_and_open_no_socket(
    source: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_network(monkeypatch, tmp_path)
    with pytest.raises(UserError):
        load_encoder(f"{source}:{name}")
    assert sources.summary(source)
