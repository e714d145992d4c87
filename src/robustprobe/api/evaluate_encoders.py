"""`robustprobe.evaluate`: the robustness of encoders, as results that are a data frame."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import nn

from robustprobe.api.inputs import HOLDS_DATASETS, as_encoder, as_size
from robustprobe.api.progress import run_progress
from robustprobe.core.arguments import checked_types
from robustprobe.core.attack_spec import Iterate
from robustprobe.core.device import device_of, find_device
from robustprobe.core.errors import UserError
from robustprobe.core.head_spec import HeadKind, HeadSpec
from robustprobe.core.sizes import Norm
from robustprobe.core.spec import AttackAt, DatasetSpec, ExecutorOptions, Suite
from robustprobe.core.spec_base import validated
from robustprobe.core.user_warnings import warn_user
from robustprobe.core.usual_mode import usual_mode
from robustprobe.datasets import Dataset
from robustprobe.encoders import Encoder
from robustprobe.evaluation.cells import Plan
from robustprobe.evaluation.plan import make_plan
from robustprobe.evaluation.run import Failure, execute
from robustprobe.results.store import Store

if TYPE_CHECKING:
    from robustprobe.api.results import Results

Item = TypeVar("Item")
Names = str | Sequence[str]
KEEPS_RESULTS = "the folder that keeps the results, as a path"


@checked_types("encoder", "transfer_from", "datasets", "head", "size", "device", root=HOLDS_DATASETS, out=KEEPS_RESULTS)
@usual_mode()
def evaluate(
    encoder: Encoder | str | Sequence[Encoder | str],
    datasets: str | DatasetSpec | Sequence[str | DatasetSpec],
    attacks: Names | None = None,
    *,
    tasks: Names | None = None,
    eps: str | float | Sequence[str | float] | None = None,
    severity: int | Sequence[int] | None = None,
    area: str | float | Sequence[str | float] | None = None,
    position: str | None = None,
    position_samples: int | None = None,
    norm: Norm = "linf",
    steps: int | None = None,
    restarts: int = 1,
    iterate: Iterate = "best",
    head: HeadSpec | HeadKind | Mapping[str, Any] | None = None,
    split: Literal["test", "val"] = "test",
    limit: int | None = None,
    size: int | tuple[int, int] | None = None,
    batch_size: int = 64,
    precision: Literal["fp32", "bf16"] = "fp32",
    attack_at: AttackAt = "served",
    transfer_from: Encoder | str | Sequence[Encoder | str] = (),
    seed: int = 0,
    eot_samples: int | None = None,
    bpda: Names | None = None,
    judgements: int | None = None,
    momentum: float | None = None,
    input_diversity: float | None = None,
    lost_share: float | None = None,
    translation_kernel: int | None = None,
    examples: int = 0,
    extreme_examples: int = 1,
    sanity_images: int | None = None,
    transfer: bool = False,
    root: str | Path = "data",
    out: str | Path | None = None,
    device: str = "auto",
    executor: str = "local",
    ray_address: str = "",
    workers: int = 0,
    shard_size: int = 0,
    threads: int = 0,
    progress: bool | None = None,
) -> "Results":
    """Robustness of encoders: a data frame with a row per number and its 95 % interval, and the images behind it.

    Args:
        encoder: an encoder or its name (`timm:NAME`, `hf:ORG/NAME`, `bundled:NAME`, `my.py:Class`, ...), or several. A
            network of your own becomes one by `robustprobe.wrap`.
        datasets: a name from `robustprobe list datasets`, or several.
        attacks: names from `robustprobe list attacks`, one or several; by default clean, noise, embed and each task's
            own.
        tasks: tasks whose heads judge, one or several; by default all that a dataset has labels for.
        eps: size of the ball in pixel units of [0, 1], as `8/255` or a number, or several; by default what is usual for
            the norm and the size of the images.
        severity: of corruptions, from 1 to 5, or several; by default 3.
        area: of patches, the share of the image that they cover, as `5%` or 0.05, or several; by default 5%.
        position: where a patch lies, with `position_samples`; see `attack`.
        steps: by default as many as each attack asks for.
        head: fields of `HeadSpec` that differ from the recipe `fast`, such as `{"recipe": "standard"}`; or a
            kind of heads alone, `mlp`.
        split: `val`: train images held out, on which heads are chosen too. Make choices there, publish on `test`.
        limit: images of each dataset; always the same ones for the same number.
        size: (H, W), or one number, that images are served at; by default as the head's recipe says.
        eot_samples: gradients that each step averages, for encoders that answer at random.
        bpda: modules of the encoder, by name, whose backward pass is taken to be the identity.
        judgements: answers for each image, of which the worst counts, for encoders that answer at random.
        momentum: for attacks that are to transfer, with `input_diversity` and `translation_kernel`; see `attack`.
        lost_share: share of an image's clean score that `min-eps` has to cost it, by default 0.5.
        transfer_from: encoders on which adversarial images are made too, with heads of their own, for those of every
            `encoder` to judge; `transfer=True` shows these rows.
        attack_at: `served`: the ball is on images resized for the encoder; `native`: on images as the dataset stores
            them, and the model resizes them.
        examples: random images of each attack that are kept for the page; `extreme_examples` of each kind beside them.
        sanity_images: images on which each attack is checked; by default a fortieth of all, 4 to 10.
        transfer: also rows where the attack was made for another task's head.
        root: folder of the datasets.
        out: keeps the results there, and skips what is already there; by default they are kept in a temporary folder as
            long as the result lives.
        device: `auto` is CUDA where it is available, else the CPU.
        executor: `local`, or `ray` (the extra `ray`) with its address and as many workers as wanted; 0: all there are.
        threads: of torch in each process on a CPU; 0: as many as this process uses.
        progress: a progress bar; by default on a terminal and in a notebook.

    Returns:
        `Results`: a data frame that has `.table()`, `.rows()` (per image), `.to_latex()` and `.report(path)`.

    Raises:
        UserError: anything that cannot be resolved or read.
        RuntimeError: some cells failed for another reason.

    Example:
        >>> import robustprobe as rp
        >>> result = rp.evaluate("bundled:photos", "scenes", "pgd", tasks="classification", limit=8)
        >>> result[["task", "attack", "eps", "value", "ci_low", "ci_high"]]
        >>> result.rows()[["id", "attack", "eps", "score"]]
    """
    loaded, sources = (
        [as_encoder(one, "evaluate") for one in _several(some, nn.Module)] for some in (encoder, transfer_from)
    )
    served = {"limit": limit, "split": split, "size": as_size(size)}
    suite = validated(
        Suite,
        {
            "encoders": [e.card.name for e in loaded],
            "transfer_from": [e.card.name for e in sources],
            "datasets": [
                d if isinstance(d, DatasetSpec) else {"name": _named(d), **served} for d in _several(datasets)
            ],
            "attacks": None if attacks is None else _several(attacks),
            "tasks": None if tasks is None else _several(tasks),
            "eps": None if eps is None else _several(eps),
            "severity": None if severity is None else _several(severity),
            "area": None if area is None else _several(area),
            **{"position": position, "position_samples": position_samples},
            "head": HeadSpec() if head is None else head,
            **{"norm": norm, "steps": steps, "restarts": restarts, "iterate": iterate},
            **{"batch_size": batch_size, "precision": precision, "attack_at": attack_at},
            **{"seed": seed, "examples": examples},
            **{"eot_samples": eot_samples, "judgements": judgements, "momentum": momentum},
            **{"input_diversity": input_diversity, "translation_kernel": translation_kernel},
            "lost_share": lost_share,
            "bpda": None if bpda is None else _several(bpda),
            **{"extreme_examples": extreme_examples, "sanity_images": sanity_images},
        },
        "evaluation",
    )
    spread = {"executor": executor, "address": ray_address, "workers": workers, "shard_size": shard_size}
    options = validated(ExecutorOptions, {**spread, "threads": threads}, "evaluation")
    from robustprobe.api.results import Results, kept_while_used

    with _folder(out) as folder, _put_back([*loaded, *sources]):
        store = Store(folder).prepare()
        plan = make_plan(suite, store, Path(root), find_device(device), loaded, sources=sources)
        for text in plan.warnings:
            warn_user(text)
        _raise_failures(_executed(plan, store, options, progress))
        # A temporary folder names nothing.
        name = "" if out else f"results of {', '.join(dict.fromkeys(e.card.name for e in loaded))}"
        result = Results([Store(folder, plan.fingerprints(), name)], transfer=transfer)
    return result if out else kept_while_used(result, folder)


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """Where results go; a temporary folder is removed again where nothing comes of them."""
    if out:
        yield Path(out)
        return
    folder = Path(tempfile.mkdtemp(prefix="robustprobe-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _several(given: Any, *also: type) -> list[Any]:
    """What is given as a list: one name or number stands for a list of one."""
    one = isinstance(given, str | DatasetSpec | Dataset) or not hasattr(given, "__iter__") or isinstance(given, also)
    return [given] if one or getattr(given, "ndim", 1) == 0 else list(given)


def _named(dataset: object) -> object:
    if isinstance(dataset, Dataset):
        raise UserError(
            f"evaluate takes names of datasets, not a {type(dataset).__name__}: heads are fitted on its other split. "
            "Give its name."
        )
    return dataset


@contextmanager
def _put_back(encoders: Sequence[Encoder]) -> Iterator[None]:
    """Encoders that were moved to another device return to where they were."""
    places = [device_of(encoder) for encoder in encoders]
    try:
        yield
    finally:
        for encoder, place in zip(encoders, places, strict=True):
            if place is not None:
                encoder.to(place)


def _executed(plan: Plan, store: Store, options: ExecutorOptions, progress: bool | None) -> list[Failure]:
    with run_progress(plan, progress) as display:
        return execute(plan, store, display.update, options, display.say)


def _raise_failures(failures: Sequence[Failure]) -> None:
    if failures and all(failure.mistake for failure in failures):
        raise UserError("; ".join(dict.fromkeys(failure.reason for failure in failures)))
    if failures:
        raise RuntimeError("; ".join(f"{f.label}: {f.reason}" for f in failures))
