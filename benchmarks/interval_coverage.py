"""How often 95 % intervals cover the value that endless images would give, on synthetic rows.

    python benchmarks/interval_coverage.py --runs 200

`miou` compares the percentile bootstrap that records hold with corrections of it, on three generators: eleven classes
of which some are rare; 150 long-tailed classes with frequent false positives; the same, milder. `clusters` draws frames
in groups of copies, `rmse` log-normal errors, `wilson` shares near 0. `paired` has the intervals that `compare` gives
for the difference of two encoders on the same images.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.spec import Statistic
from robustprobe.metrics.dense import mean_iou
from robustprobe.metrics.intervals import Estimate, paired_share, wilson
from robustprobe.metrics.paired import paired_rows
from robustprobe.metrics.statistics import GROUP, estimate

Floats = NDArray[np.float64]
Interval = tuple[float, float]
RESAMPLES = 400
ENDLESS = 100_000
MIOU = Statistic(kind="mean_iou", columns=("intersection", "predicted", "labelled"))
MEAN = Statistic(kind="mean", columns=("rmse",))
SHARE = Statistic(kind="proportion", columns=("correct",))
Z = 1.959963984540054


class World(NamedTuple):
    """Classes with how often they occur in an image, their IoU, and how often they are predicted where they are not."""

    frequency: Floats
    iou: Floats
    false_positives: float

    def draw(self, count: int, generator: np.random.Generator) -> list[Floats]:
        """Pixel counts (count, classes) of `count` images: intersection, predicted, labelled."""
        shape = (count, len(self.frequency))
        there = generator.random(shape) < self.frequency
        labelled = np.where(there, generator.lognormal(6, 1, shape), 0.0)
        found = generator.beta(6 * np.sqrt(self.iou), 6 * (1 - np.sqrt(self.iou)), shape)
        intersection = labelled * found
        beside = labelled * (1 / np.sqrt(self.iou) - 1) * generator.random(shape)
        invented = generator.random(shape) < self.false_positives
        return [
            intersection,
            intersection + beside + np.where(invented, generator.lognormal(4, 1, shape), 0.0),
            labelled,
        ]

    def endless(self) -> float:
        """MIoU of very many images."""
        generator, some = np.random.default_rng(99), 2500
        sums = [np.zeros(len(self.frequency))] * 3
        for _ in range(ENDLESS // some):
            sums = [known + new.sum(0) for known, new in zip(sums, self.draw(some, generator), strict=True)]
        return float(mean_iou(*sums))


def worlds() -> dict[str, World]:
    street = np.r_[np.linspace(0.95, 0.5, 6), 0.3, 0.15, 0.08, 0.05, 0.03]
    tail = np.clip(1.2 / np.arange(1, 151) ** 1.1, 0, 0.95)
    mild = np.clip(1.5 / np.arange(1, 151) ** 0.9, 0, 0.95)
    return {
        "11 classes": World(street, _ious(street), 0.1),
        "150 long-tailed": World(tail, _ious(tail), 0.05),
        "150, milder": World(mild, _ious(mild), 0.01),
    }


def _ious(frequency: Floats) -> Floats:
    generator = np.random.default_rng(7)
    return np.clip(generator.beta(3, 3, len(frequency)) * (0.5 + 0.5 * frequency**0.3), 0.02, 0.95)


def percentile(columns: Sequence[Floats]) -> Interval:
    """As in records."""
    found = estimate(MIOU, dict(zip(MIOU.columns, columns, strict=True)))
    return found.ci_low, found.ci_high


def jackknife(columns: Sequence[Floats]) -> Interval:
    """Bias and standard error by leaving out one image at a time (Quenouille, Tukey)."""
    count, sums = len(columns[0]), [column.sum(0) for column in columns]
    without = mean_iou(*(whole - column for whole, column in zip(sums, columns, strict=True)))
    centre = count * float(mean_iou(*sums)) - (count - 1) * without.mean()
    error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    return centre - Z * error, centre + Z * error


def fixed_classes(columns: Sequence[Floats]) -> Interval:
    """The classes of the whole set in every resample: one that a resample lacks keeps its IoU of the whole set."""
    sums, draws = [column.sum(0) for column in columns], _resampled(columns)
    kept = sums[2] > 0
    own, drawn = (_ious_of(*some) for some in (sums, draws))
    values = np.where(draws[2] > 0, drawn, own)[:, kept].mean(1)
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def reversed_bootstrap(columns: Sequence[Floats]) -> Interval:
    """Twice the value minus the quantiles, which takes the bootstrap's own bias off (basic bootstrap)."""
    value = float(mean_iou(*(column.sum(0) for column in columns)))
    low, high = np.quantile(mean_iou(*_resampled(columns)), [0.025, 0.975])
    return float(2 * value - high), float(2 * value - low)


