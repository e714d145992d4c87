"""The revisited Oxford and Paris protocol, against the authors' procedure written out, on a fabricated folder."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import robustprobe as rp
from robustprobe.core.types import LabelSpace, LossContext, QueryTruth
from robustprobe.datasets import load_dataset
from robustprobe.tasks import load_task
from robustprobe.tasks._ranking import EASY, HARD, JUNK, random_precision, revisited
from tests.folders import write_revisited

pytestmark = pytest.mark.unit

LEVELS = {"easy": ((EASY,), (JUNK, HARD)), "medium": ((EASY, HARD), (JUNK,)), "hard": ((HARD,), (JUNK, EASY))}


def official(order: Sequence[int], relevant: set[int], junk: set[int]) -> tuple[float, float]:
    """Average precision by trapezoids and precision at 10 of a ranking of items, junk taken out first."""
    kept = [item for item in order if item not in junk]
    ranks = [rank for rank, item in enumerate(kept) if item in relevant]
    area = 0.0
    for found, rank in enumerate(ranks):
        before = 1.0 if rank == 0 else found / rank
        area += (before + (found + 1) / (rank + 1)) / 2 / len(relevant)
    most = min(max(ranks) + 1, 10)
    return area, sum(rank + 1 <= most for rank in ranks) / most


@pytest.mark.parametrize("level", LEVELS)
def test_scores_are_those_of_the_protocol(level: str) -> None:
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(15, 60, generator=generator)
    codes = torch.randint(0, 4, (15, 60), generator=generator) * (torch.rand(15, 60, generator=generator) < 0.4)
    found_codes, left_out = LEVELS[level]
    result = revisited(similarity, codes, found_codes)
    for row in range(15):
        sets = [{int(i) for code in some for i in (codes[row] == code).nonzero()} for some in (found_codes, left_out)]
        wanted = official(similarity[row].argsort(descending=True).tolist(), *sets)
        assert (float(result.average_precision[row]), float(result.precision_10[row])) == pytest.approx(wanted)


def test_a_level_without_a_relevant_image_counts_nowhere_and_equal_similarities_find_nothing_early() -> None:
    codes = torch.tensor([[EASY, 0, 0, JUNK], [HARD, 0, 0, 0]])
    found = revisited(torch.zeros(2, 4), codes, (EASY,))
    assert np.isnan(float(found.average_precision[1]))
    # Two irrelevant images come first: a curve from 0 to 1/3.
    assert float(found.average_precision[0]) == pytest.approx((0 + 1 / 3) / 2)


def test_chance_is_the_mean_over_random_rankings() -> None:
    codes = torch.tensor([[EASY, EASY, 0, 0, 0, JUNK]])
    generator = torch.Generator().manual_seed(0)
    drawn = revisited(torch.rand(4000, 6, generator=generator), codes.expand(4000, -1), (EASY,))
    level = float(drawn.random_precision[0])
    assert float(drawn.average_precision.mean()) == pytest.approx(level, abs=0.015)
    assert level == pytest.approx((float(random_precision(torch.tensor([2]), 5)) + 2 / 5) / 2)


def test_gallery_and_queries_of_a_fabricated_folder(tmp_path: Path) -> None:
    write_revisited(tmp_path / "roxford5k")
    gallery, queries = (load_dataset("roxford5k", root=tmp_path, split=split) for split in ("train", "test"))
    assert (len(gallery), len(queries)) == (9, 3)
    assert queries.kept_ids == ["query_000", "query_001", "query_002"]
    assert queries.labels["landmarks"].queries[1] == QueryTruth((1,), (4,), (7,))
    assert queries.read(0).image.size == (28, 29)
    with pytest.raises(rp.UserError, match="no split val"):
        load_dataset("roxford5k", root=tmp_path, split="val")


@pytest.mark.parametrize("found", [{"imlist": []}, [1], {"imlist": ["../a"], "qimlist": [], "gnd": []}])
def test_another_pickle_is_one_clear_error(tmp_path: Path, found: object) -> None:
    folder = write_revisited(tmp_path / "roxford5k")
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(found))
    with pytest.raises(rp.UserError, match="no ground truth of this protocol"):
        load_dataset("roxford5k", root=tmp_path)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    folder = write_revisited(tmp_path / "roxford5k")
    (folder / "gnd_roxford5k.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(rp.UserError, match=r"asks for os.system"):
        load_dataset("roxford5k", root=tmp_path)


def test_a_run_scores_every_level_and_an_attack_lowers_the_score(tmp_path: Path) -> None:
    write_revisited(tmp_path / "rparis6k")
    found = rp.evaluate("bundled:photos", "rparis6k", ["clean", "pgd"], steps=3, root=tmp_path, out=tmp_path / "out")
    assert list(found["metric"]) == ["mAP medium"] * 2
    clean, attacked = found["value"]
    assert attacked < clean


def test_junk_has_no_gradient() -> None:
    space = LabelSpace(classes=tuple("abcd"), queries=(QueryTruth(easy=(0,), hard=(1,), junk=(2,)),))
    task = load_task("landmarks", space)
    codes = task.fit_labels(torch.tensor([0]), (8, 8))
    assert codes.tolist() == [[EASY, HARD, JUNK, 0]]
    for loss in task.attack_losses.losses.values():
        output = torch.tensor([[0.5, 0.1, 0.9, 0.4]], requires_grad=True)
        loss(output, LossContext(codes, space)).sum().backward()
        assert output.grad is not None
        assert float(output.grad[0, 2]) == 0
