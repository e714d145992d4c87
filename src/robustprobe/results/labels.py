"""Labels of attacks that are unique among those they stand beside."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType

from robustprobe.core.attack_spec import TUNING, AttackSpec, setting_text
from robustprobe.core.head_spec import ZERO_SHOT, texts_name
from robustprobe.core.sizes import OWN_UNITS, format_eps, threat_size_text
from robustprobe.results.records import AttackKey, Record

USUAL_HEADS = MappingProxyType({"kind": "linear", "training": "clean"})
"""What heads are where older results do not say it."""


def attack_labels(keys: Sequence[AttackKey], task: str | None = None) -> list[str]:
    """Labels such as `pgd 8/255`, unique; an attack made for another task than `task` names the one it was made for."""
    labels = []
    for attack, target_task, _, source in keys:
        eps = "" if attack.eps == 0 else f" {eps_text(attack)}"
        foreign = f" (for {target_task})" if target_task and task is not None and target_task != task else ""
        labels.append(f"{attack.label}{eps}{foreign}{f' (made on {source})' if source else ''}")
    facts = [
        {
            "steps": str(attack.steps),
            "iterate": attack.iterate,
            "seed": str(attack.seed),
            "restarts": str(attack.restarts),
            "step size": format_eps(attack.step_size, attack.norm),
            "random start": "yes" if attack.random_start else "no",
            "early exit": "yes" if attack.early_exit else "no",
            **{name.replace("_", " "): setting_text(getattr(attack, name)) for name in TUNING},
            "from": " and ".join(format_eps(e, attack.norm) for e in attack.warm) or "the image",
            "for": target_task,
        }
        for attack, target_task, *_ in keys
    ]
    return [label + ending for label, ending in zip(labels, distinctions(labels, facts), strict=True)]


def record_label(record: Record) -> str:
    """The label of a record's attack on its own, beside the task that judged."""
    return attack_labels([record.attack_key], record.task)[0]


def head_text(record: Record) -> str:
    """`mlp`, `linear fitted adversarially at 4/255` or `zero-shot by texts.safetensors 1a2b3c4d`.

    Empty for linear heads fitted on images as they are.
    """
    if texts := record.head.recipe.get("zero_shot"):
        return f"{ZERO_SHOT} by {texts_name(str(texts))}"
    kind, training = (str(record.head.recipe.get(name, usual)) for name, usual in USUAL_HEADS.items())
    if training == USUAL_HEADS["training"]:
        return "" if kind == USUAL_HEADS["kind"] else kind
    return f"{kind} fitted adversarially at {training.partition(':')[2].replace(':', ' ')}"


def heads_text(records: Iterable[Record]) -> str:
    """`heads: linear and mlp`; empty where all heads are linear and were fitted on images as they are."""
    found = sorted({head_text(record) for record in records})
    return "heads: " + " and ".join(text or "linear" for text in found) if any(found) else ""


def failed_checks_text(record: Record) -> str:
    """Names of the sanity checks that failed, separated by `; `."""
    return "; ".join(check.name for check in record.doubts)


def hardening_text(record: Record) -> str:
    """`deacl from bundled:scenes, epoch 4`, as far as the encoder's card says it; empty where it says nothing."""
    method, teacher, epoch = record.encoder_method, record.encoder_teacher, record.encoder_epoch
    if not (method or teacher) and epoch is None:
        return ""
    return f"{run_text(record)}{'' if epoch is None else f', epoch {epoch}'}"


def run_text(record: Record) -> str:
    """`deacl from bundled:scenes`: the hardening that made an encoder, without the epoch."""
    teacher = f"from {record.encoder_teacher}" if record.encoder_teacher else ""
    return " ".join(part for part in (record.encoder_method, teacher) if part) or "hardened"


def thread_counts(records: Iterable[Record]) -> str:
    """`1 and 2`: numbers of torch's threads that records were measured with; empty where none is known."""
    return " and ".join(str(count) for count in sorted({count for r in records for count in r.provenance.threads}))


def eps_text(attack: AttackSpec) -> str:
    """`8/255`, `0.5 l2`, `severity 3`, or `area 5%`."""
    if attack.norm in OWN_UNITS:
        return threat_size_text(attack.eps, attack.norm)
    return format_eps(attack.eps, attack.norm) + ("" if attack.norm == "linf" else f" {attack.norm}")


def distinctions(names: Sequence[Hashable], facts: Sequence[Mapping[str, str]]) -> list[str]:
    """For each name that occurs more than once, the facts that tell it from its namesakes, as in ` (seed 1)`."""
    endings = []
    for name, own in zip(names, facts, strict=True):
        rivals = [f for n, f in zip(names, facts, strict=True) if n == name]
        told = []
        for fact, value in own.items():
            if any(rival[fact] != value for rival in rivals):
                told.append(f"{fact} {value}")
                rivals = [rival for rival in rivals if rival[fact] == value]
        endings.append(f" ({', '.join(told)})" if told else "")
    return endings
