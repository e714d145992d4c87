"""Common corruptions: the published parameters, references that are not ours, and the attack that applies them."""

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage
from torch import Generator, Tensor

import robustprobe as rp
from robustprobe import UserError
from robustprobe.attacks import Victim, load_attack
from robustprobe.core.attack_spec import AttackChoice, AttackSpec
from robustprobe.core.corruption_names import BENCHMARK, FAMILIES, MISSING, NAMES, group_names
from robustprobe.core.eps import implausible_eps
from robustprobe.core.spec import Suite
from robustprobe.corruptions import CORRUPTIONS, _blur, _colour, _files, _noise, _weather, corrupted
from robustprobe.evaluation.sanity_checks import trace_checks

pytestmark = pytest.mark.unit
SEVERITIES = (1, 2, 3, 4, 5)
Array = NDArray[Any]

# make_imagenet_c.py of hendrycks/robustness, by Hendrycks & Dietterich 2019.
PUBLISHED: dict[str, tuple[object, Sequence[object]]] = {
    "gaussian_noise": (_noise.GAUSSIAN_NOISE, [0.08, 0.12, 0.18, 0.26, 0.38]),
    "shot_noise": (_noise.SHOT_NOISE, [60, 25, 12, 5, 3]),
    "impulse_noise": (_noise.IMPULSE_NOISE, [0.03, 0.06, 0.09, 0.17, 0.27]),
    "speckle_noise": (_noise.SPECKLE_NOISE, [0.15, 0.2, 0.35, 0.45, 0.6]),
    "gaussian_blur": (_blur.GAUSSIAN_BLUR, [1, 2, 3, 4, 6]),
    "glass_blur": (_blur.GLASS_BLUR, [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)]),
    "defocus_blur": (_blur.DEFOCUS_BLUR, [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]),
    "motion_blur": (_blur.MOTION_BLUR, [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)]),
    "zoom_blur": (_blur.ZOOM_BLUR, [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)]),
    "fog": (_weather.FOG, [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)]),
    "snow": (
        _weather.SNOW,
        [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
    ),
    "contrast": (_colour.CONTRAST, [0.4, 0.3, 0.2, 0.1, 0.05]),
    "brightness": (_colour.BRIGHTNESS, [0.1, 0.2, 0.3, 0.4, 0.5]),
    "saturate": (_colour.SATURATE, [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)]),
    "jpeg_compression": (_files.JPEG_COMPRESSION, [25, 18, 15, 10, 7]),
    "pixelate": (_files.PIXELATE, [0.6, 0.5, 0.4, 0.3, 0.25]),
}


def image(height: int = 40, width: int = 56, seed: int = 0) -> Tensor:
    """A smooth image with edges, black and white."""
    rough = torch.rand(1, 3, 5, 7, generator=Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bilinear")[0]
    return ((smooth - 0.3) * 1.8).clamp(0, 1)


def made(name: str, severity: int, given: Tensor | None = None, seed: int = 0) -> Tensor:
    return corrupted(image() if given is None else given, name, severity, Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    own, published = PUBLISHED[name]
    assert tuple(own) == tuple(published)  # type: ignore[arg-type]


def test_every_name_is_a_corruption_and_what_is_missing_says_why() -> None:
    assert set(CORRUPTIONS) == set(NAMES)
    published = (
        "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog "
        "brightness contrast elastic_transform pixelate jpeg_compression"
    )
    here = {name for names in BENCHMARK.values() for name in names}
    assert here | {"frost", "elastic_transform"} == set(published.split())
    for name in MISSING:
        with pytest.raises(UserError, match=f"'{name}' is not here: "):
            made(name, 1)
    with pytest.raises(UserError, match="Did you mean 'fog'"):
        made("fogg", 1)
    with pytest.raises(UserError, match="severity 6 is not defined"):
        made("fog", 6)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 30), (224, 224), (65, 257)])
@pytest.mark.parametrize("name", NAMES)
def test_images_of_any_size_stay_images(name: str, size: tuple[int, int]) -> None:
    given = image(*size)
    kept = given.clone()
    found = made(name, 5, given)
    assert found.shape == given.shape
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(given, kept)


@pytest.mark.parametrize("name", NAMES)
def test_every_severity_changes_the_image_and_the_last_changes_most_of_its_kind(name: str) -> None:
    given = image(96, 128)
    sizes = [float((made(name, severity, given) - given).square().mean()) for severity in SEVERITIES]
    assert min(sizes) > 0
    # Saturation first falls, then rises, and fog of another structure lies elsewhere.
    assert sizes[4] > sizes[0] or name in ("saturate", "fog")