def _resampled(columns: Sequence[Floats]) -> list[Floats]:
    count = len(columns[0])
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(float)
    return [weights @ column for column in columns]


def _ious_of(intersection: Floats, predicted: Floats, labelled: Floats) -> Floats:
    union = predicted + labelled - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


METHODS: dict[str, Callable[[Sequence[Floats]], Interval]] = {
    "percentile (records)": percentile,
    "jackknife": jackknife,
    "classes of the whole set": fixed_classes,
    "basic bootstrap": reversed_bootstrap,
}


def share(hits: Sequence[bool]) -> str:
    return f"{np.mean(hits):.2f}"


def miou(runs: int) -> None:
    print(f"| generator | endless | n | mean value | {' | '.join(METHODS)} |")
    print(f"|---|---:|---:|---:|{'---:|' * len(METHODS)}")
    for name, world in worlds().items():
        truth = world.endless()
        for count in (50, 100, 200, 500):
            generator = np.random.default_rng(count)
            sets = [world.draw(count, generator) for _ in range(runs)]
            mean = np.mean([float(mean_iou(*(column.sum(0) for column in columns))) for columns in sets])
            cells = [share([low <= truth <= high for low, high in map(method, sets)]) for method in METHODS.values()]
            print(f"| {name} | {truth:.3f} | {count} | {mean:.3f} | {' | '.join(cells)} |", flush=True)


def clusters(runs: int) -> None:
    print("\n| frames in clusters of 6 | n | over images | over clusters |\n|---|---:|---:|---:|")
    world = worlds()["11 classes"]
    truth = world.endless()
    for count in (17, 40, 80):
        generator, groups = np.random.default_rng(count), np.repeat(np.arange(count), 6)
        alone, grouped = list[bool](), list[bool]()
        for _ in range(runs):
            rows = {n: np.repeat(c, 6, 0) for n, c in zip(MIOU.columns, world.draw(count, generator), strict=True)}
            for found, of in ((alone, estimate(MIOU, rows)), (grouped, estimate(MIOU, {**rows, GROUP: groups}))):
                found.append(of.ci_low <= truth <= of.ci_high)
        print(f"| exact copies, {count} clusters | {6 * count} | {share(alone)} | {share(grouped)} |", flush=True)


def rmse(runs: int) -> None:
    print("\n| RMSE per image | n | coverage | misses high |\n|---|---:|---:|---:|")
    for sigma in (0.4, 1.0, 1.5):
        truth = float(np.exp(sigma**2 / 2))
        for count in (50, 120, 400):
            generator = np.random.default_rng(count)
            found = [estimate(MEAN, {"rmse": generator.lognormal(0, sigma, count)}) for _ in range(runs)]
            inside, below = [f.ci_low <= truth <= f.ci_high for f in found], [f.ci_high < truth for f in found]
            print(f"| log-normal, sigma {sigma} | {count} | {share(inside)} | {share(below)} |", flush=True)


def shares() -> None:
    """Exact, by the binomial distribution."""
    print("\n| share | n = 50 | n = 100 | n = 400 | n = 1000 |\n|---|---:|---:|---:|---:|")
    for true in (0.002, 0.005, 0.01, 0.02, 0.05, 0.5):
        print(f"| {true} | {' | '.join(f'{_wilson_coverage(true, count):.3f}' for count in (50, 100, 400, 1000))} |")


def _wilson_coverage(true: float, count: int) -> float:
    weights = np.zeros(count + 1)
    log = count * np.log1p(-true)
    for k in range(count + 1):
        weights[k] = np.exp(log)
        log += np.log((count - k) / (k + 1)) + np.log(true / (1 - true)) if k < count else 0.0
    covered = [(e := wilson(k, count)).ci_low <= true <= e.ci_high for k in range(count + 1)]
    return float(weights[np.array(covered)].sum())


