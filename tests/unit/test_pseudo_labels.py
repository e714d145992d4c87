"""Pseudo-labels: k-means against scikit-learn, the loss against numpy, and what the options refuse."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from robustprobe import UserError
from robustprobe.core.types import Features
from robustprobe.defences import LayerFeatures
from robustprobe.defences._kmeans import k_means
from robustprobe.defences.base import load_defence
from robustprobe.defences.pseudo_labels import PseudoLabels
from robustprobe.encoders import Encoder

pytestmark = pytest.mark.unit

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(12, 3, 16, 24, generator=GENERATOR)


def ready(encoder: Encoder, tokens: str, **options: object) -> PseudoLabels:
    defence = load_defence("pseudo-labels", tokens, (-1,), options)  # type: ignore[arg-type]
    assert isinstance(defence, PseudoLabels)
    defence.prepare(encoder, IMAGES, lambda size: [])
    return defence


def test_k_means_finds_separate_groups_and_is_a_fixed_point_of_scikit_learns() -> None:
    groups = torch.randn(5, 1, 8, generator=GENERATOR) * 20
    points = (groups + torch.randn(5, 30, 8, generator=GENERATOR)).flatten(0, 1)
    centres = k_means(points, 5)
    assert torch.equal(centres, k_means(points, 5))
    nearest = torch.cdist(points, centres).argmin(1).view(5, 30)
    assert (nearest == nearest[:, :1]).all()
    assert len(set(nearest[:, 0].tolist())) == 5
    reference = KMeans(5, init=centres.numpy(), n_init=1).fit(points.numpy())
    np.testing.assert_allclose(np.asarray(reference.cluster_centers_), centres.numpy(), atol=1e-4)


def test_equal_points_do_not_end_in_nan() -> None:
    assert torch.isfinite(k_means(torch.ones(6, 3), 4)).all()


@pytest.mark.parametrize(("tokens", "kinds"), [("cls", ["cls"]), ("patch", ["patch"]), ("both", ["cls", "patch"])])
def test_the_loss_is_the_mean_cross_entropy_of_a_head_for_each_clustering(
    tokens: str, kinds: list[str], tiny_encoder: Encoder
) -> None:
    defence = ready(tiny_encoder, tokens, clusters="2,3")
    assert [(c.kind, len(c.centres)) for c in defence.clusterings] == [(k, n) for k in kinds for n in (2, 3)]
    clean = tiny_encoder(IMAGES)
    attacked = Features(*(part + 0.1 * torch.randn(part.shape, generator=GENERATOR) for part in clean))
    expected = np.zeros(len(IMAGES))
    for (kind, centres, _), head in zip(defence.clusterings, defence.heads, strict=True):
        for number in range(len(IMAGES)):
            seen, moved = (
                (f.cls[number][None] if kind == "cls" else f.patches[number].flatten(1).T).double().numpy()
                for f in (clean, attacked)
            )
            labels = ((seen[:, None] - centres.double().numpy()) ** 2).sum(2).argmin(1)
            weight, bias = (p.detach().double().numpy() for p in head.parameters())
            logits = moved @ weight.T + bias
            chosen = logits[np.arange(len(labels)), labels]
            expected[number] += np.mean(np.log(np.exp(logits - chosen[:, None]).sum(1))) / len(defence.heads)
    outcome = defence.lowered(LayerFeatures([attacked], [attacked], [clean]))
    np.testing.assert_allclose(outcome.loss.detach().numpy(), expected, rtol=1e-4)
    torch.testing.assert_close(defence.raised([attacked], [clean], [clean], 0.0), outcome.loss)


def attacked_features(clean: Features) -> Features:
    generator = torch.Generator().manual_seed(1)
    return Features(*(part + 0.1 * torch.randn(part.shape, generator=generator) for part in clean))


def test_with_a_temperature_the_labels_are_the_teachers_sharpened_scores(tiny_encoder: Encoder) -> None:
    defence = ready(tiny_encoder, "cls", clusters="3", temperature="0.5")
    clean = tiny_encoder(IMAGES)
    attacked = attacked_features(clean)
    centres = defence.clusterings[0].centres.double().numpy()
    seen, moved = (features.cls.double().numpy() for features in (clean, attacked))
    squared = ((seen[:, None] - centres) ** 2).sum(2)
    scores = np.exp(-(squared - squared.min(1, keepdims=True)) / (2 * squared.min(1).mean()) / 0.5)
    labels = scores / scores.sum(1, keepdims=True)
    weight, bias = (p.detach().double().numpy() for p in defence.heads[0].parameters())
    logits = moved @ weight.T + bias
    logits -= logits.max(1, keepdims=True)
    expected = -(labels * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)
    loss = defence.lowered(LayerFeatures([attacked], [attacked], [clean])).loss
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-4)
    hard = ready(tiny_encoder, "cls", clusters="3").lowered(LayerFeatures([attacked], [attacked], [clean])).loss
    assert not torch.allclose(loss, hard, rtol=1e-2)
    nearly = ready(tiny_encoder, "cls", clusters="3", temperature=1e-6)
    torch.testing.assert_close(nearly.lowered(LayerFeatures([attacked], [attacked], [clean])).loss, hard)


def test_with_the_distance_patch_tokens_have_no_labels(tiny_encoder: Encoder) -> None:
    defence = ready(tiny_encoder, "both", clusters="3", patches="distance")
    assert [c.kind for c in defence.clusterings] == ["cls"]
    clean = tiny_encoder(IMAGES)
    attacked = attacked_features(clean)
    outcome = defence.lowered(LayerFeatures([attacked], [attacked], [clean]))
    of_class = ready(tiny_encoder, "cls", clusters="3").lowered(LayerFeatures([attacked], [attacked], [clean])).loss
    tokens = clean.patches.flatten(2).double().numpy()
    variance = ((tokens - tokens.mean((0, 2), keepdims=True)) ** 2).sum(1).mean()
    moved = (attacked.patches.flatten(2).double().numpy() - tokens) ** 2
    expected = of_class.detach().double().numpy() + moved.sum(1).mean(1) / variance
    np.testing.assert_allclose(outcome.loss.detach().numpy(), expected, rtol=1e-4)
    torch.testing.assert_close(defence.raised([attacked], [clean], [clean], 0.0), outcome.loss)
    with pytest.raises(UserError, match="add --tokens both"):
        ready(tiny_encoder, "patch", patches="distance")


def test_before_training_the_heads_answer_with_the_nearest_centre(tiny_encoder: Encoder) -> None:
    clean = [tiny_encoder(IMAGES)]
    outcome = ready(tiny_encoder, "both", clusters=[2, 5]).lowered(LayerFeatures(clean, clean, clean))
    assert torch.equal(outcome.facts["agreement"], torch.ones(len(IMAGES)))


def test_options(tiny_encoder: Encoder) -> None:
    assert [len(c.centres) for c in ready(tiny_encoder, "patch").clusterings] == [10, 30]
    with pytest.raises(UserError, match=r"7 clusters of 12 images: each needs 2\. .* at most 6"):
        ready(tiny_encoder, "cls", clusters="2,7")
    for wrong in ("1", "many", ""):
        with pytest.raises(UserError, match="clusters"):
            ready(tiny_encoder, "cls", clusters=wrong)
    for name, wrong in (("temperature", "-1"), ("temperature", "inf"), ("patches", "none")):
        with pytest.raises(UserError, match=name):
            ready(tiny_encoder, "both", **{name: wrong})
    other = load_defence("pseudo-labels", "cls", (0, -1), {})
    with pytest.raises(UserError, match="leave out --layer"):
        other.prepare(tiny_encoder, IMAGES, lambda size: [])