def test_gaussian_blur_is_that_of_scipy() -> None:
    for severity in SEVERITIES:
        sigma = _blur.GAUSSIAN_BLUR[severity - 1]
        wanted = ndimage.gaussian_filter(image().numpy(), sigma, mode="nearest", truncate=4.0, axes=(1, 2))
        assert np.abs(made("gaussian_blur", severity).numpy() - wanted).max() < 1e-5


def test_defocus_blur_is_a_disk_with_smooth_edge() -> None:
    for severity in SEVERITIES:
        radius, sigma = _blur.DEFOCUS_BLUR[severity - 1]
        reach, ring = (8, 1) if radius <= 8 else (radius, 2)
        rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        kernel = (rows**2 + columns**2 <= radius**2).astype(float)
        edge = np.exp(-(np.arange(-ring, ring + 1) ** 2) / (2 * sigma**2))
        kernel = ndimage.correlate(kernel / kernel.sum(), np.outer(edge, edge) / edge.sum() ** 2, mode="mirror")
        wanted = np.stack([ndimage.correlate(c, kernel, mode="mirror") for c in image().double().numpy()])
        assert np.abs(made("defocus_blur", severity).numpy() - wanted.clip(0, 1)).max() < 1e-5


def test_zoom_blur_is_the_mean_of_enlarged_centres() -> None:
    given = image(40, 40).double().numpy()
    for severity in SEVERITIES:
        total = given.copy()
        factors = np.arange(1, *_blur.ZOOM_BLUR[severity - 1])
        for factor in factors:
            part = math.ceil(40 / factor)
            top = (40 - part) // 2
            large = np.stack([ndimage.zoom(c[top : top + part, top : top + part], factor, order=1) for c in given])
            trim = (large.shape[1] - 40) // 2
            total += large[:, trim : trim + 40, trim : trim + 40]
        wanted = total / (len(factors) + 1)
        assert np.abs(made("zoom_blur", severity, image(40, 40)).numpy() - wanted).max() < 1e-4


def test_glass_blur_moves_pixels_as_the_reference_does() -> None:
    given = image(20, 30)
    for severity in SEVERITIES:
        sigma, reach, times = _blur.GLASS_BLUR[severity - 1]
        generator = Generator().manual_seed(0)
        smooth = ndimage.gaussian_filter(given.numpy(), sigma, mode="nearest", truncate=4.0, axes=(1, 2))
        pixels = np.floor(smooth * 255).transpose(1, 2, 0)
        for _ in range(times):
            moves = torch.randint(-reach, reach, (2, 20, 30), generator=generator).numpy()
            for row in range(20 - reach, reach, -1):
                for column in range(30 - reach, reach, -1):
                    down, right = moves[:, row, column]
                    there = (row + down, column + right)
                    # Views of NumPy, as there: the second pixel gets back what the first one has just become.
                    pixels[row, column], pixels[there] = pixels[there], pixels[row, column]
        blurred = ndimage.gaussian_filter(pixels / 255, sigma, mode="nearest", truncate=4.0, axes=(0, 1))
        assert np.abs(made("glass_blur", severity, given).numpy() - blurred.transpose(2, 0, 1)).max() < 0.01


def test_motion_blur_is_half_a_gaussian_along_a_line() -> None:
    point = torch.zeros(3, 101, 101)
    point[:, 50, 50] = 1
    for severity in SEVERITIES:
        radius, sigma = _blur.MOTION_BLUR[severity - 1]
        found = made("motion_blur", severity, point)[0]
        weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
        assert float(found[50, 50]) == pytest.approx(weights[0] / weights.sum(), rel=1e-5)
        assert float(found.sum()) == pytest.approx(1, rel=1e-4)
        places = found.nonzero() - 50
        assert int((places[:, 1] > 0).sum()) == 0
        assert (places[:, 0].abs() <= places[:, 1].abs() + 1).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_saturation_are_those_of_hsv(severity: int) -> None:
    given = image(8, 9)
    given[:, 0, 0], given[:, 0, 1] = 0, 0.5
    factor, added = _colour.SATURATE[severity - 1]
    bright, vivid = np.empty((3, 8, 9)), np.empty((3, 8, 9))
    for row, column in np.ndindex(8, 9):
        hue, saturation, value = colorsys.rgb_to_hsv(*given[:, row, column].tolist())
        brighter = min(1.0, value + _colour.BRIGHTNESS[severity - 1])
        bright[:, row, column] = colorsys.hsv_to_rgb(hue, saturation, brighter)
        vivid[:, row, column] = colorsys.hsv_to_rgb(hue, min(1.0, saturation * factor + added), value)
    assert np.abs(made("brightness", severity, given).numpy() - bright).max() < 1e-5
    assert np.abs(made("saturate", severity, given).numpy() - vivid).max() < 1e-5