# --- paired differences

Rows = dict[str, NDArray[Any]]
Pair = tuple[Rows, Rows]


def grouped_answers(first: float, second: float, size: int) -> Callable[..., Pair]:
    """Right and wrong answers of which these shares are the first's or the second's alone; a group answers alike."""

    def draw(count: int, generator: np.random.Generator) -> Pair:
        kinds = generator.choice(3, count // size, p=(first, second, 1 - first - second)).repeat(size)
        return _grouped({"correct": kinds == 0}, {"correct": kinds == 1}, size)

    return draw


def errors(sigma: float, size: int = 1, ratio: float = 1.1) -> Callable[..., Pair]:
    """Log-normal errors; the second encoder's are 10 % larger and correlated. A group shares most of its variance."""

    def normal(count: int, generator: np.random.Generator) -> Floats:
        if size == 1:
            return generator.normal(size=count)
        shared = generator.normal(size=count // size).repeat(size)
        return np.asarray(0.8**0.5 * shared + 0.2**0.5 * generator.normal(size=len(shared)))

    def draw(count: int, generator: np.random.Generator) -> Pair:
        common, one, other = (normal(count, generator) for _ in range(3))
        own, second = (np.exp(sigma * (0.8**0.5 * common + 0.2**0.5 * rest)) for rest in (one, other))
        return _grouped({"rmse": own}, {"rmse": ratio * second}, size)

    return draw


def maps(world: World, size: int = 1, equal: bool = False) -> Callable[..., Pair]:
    """Pixel counts. Both encoders lose up to a fifth of what was found and invent classes, or only the second does."""

    def worse(counts: list[Floats], generator: np.random.Generator) -> list[Floats]:
        intersection, predicted, labelled = counts
        lost = intersection * 0.2 * generator.random(intersection.shape)
        invented = generator.random(intersection.shape) < world.false_positives / 2
        beside = np.where(invented, generator.lognormal(4, 1, intersection.shape), 0.0)
        return [intersection - lost, predicted - lost + beside, labelled]

    def draw(count: int, generator: np.random.Generator) -> Pair:
        drawn = world.draw(count // size, generator)
        both = (worse(drawn, generator) if equal else drawn, worse(drawn, generator))
        own, other = (dict(zip(MIOU.columns, (np.repeat(c, size, 0) for c in side), strict=True)) for side in both)
        return _grouped(own, other, size)

    return draw


def _grouped(first: Rows, second: Rows, size: int) -> Pair:
    count = len(next(iter(first.values())))
    more: Rows = {"id": np.arange(count)}
    if size > 1:
        more[GROUP] = np.arange(count) // size
    return {**first, **more}, {**second, **more}


def endless_difference(draw: Callable[..., Pair]) -> float:
    """Second minus first mIoU of very many images."""
    generator, some = np.random.default_rng(99), 2500
    sums = [[np.zeros(1)] * 3 for _ in range(2)]
    for _ in range(ENDLESS // some):
        sides = draw(some, generator)
        for side, rows in enumerate(sides):
            sums[side] = [known + rows[c].sum(0) for known, c in zip(sums[side], MIOU.columns, strict=True)]
    first, second = (float(mean_iou(*side)) for side in sums)
    return second - first


def paired(runs: int) -> None:
    print("\n| difference | endless | mean | n | coverage | without the groups | 0 excluded |\n|---|" + "---:|" * 6)
    known = worlds()
    sigmas = {sigma: 0.1 * float(np.exp(sigma**2 / 2)) for sigma in (0.4, 1.0, 1.5)}
    ends = {name: endless_difference(maps(world)) for name, world in known.items()}
    few = "11 classes"
    cases = [
        ("top-1, groups of 6", SHARE, grouped_answers(0.1, 0.05, 6), -0.05, (102, 240, 480)),
        *((f"RMSE, sigma {sigma}", MEAN, errors(sigma), truth, (50, 120, 400)) for sigma, truth in sigmas.items()),
        ("RMSE, sigma 0.4, equals", MEAN, errors(0.4, ratio=1.0), 0.0, (2, 3, 5, 9, 20, 50)),
        ("RMSE, sigma 0.4, groups of 6", MEAN, errors(0.4, 6), sigmas[0.4], (102, 240, 480)),
        *((f"mIoU, {name}, equals", MIOU, maps(w, equal=True), 0.0, (50, 200, 500)) for name, w in known.items()),
        *((f"mIoU, {name}", MIOU, maps(world), ends[name], (50, 200, 500)) for name, world in known.items()),
        (f"mIoU, {few}, equals, groups of 6", MIOU, maps(known[few], 6, equal=True), 0.0, (102, 240, 480)),
        (f"mIoU, {few}, groups of 6", MIOU, maps(known[few], 6), ends[few], (102, 240, 480)),
    ]
    for name, statistic, draw, truth, counts in cases:
        for count in counts:
            generator = np.random.default_rng(count)
            pairs = [draw(count, generator) for _ in range(runs)]
            found = [_estimate(statistic, *pair) for pair in pairs]
            alone = "-"
            if GROUP in pairs[0][0]:
                bare = [tuple({k: v for k, v in side.items() if k != GROUP} for side in pair) for pair in pairs]
                alone = share([e.ci_low <= truth <= e.ci_high for e in (_estimate(statistic, *p) for p in bare)])
            inside = [e.ci_low <= truth <= e.ci_high for e in found]
            cells = (share(inside), alone, share([e.ci_low > 0 or e.ci_high < 0 for e in found]))
            mean = np.mean([e.value for e in found])
            print(f"| {name} | {truth:.4f} | {mean:.4f} | {count} | {' | '.join(cells)} |", flush=True)


def _estimate(statistic: Statistic, first: Rows, second: Rows) -> Estimate:
    """As `compare` gives it."""
    tables = [{k: v.tolist() for k, v in side.items()} for side in (first, second)]
    found = paired_rows(statistic, *tables).estimate
    assert found is not None
    return found


def paired_shares() -> None:
    """Exact for Tango's interval, by the trinomial distribution; 1,000 draws for the percentile bootstrap."""
    print("\n| only first right | only second right | n | Tango | percentile bootstrap |\n|---:|---:|---:|---:|---:|")
    for lost, gained in ((0.0, 0.02), (0.01, 0.03), (0.05, 0.05), (0.05, 0.15)):
        for count in (50, 200, 400):
            chances, truth = (gained, lost, 1 - gained - lost), gained - lost
            generator = np.random.default_rng(count)
            drawn = generator.multinomial(count, chances, size=1000)
            bounds = [
                np.quantile(d[:, 0] - d[:, 1], [0.025, 0.975]) / count
                for d in (generator.multinomial(count, one / count, size=RESAMPLES) for one in drawn)
            ]
            hits = [low <= truth <= high for low, high in bounds]
            exact = _trinomial_coverage(gained, lost, count)
            print(f"| {lost} | {gained} | {count} | {exact:.3f} | {share(hits)} |", flush=True)


def _trinomial_coverage(gained: float, lost: float, count: int) -> float:
    total = 0.0
    for more in range(count + 1):
        for less in range(count + 1 - more):
            weight = _trinomial(count, more, less, gained, lost)
            if weight > 1e-9:
                found = paired_share(more, less, count)
                total += weight * (found.ci_low <= gained - lost <= found.ci_high)
    return total


def _trinomial(count: int, more: int, less: int, gained: float, lost: float) -> float:
    rest = count - more - less
    log = math.lgamma(count + 1) - math.lgamma(more + 1) - math.lgamma(less + 1) - math.lgamma(rest + 1)
    for times, chance in ((more, gained), (less, lost), (rest, 1 - gained - lost)):
        if times and not chance:
            return 0.0
        log += times * math.log(chance) if times else 0.0
    return math.exp(log)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument(
        "--part", choices=("miou", "clusters", "rmse", "wilson", "paired", "paired-shares"), action="append"
    )
    options = parser.parse_args()
    parts = options.part or ["miou", "clusters", "rmse", "wilson", "paired", "paired-shares"]
    for name, part in (("miou", miou), ("clusters", clusters), ("rmse", rmse), ("paired", paired)):
        if name in parts:
            part(options.runs)
    for name, exact in (("wilson", shares), ("paired-shares", paired_shares)):
        if name in parts:
            exact()


if __name__ == "__main__":
    main()
