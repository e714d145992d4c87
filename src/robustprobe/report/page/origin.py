"""Where the numbers come from: encoders, images, heads, attacks and runs, as small tables of text."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from robustprobe.core.spec import format_eps
from robustprobe.report.tables.matrix import HEADLESS, MISSING, attack_order, number_text, size_text
from robustprobe.results.records import Record

DIGEST = 12
BENCHMARK = (
    "Kowalczuk et al., Benchmarking Robust Self-Supervised Learning Across Diverse Downstream Tasks, 2024, "
    "arXiv:2407.12588"
)
SOURCES = {
    "embed": BENCHMARK,
    "pgd": "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018, arXiv:1706.06083",
    "segpgd": "Gu et al., SegPGD, 2022, arXiv:2207.12391",
    "depthpgd": BENCHMARK,
    "cospgd": "Agnihotri et al., CosPGD, 2024, arXiv:2302.02213",
    "sea": "Croce et al., Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation Models, 2024, "
    "arXiv:2306.12941",
    "apgd": "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
    "Attacks, 2020, arXiv:2003.01690",
    "square": "Andriushchenko et al., Square Attack, 2020, arXiv:1912.00049",
}


class FactTable(NamedTuple):
    """Rows of text under headings; rows are distinct."""

    title: str
    headings: list[str]
    rows: list[tuple[str, ...]]


def fact_tables(records: list[Record]) -> list[FactTable]:
    """Encoders, datasets, heads, attacks and runs of a store."""
    by_attack = sorted(records, key=lambda r: attack_order(r.attack, r.target_task))
    return [
        _table("Encoders", ["encoder", "licence", "weights (SHA-256)"], records, _encoder),
        _table("Images", ["dataset", "split", "images", "size", "content", "choice of images"], records, _data),
        _table(
            "Heads",
            ["encoder", "dataset", "task", "recipe", "trained on", "learning rate", "held-out score", "head"],
            records,
            _head,
        ),
        _table(
            "Attacks",
            ["attack", "made for", "eps", "norm", "steps", "step size", "iterate", "random start", "seed", "precision"],
            by_attack,
            _attack,
        ),
        _table("Machines", ["hardware", "device", "versions", "git"], records, _machine),
    ]


def commands(records: list[Record]) -> list[tuple[str, str]]:
    """Suite and command of each run, earliest first."""
    ordered = sorted(records, key=lambda r: r.provenance.started)
    return list(dict.fromkeys((r.suite, r.provenance.command) for r in ordered))


def citations(records: list[Record]) -> list[str]:
    """The benchmark this one repeats, and where the attacks among the records come from."""
    used = dict.fromkeys(r.attack.name for r in sorted(records, key=lambda r: attack_order(r.attack, r.target_task)))
    return list(dict.fromkeys([BENCHMARK, *(SOURCES[name] for name in used if name in SOURCES)]))


def duration(records: list[Record]) -> str:
    """Time spent on all adversarial images and their judging, in words."""
    # Cells of a group share the making of their images, and each counts from its beginning.
    groups: dict[str, float] = {}
    for r in records:
        groups[r.group] = max(groups.get(r.group, 0.0), r.provenance.seconds)
    seconds = sum(groups.values())
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60:.0f} s" if minutes else f"{seconds:.1f} s"


def _table(
    title: str, headings: list[str], records: Sequence[Record], row: Callable[[Record], tuple[str, ...]]
) -> FactTable:
    return FactTable(title, headings, list(dict.fromkeys(row(r) for r in records)))


def _encoder(r: Record) -> tuple[str, ...]:
    return (r.encoder, r.encoder_licence, r.encoder_digest[:DIGEST])


def _data(r: Record) -> tuple[str, ...]:
    size = size_text(r.image_size)
    return (r.dataset, r.split, str(r.n), size, r.dataset_digest[:DIGEST], r.image_ids_digest[:DIGEST])


def _head(r: Record) -> tuple[str, ...]:
    head = r.head
    recipe = ", ".join(f"{key} {value}" for key, value in head.recipe.items())
    return (
        *(r.encoder, r.dataset, r.task, recipe, f"{head.train_images} images", f"{head.learning_rate:g}"),
        *(number_text(head.held_out_score), head.fingerprint[:DIGEST]),
    )


def _attack(r: Record) -> tuple[str, ...]:
    a = r.attack
    climbs = a.name not in HEADLESS[:2]
    path = (str(a.steps), format_eps(a.step_size), a.iterate) if climbs else (MISSING,) * 3
    start = "yes" if a.random_start else "no"
    return (a.name, r.target_task or "no task", format_eps(a.eps), a.norm, *path, start, str(a.seed), r.precision)


def _machine(r: Record) -> tuple[str, ...]:
    p = r.provenance
    versions = ", ".join(f"{name} {version}" for name, version in sorted(p.versions.items()))
    return (p.hardware, p.device, versions, p.git)