def test_noise_has_its_moments() -> None:
    grey = torch.full((3, 200, 200), 0.5)
    for severity in (1, 2):
        found = made("gaussian_noise", severity, grey)
        assert float(found.std()) == pytest.approx(_noise.GAUSSIAN_NOISE[severity - 1], rel=0.02)
        found = made("speckle_noise", severity, grey)
        assert float(found.std()) == pytest.approx(_noise.SPECKLE_NOISE[severity - 1] / 2, rel=0.02)
        photons = _noise.SHOT_NOISE[severity - 1]
        found = made("shot_noise", severity, grey)
        assert float(found.std()) == pytest.approx(math.sqrt(0.5 / photons), rel=0.05)
        assert torch.allclose((found * photons).round(), found * photons, atol=1e-3)
        found = made("impulse_noise", severity, grey)
        changed = found[found != grey]
        assert len(changed) / found.numel() == pytest.approx(_noise.IMPULSE_NOISE[severity - 1], rel=0.05)
        assert float(changed.mean()) == pytest.approx(0.5, abs=0.02)


def test_clouds_fill_their_range_and_are_rougher_where_decay_is_small() -> None:
    smooth, rough = (_weather.plasma(100, decay, Generator().manual_seed(0)) for decay in (3.0, 1.2))
    for clouds in (smooth, rough):
        assert clouds.shape == (256, 256)
        assert (float(clouds.min()), float(clouds.max())) == (0, 1)
    assert rough.diff(dim=0).abs().mean() > 3 * smooth.diff(dim=0).abs().mean()
    assert _weather.plasma(300, 2.0, Generator().manual_seed(0)).shape == (512, 512)


SPEC = {"name": "corruption", "objective": "snow", "severity": 3}
NOTHING = Victim(lambda images: images)


def attacked(images: Tensor, ids: list[str], **changes: Any) -> Tensor:
    return load_attack(AttackSpec.model_validate({**SPEC, **changes}))(NOTHING, images, ids)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_alone_is_corrupted_as_in_any_batch(name: str) -> None:
    images = torch.stack([image(32, 40, seed) for seed in range(4)])
    ids = list("abcd")
    together = attacked(images, ids, objective=name)
    order = [2, 0, 3, 1]
    assert torch.equal(attacked(images[order], [ids[i] for i in order], objective=name), together[order])
    assert torch.equal(attacked(images[[1]], ["b"], objective=name), together[[1]])
    assert not torch.equal(together, images)


