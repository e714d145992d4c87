"""Share of the damage of each task's own attack that the attacks without head and label reach.

    python benchmarks/label_free.py --encoder bundled:photos --data-root ../shared/data --eps 8/255

The program's own `embed`, `surrogate` and `label-free` against `pgd`, `segpgd` and `depthpgd`: the same images, heads,
eps and number of steps (`label-free` makes twice as many). Intervals are 95 % paired bootstraps over images, numerator
and denominator together.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import robustprobe as rp
from robustprobe.core.spec import Statistic
from robustprobe.metrics.statistics import parts

DATASETS = {"cifar10": "pgd", "camvid": "segpgd", "nyu_depth_v2": "depthpgd"}
LABEL_FREE = ("embed", "surrogate", "label-free")
RESAMPLES = 2000


def values(statistic: Statistic, rows: dict[str, Any], weights: NDArray[Any]) -> NDArray[Any]:
    """The metric for weights of images (..., N)."""
    columns = {name: np.asarray(rows[name], dtype=float) for name in statistic.columns}
    found = parts(statistic, columns)
    return np.asarray(found.value({name: weights @ v for name, v in found.contributions.items()}))


def row(encoder: Any, dataset: str, options: argparse.Namespace) -> str:
    """A row of a Markdown table: scores and shares on one dataset."""
    result = rp.evaluate(
        encoder,
        dataset,
        ["clean", *LABEL_FREE, DATASETS[dataset]],
        eps=options.eps,
        steps=options.steps,
        limit=options.limit if dataset == "cifar10" else options.dense_limit,
        size=options.size,
        head={"train_limit": options.train_limit},
        root=options.data_root,
        sanity_images=0,
        extreme_examples=0,
        device="cpu",
        progress=False,
    )
    records = {found.record.attack.name: found for found in result.found}
    tables = {name: found.store.rows(found.record.fingerprint).to_pydict() for name, found in records.items()}
    statistic = records["clean"].record.statistic
    assert statistic is not None
    count = len(tables["clean"]["id"])
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, count)), draws])
    scores = {name: values(statistic, table, weights) for name, table in tables.items()}
    clean, own = scores["clean"], scores[DATASETS[dataset]]
    cells = [f"{clean[0]:.3f}", f"{own[0]:.3f}"]
    for name in LABEL_FREE:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (clean - scores[name]) / (clean - own)
        low, high = np.nanquantile(share[1:], [0.025, 0.975])
        cells.append(f"{scores[name][0]:.3f}: {share[0]:.2f} [{low:.2f}, {high:.2f}]")
    return f"| {options.encoder}, {dataset}, {count} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="bundled:photos")
    parser.add_argument("--dataset", choices=DATASETS, action="append")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--eps", default="8/255")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--dense-limit", type=int, default=16)
    parser.add_argument("--size", type=int)
    parser.add_argument("--train-limit", type=int)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"| encoder, dataset, n | clean | own attack | {' | '.join(f'{n}: share' for n in LABEL_FREE)} |")
    print("|---|" + "---:|" * (2 + len(LABEL_FREE)))
    for dataset in options.dataset or DATASETS:
        print(row(rp.load_encoder(options.encoder), dataset, options), flush=True)


if __name__ == "__main__":
    main()
