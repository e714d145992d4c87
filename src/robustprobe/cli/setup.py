"""`robustprobe init` and `robustprobe schema`: what a suite file is written with."""

import json
from pathlib import Path
from typing import Literal

from robustprobe.core.errors import UserError
from robustprobe.core.files import write_whole
from robustprobe.core.spec import Suite, load_suite

SUITE = """\
# A suite: encoders x datasets x attacks. Run it with `robustprobe run {path} --out results`.
# Keys and their meaning: `robustprobe schema suite`. Names: `robustprobe list encoders|datasets|attacks`.
name: {name}
description: What this suite is for.

encoders:          # timm:NAME, hf:ORG/NAME, hub:OWNER/REPO:NAME, file:CHECKPOINT?arch=NAME, my.py:Class, bundled:NAME
{encoders}
datasets:          # a folder of your own: imagefolder:PATH, segfolder:PATH, depthfolder:PATH
{datasets}
# tasks: [classification, segmentation, depth]   # by default all that a dataset has labels for

attacks:           # clean comes once; the others at every eps
  - clean
  - noise          # a control: random perturbations
  - embed          # sees the encoder alone
  - ensemble       # the strongest: several attacks for each task; slow, see docs/concepts/attacks.md
eps: [4/255, 8/255]   # pixel units of [0, 1]
norm: linf         # or l2, l1
# steps: 20        # by default what each attack asks for
# restarts: 1

head:
  recipe: standard   # fast: minutes on a CPU; paper: Kowalczuk et al. 2024

seed: 0
"""


def init(
    path: Path = Path("suite.yaml"), /, *, encoder: list[str] | None = None, dataset: list[str] | None = None
) -> None:
    """Write a commented suite file to start from.

    Parameters
    ----------
    path
        File to write; one that is there already stays.
    encoder
        Encoder of the suite, such as timm:NAME or ours=file:PATH. Can be given several times.
    dataset
        Dataset of the suite, such as cifar10. Can be given several times.
    """
    if path.exists():
        raise UserError(f"{path} is there already and stays as it is; give another file.")
    encoders = "".join(f"  - {json.dumps(name)}\n" for name in encoder or ["bundled:scenes"])
    datasets = "".join(f"  - {{name: {json.dumps(name)}, limit: 200}}\n" for name in dataset or ["scenes"])
    text = SUITE.format(path=path, name=json.dumps(path.stem), encoders=encoders, datasets=datasets)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. Give another file.") from error
    load_suite(path)
    print(f"{path}: edit it, look at it with `robustprobe run {path} --dry-run`, then run it without --dry-run.")


def schema(kind: Literal["suite", "record"], /) -> None:
    """Print the JSON Schema of suite files, or of the records in a folder of results, for editors and programs.

    Parameters
    ----------
    kind
        suite: what `run` reads. record: what it leaves in cells/.
    """
    print(json.dumps(_suite_schema() if kind == "suite" else _record_schema(), indent=2))


def _suite_schema() -> dict[str, object]:
    return {"$schema": DIALECT, **Suite.model_json_schema()}


def _record_schema() -> dict[str, object]:
    from robustprobe.results.records import Record

    found = Record.model_json_schema(mode="serialization")
    seal = {"content_sha256": {"type": "string", "description": "SHA-256 of the record without this line."}}
    return {"$schema": DIALECT, **found, "properties": {**found["properties"], **seal}}


DIALECT = "https://json-schema.org/draft/2020-12/schema"
