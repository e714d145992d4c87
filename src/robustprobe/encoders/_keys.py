"""Keys of checkpoints: which part is the encoder, and whether all its keys match a model."""

import re
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
    "original_model",
}
# Moving averages of the weights beside the weights themselves: timm, ConvNeXt, BEiT and others.
_AVERAGES = {"ema", "swa", "shadow", "averaged"}
"""Words of their names, as in `state_dict_ema`, `ema_model`, `swa_model` and Lightning's `callbacks.EMA`."""
# Keys beside the encoder's under the same prefix: heads, queues of negatives, and tokens of pre-training only.
_HEADS = {
    *("head", "heads", "fc", "classifier", "projector", "projection_head", "predictor", "prototypes", "dino_head"),
    *("ibot_head", "dino_loss", "ibot_patch_loss", "linear", "mlp", "pre_logits", "head_dist", "online_head"),
    *(
        "proj",
        "mask_token",
        "masked_embed",
        "queue",
        "queue_ptr",
        "queue_2",
        "momentum_projector",
        "momentum_predictor",
    ),
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


# What torch puts between the names of modules that it shards, checkpoints or compiles one by one.
_BETWEEN = re.compile(r"(?:(?<=\.)|^)(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod|_forward_module)\.")


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an encoder without the words of torch's wrappers around modules inside it."""
    return {_BETWEEN.sub("", name): tensor for name, tensor in state.items()}


class FoundPrefix(NamedTuple):
    """The prefix of an encoder's keys, and what it was preferred to where that changes numbers."""

    prefix: str
    note: str = ""


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
    note: str = ""

    @property
    def _elsewhere(self) -> list[str]:
        return [m for m in self.missing if any(n == m or n.endswith(f".{m}") for n in self.ignored)]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        parts = [f"{self.matched} keys matched under '{self.prefix}'"]
        parts += [f"names of {self.layout} converted to timm's"] if self.layout else []
        parts += [self.note] if self.note else []
        parts += [
            f"{len(keys)} {what} ({_some(keys)})"
            for what, keys in (
                ("missing there, though elsewhere in the file", self._elsewhere),
                ("missing", [n for n in self.missing if n not in self._elsewhere]),
                ("unexpected", self.unexpected),
                ("of another shape", self.wrong),
                ("ignored", self.ignored),
            )
            if keys
        ]
        return "; ".join(parts)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


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


def find_prefix(names: Iterable[str], anchors: Iterable[str], *, branch: str = "", source: str) -> FoundPrefix:
    """The prefix of the encoder's keys in a file; `anchors` are keys of which every such encoder has at least one.

    If the file has several encoders, `branch` is a word in the prefix of the wanted one; by default a moving average of
    the weights is preferred to the weights, as in timm, and a teacher, query or online encoder to its student, key or
    momentum encoder.

    Raises:
        UserError: no encoder, no such branch, or several encoders without a preference among them.
    """
    names = list(names)
    found = {n[: -len(a)] for n in names for a in anchors if n == a or n.endswith(f".{a}")}
    named = _averages(word for prefix in found for word in prefix.split("."))
    known = _WRAPPERS | _ENCODERS | _FIRST | _LATER | named | {branch}
    # A layer inside the encoder may have the name of the encoder's first: only prefixes of known words may be nested.
    inner = {p for p in found if any(p != other and p.startswith(other) for other in found)}
    prefixes = [p for p in found if p not in inner or set(p.split(".")[:-1]) <= known]
    if not prefixes:
        raise UserError(
            f"{source} has no weights of this architecture, such as {' or '.join(anchors)}; it has "
            f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''} ({len(names)} in all). "
            f"{hint(names) or 'Name the right one.'}"
        )
    if branch:
        prefixes = [p for p in prefixes if branch in p.split(".")]
        if not prefixes:
            words = sorted({w for p in found for w in p.split(".") if w} - _WRAPPERS)
            raise UserError(f"{source} has no branch '{branch}'; it has {', '.join(words) or 'one encoder only'}.")
    ranked = sorted((_rank(p, known), p) for p in prefixes)
    best = [p for rank, p in ranked if rank == ranked[0][0]]
    if len(best) > 1 or (_trained_together(prefixes) and len(prefixes) > 1):
        raise UserError(
            f"{source} holds several encoders: {', '.join(sorted(prefixes))}. Choose one with &branch=WORD, such as "
            "&branch=student for a distilled or hardened one, &branch=teacher for DINO."
        )
    return FoundPrefix(best[0], _beside(best[0], prefixes))


_SIGNS = {
    "lora_": "It holds LoRA adapters: merge them into the weights (peft: model.merge_and_unload()), and give those.",
    "embeddings.patch_embeddings.projection": "These are names of transformers: give its folder or repository as hf:.",
    "embeddings.patch_embedding.": "These are names of transformers: give its folder or repository as hf:.",
    "encoder_layer_0.": "These are names of torchvision: load its network yourself and use robustprobe.wrap.",
    "patch_embed.projection": "These are names of MMPretrain: convert them to timm's names, as in patch_embed.proj.",
}


def hint(names: Iterable[str]) -> str:
    """What to do with a file, by the code that gave its keys their names; empty where that is not known."""
    names = list(names)
    return next((text for sign, text in _SIGNS.items() if any(sign in name for name in names)), "")


def _trained_together(prefixes: Iterable[str]) -> bool:
    split = [set(p.split(".")) for p in prefixes]
    return any({"student", "state_dict"} <= w for w in split) and any("teacher" in w for w in split)


def _averages(words: Iterable[str]) -> set[str]:
    """Those of the words that name a moving average."""
    return {word for word in words if not _AVERAGES.isdisjoint(word.lower().split("_"))}


def _beside(chosen: str, prefixes: Iterable[str]) -> str:
    """What a moving average was preferred to, in words."""
    averages = _averages(chosen.split("."))
    others = [p for p in prefixes if not _averages(p.split("."))]
    if not averages or not others:
        return ""
    word = next((w for w in others[0].split(".") if w and w not in chosen.split(".")), "")
    return (
        f"the moving average ({min(averages)}) was taken, as timm does, not the weights beside it"
        f"{f'; &branch={word} takes those' if word else ''}"
    )


def match(
    own: State, given: State, *, prefix: str, outside: Iterable[str], layout: str = "", note: str = ""
) -> KeyReport:
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
        note,
    )


def _rank(prefix: str, known: set[str]) -> int:
    words = set(prefix.split(".")[:-1])
    if _averages(words):
        return 0
    if not words <= known:
        return 3
    return 1 if words & _FIRST and not words & _LATER else 4 if words & _LATER else 2