@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur", "snow", "fog"])
def test_what_is_random_follows_seed_and_id(name: str) -> None:
    images = image()[None].repeat(2, 1, 1, 1)
    first = attacked(images, ["a", "b"], objective=name)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, attacked(images, ["a", "b"], objective=name))
    assert not torch.equal(first, attacked(images, ["a", "b"], objective=name, seed=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_keep_their_type(dtype: torch.dtype) -> None:
    found = attacked(image()[None].to(dtype), ["a"])
    assert found.dtype == dtype
    assert 0 <= found.min() <= found.max() <= 1


def test_severity_is_the_size_of_a_corruption_and_of_nothing_else() -> None:
    spec = AttackSpec.model_validate(SPEC)
    assert (spec.eps, spec.norm, spec.step_size) == (3, "severity", 0)
    assert AttackSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.sized_label == "corruption:snow severity 3"
    for severity in (0.5, 6, -1):
        with pytest.raises((UserError, ValidationError)):
            AttackSpec.model_validate({**SPEC, "severity": severity})
    with pytest.raises(ValidationError, match="not both"):
        AttackSpec.model_validate({**SPEC, "eps": "4/255"})
    with pytest.raises(UserError, match="attack corruption has a severity from 1 to 5; it got an eps"):
        load_attack(AttackSpec(name="corruption", objective="fog"))
    with pytest.raises(UserError, match="attack pgd has an eps; it got a severity"):
        load_attack(AttackSpec.model_validate({"name": "pgd", "severity": 2}))
    with pytest.raises(UserError, match="name a corruption, such as corruption:fog"):
        load_attack(AttackSpec.model_validate({"name": "corruption", "severity": 2}))


def suite(**changes: Any) -> Suite:
    return Suite.model_validate({"encoders": "bundled:scenes", "datasets": "scenes", **changes})


def test_a_group_stands_for_its_corruptions_each_once() -> None:
    names = group_names("")
    assert len(names) == 13
    found = suite(attacks=["corruption:fog", "corruptions", "pgd", "corruptions:blur"]).attacks
    assert found is not None
    assert [c.objective for c in found if c.name == "corruption"] == ["fog", *(n for n in names if n != "fog")]
    assert [c.name for c in found].count("pgd") == 1
    whole = suite(attacks="corruptions:all").attacks or ()
    assert {c.objective for c in whole} == {n for some in FAMILIES.values() for n in some}
    with pytest.raises(ValidationError, match="Did you mean 'weather'"):
        suite(attacks="corruptions:wether")


def test_severities_of_a_suite_are_ascending_and_its_eps_is_for_attacks() -> None:
    own = suite(severity=[5, 1], eps="4/255")
    specs = own.attack_specs(AttackChoice(name="corruption", objective="fog"), 1, own_unit="severity")
    assert [(s.eps, s.norm, s.warm) for s in specs] == [(1, "severity", ()), (5, "severity", ())]
    assert [s.eps for s in suite().attack_specs(AttackChoice(name="corruption"), 1, own_unit="severity")] == [3]
    with pytest.raises(UserError, match="has a severity from 1 to 5, not an eps"):
        own.attack_specs(AttackChoice.model_validate({"name": "corruption", "eps": 1}), 1, own_unit="severity")
    with pytest.raises(UserError, match="has an eps, not a severity"):
        own.attack_specs(AttackChoice.model_validate({"name": "pgd", "severity": 1}), 20)


def test_lengths_in_pixels_are_doubted_far_from_the_size_they_are_meant_for() -> None:
    spec = AttackSpec.model_validate({**SPEC, "objective": "motion_blur"})
    assert implausible_eps(spec, (224, 224)) == ""
    assert "harsher than published" in implausible_eps(spec, (64, 64))
    assert "milder than published" in implausible_eps(spec, (1024, 2048))
    assert implausible_eps(spec.model_copy(update={"objective": "contrast"}), (32, 32)) == ""


def test_a_corruption_has_no_ball_but_has_to_change_something() -> None:
    spec = AttackSpec.model_validate(SPEC)
    nothing = torch.full((2,), math.nan)
    (fine,) = trace_checks(spec, (0.0, 1.0), torch.tensor([0.9, 0.2]), nothing, nothing)
    assert (fine.name, fine.passed) == ("box", True)
    (still,) = trace_checks(spec, (0.0, 1.0), torch.zeros(2), nothing, nothing)
    assert not still.passed
    (outside,) = trace_checks(spec, (-0.1, 1.0), torch.tensor([0.9, 0.2]), nothing, nothing)
    assert not outside.passed


def test_attack_of_python_takes_a_severity() -> None:
    images = torch.stack([image(24, 24, seed) for seed in range(2)])

    def network(x: Tensor) -> Tensor:
        return x.mean((2, 3))

    labels = network(images).argmax(1)
    found = rp.attack(network, images, labels, task="classification", attack="corruption:fog", severity=5)
    assert found.spec is not None
    assert found.spec.eps == 5
    assert "severity 5" in repr(found)
    again = rp.attack(network, images, labels, task="classification", attack="corruption:fog", severity=5)
    assert torch.equal(found.adversarial, again.adversarial)
    moved = rp.attack(network, images, attack="corruption:contrast")
    assert (moved.score > 0).all()
    for options, said in (
        ({"attack": "corruption:fog", "eps": "4/255"}, "corruptions have no eps"),
        ({"attack": "pgd", "severity": 3}, "severity is for corruptions"),
        ({"attack": "corruptions"}, "takes one corruption"),
        ({"attack": "corruption:fog", "severity": 7}, "severity 7 is not defined"),
    ):
        with pytest.raises(UserError, match=said):
            rp.attack(network, images, labels, task="classification", **options)
