"""`benchmarks/gallery_poisoning.py`: images stay in their ball, and more of the known queries return them."""

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from robustprobe.encoders import Encoder
from tests.scripts import program

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return program("benchmarks/gallery_poisoning.py")


def test_poisoned_images_stay_in_their_ball_and_are_returned_by_more_queries(
    benchmark: ModuleType, tiny_encoder: Encoder
) -> None:
    generator = torch.Generator().manual_seed(0)
    planted, shown, items = (torch.rand(n, 3, 16, 16, generator=generator) for n in (3, 40, 30))
    queries, gallery = (benchmark.fixed(tiny_encoder, images) for images in (shown, items))
    torch.testing.assert_close(queries, F.normalize(tiny_encoder(shown).cls, dim=1))
    best = (queries @ gallery.T).topk(3).values[:, -1]
    made = benchmark.poisoned(tiny_encoder, planted, queries, best, eps=0.1, steps=10, width=0.02)
    assert (made - planted).abs().max() <= 0.1 + 1e-6
    assert made.min() >= 0
    assert made.max() <= 1
    before, after = (
        (benchmark.fixed(tiny_encoder, images) @ queries.T > best).float().mean() for images in (planted, made)
    )
    assert after > before + 0.1
