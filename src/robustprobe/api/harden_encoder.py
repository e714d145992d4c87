"""`robustprobe.harden`: a hardened copy of an encoder."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustprobe.api.inputs import HOLDS_DATASETS, as_encoder
from robustprobe.api.progress import progress_bar
from robustprobe.core.arguments import checked_types
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.training.distributed import find_processes
from robustprobe.training.run import run
from robustprobe.training.spec import make_spec


@checked_types("encoder", "device", root=HOLDS_DATASETS, out="the folder that keeps the encoder, as a path")
def harden(
    encoder: Encoder | str,
    dataset: str | Sequence[str],
    method: str = "deacl",
    *,
    epochs: int | None = None,
    root: str | Path = "data",
    out: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
    **given: Any,
) -> Encoder:
    """A hardened copy of an encoder, fine-tuned without labels.

    Args:
        encoder: an encoder or its name.
        dataset: name or names; images of the train split are used, labels are not.
        method: a defence (`robustprobe list defences`); its recipe gives the values of all that is not given.
        out: folder for checkpoints, log and result, where an interrupted run is resumed; by default nothing is kept.
        device: `auto` is CUDA where it is available, else the CPU.
        progress: a progress bar; by default on a terminal and in a notebook.
        given: other fields of `HardenSpec`, such as `eps="4/255"`, `size=96`, `tokens="both"` or
            `options={"gamma": 2}`.

    Raises:
        UserError: unknown names or fields, missing data, an encoder that cannot be saved, a folder of another run.
        RuntimeError: the loss became NaN or infinite.

    Example:
        >>> import robustprobe as rp
        >>> robust = rp.harden("bundled:photos", "scenes", "deacl", epochs=1, limit=64)
    """
    teacher = as_encoder(encoder, "harden")
    names = (dataset,) if isinstance(dataset, str) else tuple(dataset)
    spec = make_spec(method, {"encoder": teacher.card.name, "datasets": names, "epochs": epochs, **given})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(out) if out else Path(temporary) / "run"
        processes = find_processes(device)
        with progress_bar(1, progress if processes.leads else False) as bar:
            run(spec, Path(root), folder, processes, bar.train, teacher)
        hardened = load_encoder(f"file:{folder}")
        if not out:
            # The temporary folder names nothing.
            hardened.card = hardened.card.model_copy(update={"name": f"{teacher.card.name}+{method}"})
        return hardened
