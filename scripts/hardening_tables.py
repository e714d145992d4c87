"""Tables of `docs/findings/hardening.md` from scores in a CSV file, and whether what the page says of them holds.

    python scripts/hardening_tables.py collect RESULTS... > docs/findings/hardening-parts.csv
    python scripts/hardening_tables.py table docs/findings/hardening-parts.csv
    python scripts/hardening_tables.py check docs/findings/hardening-parts.csv docs/findings/hardening.md

`check` looks for the table and for the sentence of every claim in the page, and for each claim in the scores. It ends
with 0 where all hold, with 1 otherwise.
"""

import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from robustprobe.results.records import Record
from robustprobe.results.store import Store

COLUMNS = ("split", "encoder", "task", "metric", "attack", "eps", "value", "ci_low", "ci_high", "n")
TASKS = {"classification": "top-1", "segmentation": "mIoU", "depth": "RMSE"}
LEVELS = (0, 4, 8)


class Score(NamedTuple):
    """A score of an encoder, with its 95 % interval."""

    value: float
    low: float
    high: float

    def overlaps(self, other: "Score") -> bool:
        """Whether the intervals have a point in common."""
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Scores:
    """Scores by encoder, task and eps in 1/255: 0 is clean, others are under the attack made for the task."""

    def __init__(self, rows: Iterable[dict[str, str]]) -> None:
        self.found: dict[tuple[str, str, int], Score] = {}
        for row in rows:
            key = row["encoder"], row["task"], round(float(row["eps"]) * 255)
            self.found[key] = Score(float(row["value"]), float(row["ci_low"]), float(row["ci_high"]))
        self.encoders = list(dict.fromkeys(encoder for encoder, _, _ in self.found))

    @classmethod
    def read(cls, path: Path) -> "Scores":
        """Those of a file that `collect` wrote."""
        with path.open(encoding="utf-8", newline="") as file:
            return cls(csv.DictReader(file))

    def __call__(self, encoder: str, task: str, eps: int) -> Score:
        return self.found[encoder, task, eps]

    def all_overlap(self, encoder: str, other: str, levels: Sequence[int] = LEVELS) -> bool:
        """Whether no score of two encoders is told apart by its intervals."""
        return all(self(encoder, t, e).overlaps(self(other, t, e)) for t in TASKS for e in levels)


class Claim(NamedTuple):
    """A sentence of the page, and what must hold of the scores for it to be true."""

    sentence: str
    holds: Callable[[Scores], bool]


PLAIN, MIXED = "`anyhead`", "pseudo-labels and distance"
LONGEST = f"{PLAIN}, 1152 updates"
LONG = {PLAIN: f"{PLAIN}, 288 updates", MIXED: f"{MIXED}, 288"}
CLAIMS = (
    Claim(
        "**The projector changes nothing that these images show.**", lambda s: s.all_overlap(PLAIN, "with a projector")
    ),
    Claim(
        "**AWP helps depth at 8/255 after 72 updates, and no longer after 288**",
        lambda s: (
            s("with AWP", "depth", 8).value < s(PLAIN, "depth", 8).value - 0.05
            and abs(s("with AWP, 288", "depth", 8).value - s(LONG[PLAIN], "depth", 8).value) < 0.02
        ),
    ),
    Claim(
        "**Training the first two blocks alone is another point of the front**",
        lambda s: (
            s("first 2 of 4 blocks", "depth", 8).value > s(PLAIN, "depth", 8).value
            and s("first 2 of 4 blocks", "segmentation", 8).value < s(PLAIN, "segmentation", 8).value
            and s("first 2 of 4 blocks", "classification", 0).value >= s(PLAIN, "classification", 0).value
            and s("first 2 of 4 blocks", "depth", 0).value <= s(PLAIN, "depth", 0).value
        ),
    ),
    Claim(
        "**LORE's bound keeps clean scores and gives up robustness**",
        lambda s: (
            s("with LORE's bound, 0.05", "depth", 0).value < s(PLAIN, "depth", 0).value
            and s("with LORE's bound, 0.05", "segmentation", 8).high < s(PLAIN, "segmentation", 8).low
        ),
    ),
    Claim(
        "**The covariance gap as a second loss does not help**",
        lambda s: (
            all(s("with the covariance gap", "depth", e).value > s(PLAIN, "depth", e).value for e in LEVELS)
            and all(
                s("with the covariance gap", t, e).value <= s(PLAIN, t, e).value
                for t in ("classification", "segmentation")
                for e in (4, 8)
            )
        ),
    ),
    Claim(
        "**Four times the budget does not bring classification at 8/255**",
        lambda s: (
            s(LONGEST, "classification", 8).value <= s(LONG[PLAIN], "classification", 8).value
            and s(LONGEST, "classification", 0).value <= s(LONG[PLAIN], "classification", 0).value
        ),
    ),
    Claim(
        "**Pseudo-labels for the class token keep twice as much top-1 at 4/255**",
        lambda s: all(
            s(mixed, "classification", 4).value > 2 * s(plain, "classification", 4).value
            for mixed, plain in ((MIXED, PLAIN), (LONG[MIXED], LONG[PLAIN]))
        ),
    ),
)


def collected(records: Iterable[Record]) -> list[dict[str, object]]:
    """A row for each clean score and each score under the attack made for the task."""
    rows: list[dict[str, object]] = []
    for record in records:
        if record.is_clean or record.is_task_specific:
            headline, attack = record.headline, record.attack
            values = (headline.value, headline.ci_low, headline.ci_high)
            facts = (record.split, record.encoder, record.task, record.metric, attack.name, attack.eps)
            rows.append(dict(zip(COLUMNS, (*facts, *values, record.n), strict=True)))
    return rows


def table(scores: Scores) -> str:
    """A row for each encoder, in Markdown."""
    heads = [f"{metric} {'clean' if eps == 0 else eps}" for metric in TASKS.values() for eps in LEVELS]
    lines = [f"| encoder | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for encoder in scores.encoders:
        cells = [str(scores(encoder, task, eps)) for task in TASKS for eps in LEVELS]
        lines.append(f"| {encoder} | {' | '.join(cells)} |")
    return "\n".join(lines)


def faults(scores: Scores, page: str) -> list[str]:
    """What the page lacks, and what it says that the scores do not."""
    missing = [line for line in table(scores).splitlines() if line not in page]
    unsaid = [claim.sentence for claim in CLAIMS if claim.sentence not in page]
    false = [claim.sentence for claim in CLAIMS if not claim.holds(scores)]
    return [
        *(f"not in the page: {text}" for text in [*missing, *unsaid]),
        *(f"does not hold: {text}" for text in false),
    ]


def main() -> int:
    """Do what the first argument says."""
    command, *paths = sys.argv[1:]
    if command == "collect":
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for path in paths for row in collected(Store(Path(path)).records()))
        return 0
    scores = Scores.read(Path(paths[0]))
    if command == "table":
        print(table(scores))
        return 0
    found = faults(scores, Path(paths[1]).read_text(encoding="utf-8"))
    print("\n".join(found) or "all hold")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
