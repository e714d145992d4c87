"""Keys of checkpoints: which part is the encoder, and whether all its keys match a model."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from robustprobe.core.errors import UserError

State = Mapping[str, Tensor]
MOST_ENTRIES = 1_000_000
LONGEST_NAME = 10_000

# Words that checkpoints of DINO, DINOv2, iBOT, MAE, I-JEPA, MoCo, SimCLR, SimSiam, BYOL, SwAV, VICReg, DeACL, lightly,
# solo-learn and of Lightning and torch's wrappers put before the encoder's keys.
_WRAPPERS = {"module", "model", "state_dict", "model_state_dict", "net", "network", "_orig_mod"}
_ENCODERS = {"backbone", "encoder", "visual", "trunk", "vision_encoder", "feature_extractor", "vit", "resnet"}
_FIRST = {"teacher", "encoder_q", "base_encoder", "online_encoder", "online_network", "online_backbone"}
_LATER = {
    *("student", "encoder_k", "momentum_encoder", "momentum_backbone", "target_encoder", "target_network"),
    *("model_ema", "state_dict_ema", "original_model"),
}
# Keys beside the encoder's under the same prefix: heads, queues of negatives, and tokens of pre-training only.
_HEADS = {
    *("head", "heads", "fc", "classifier", "projector", "projection_head", "predictor", "prototypes", "dino_head"),
    *("ibot_head", "dino_loss", "ibot_patch_loss", "linear", "mlp", "pre_logits", "head_dist", "online_head"),
    *("mask_token", "masked_embed", "queue", "queue_ptr", "queue_2", "momentum_projector", "momentum_predictor"),
    *(
        "rope_embed",
        "local_cls_norm",
        "projectors",
        "momentum_classifier",
        "contrastive_head",
        "projection",
        "teacher_head",
        "student_head",
    ),
}


class KeyReport(NamedTuple):
    """Result of matching the keys of a file with those of a model; `wrong` lists keys with both shapes.

    `layout` is the code whose names of weights were converted to the model's, empty where none were.
    """

    prefix: str
    matched: int
    missing: list[str]
    unexpected: list[str]
    wrong: list[str]
    ignored: list[str]
    layout: str = ""

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        parts = [f"{self.matched} keys matched under '{self.prefix}'"]
        parts += [f"names of {self.layout} converted to timm's"] if self.layout else []
        parts += [
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for what, keys in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.wrong),
                ("ignored", self.ignored),
            )
            if keys
        ]
        return "; ".join(parts)


def flatten(checkpoint: object) -> dict[str, Tensor]:
    """Every tensor of nested dictionaries under its dotted name.

    Raises:
        UserError: unbounded nesting, such as a dictionary that contains itself.
    """
    found: dict[str, Tensor] = {}
    left, visits = [("", checkpoint)], 0
    while left:
        name, thing = left.pop()
        visits += 1
        if visits > MOST_ENTRIES or len(name) > LONGEST_NAME:
            raise UserError("the file nests its weights without bound. Download it again.")
        if isinstance(thing, Tensor):
            found[name] = thing
        elif isinstance(thing, Mapping):
            left += [(f"{name}.{key}" if name else str(key), value) for key, value in reversed(list(thing.items()))]
    return found


def find_prefix(names: Iterable[str], anchors: Iterable[str], *, branch: str = "", source: str) -> str:
    """The prefix of the encoder's keys in a file; `anchors` are keys of which every such encoder has at least one.

    If the file has several encoders, `branch` is a word in the prefix of the wanted one; by default a teacher, query or
    online encoder is preferred to its student, key or momentum encoder.

    Raises:
        UserError: no encoder, no such branch, or several encoders without a preference among them.
    """
    names = list(names)
    found = {n[: -len(a)] for n in names for a in anchors if n == a or n.endswith(f".{a}")}
    known = _WRAPPERS | _ENCODERS | _FIRST | _LATER | {branch}
    prefixes = [p for p in found if set(p.split(".")[:-1]) <= known]
    if not prefixes:
        raise UserError(
            f"{source} has no weights of this architecture, such as {' or '.join(anchors)}; it has "
            f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''} ({len(names)} in all). Name the right one."
        )
    if branch:
        prefixes = [p for p in prefixes if branch in p.split(".")]
        if not prefixes:
            words = sorted({w for p in found for w in p.split(".") if w} - _WRAPPERS)
            raise UserError(f"{source} has no branch '{branch}'; it has {', '.join(words) or 'one encoder only'}.")
    ranked = sorted((_rank(p), p) for p in prefixes)
    best = [p for rank, p in ranked if rank == ranked[0][0]]
    split = [set(p.split(".")) for p in prefixes]
    trained_together = any({"student", "state_dict"} <= w for w in split) and any("teacher" in w for w in split)
    if len(best) > 1 or (trained_together and len(prefixes) > 1):
        raise UserError(
            f"{source} holds several encoders: {', '.join(sorted(prefixes))}. Choose one with &branch=WORD, such as "
            "&branch=student for a distilled or hardened one, &branch=teacher for DINO."
        )
    return best[0]


def match(own: State, given: State, *, prefix: str, outside: Iterable[str], layout: str = "") -> KeyReport:
    """Match `given`, keys of a checkpoint without `prefix`, with a model's `own`. Known heads are ignored.

    A batch norm's `num_batches_tracked` may be missing: features do not depend on it.
    """
    extra = [n for n in given if n not in own]
    heads = [n for n in extra if n.split(".")[0] in _HEADS or n.startswith("decoder") or n.endswith("bias_mask")]
    return KeyReport(
        prefix,
        sum(n in given and given[n].shape == own[n].shape for n in own),
        [n for n in own if n not in given and not n.endswith("num_batches_tracked")],
        sorted(set(extra) - set(heads)),
        [
            f"{n} {tuple(given[n].shape)} instead of {tuple(own[n].shape)}"
            for n in own
            if n in given and given[n].shape != own[n].shape
        ],
        [*outside, *heads],
        layout,
    )


def _rank(prefix: str) -> int:
    words = set(prefix.split("."))
    return 0 if words & _FIRST and not words & _LATER else 2 if words & _LATER else 1
