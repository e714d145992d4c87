"""Files that are not the weights they seem to be: pointers, indexes of shards, web pages."""

import json
import re
from pathlib import Path

from robustprobe.core.errors import UserError
from robustprobe.core.files import LFS_POINTER

_SHARD = re.compile(r"-\d+-of-\d+\.")
_MOST_INDEX_BYTES = 2**26


def is_shard(path: Path) -> bool:
    """Whether the name of a file says that it is one part of several: `model-00001-of-00003.safetensors`."""
    return _SHARD.search(path.name) is not None


def check_is_weights(path: Path) -> None:
    """Raises UserError for a Git LFS pointer, the index of a checkpoint in shards, or a web page in place of a file."""
    with path.open("rb") as file:
        start = file.read(200).lstrip()
    if start.startswith(LFS_POINTER):
        size = re.search(rb"size (\d+)", start)
        stands = f" of {int(size[1]):,} bytes" if size else ""
        raise UserError(
            f"{path} is a Git LFS pointer, which stands for a file{stands}. Get the file itself: `git lfs pull` in the "
            "repository, or download it from the hub."
        )
    if start[:1] == b"<":
        raise UserError(f"{path} is a web page or XML, not weights. Download the file itself.")
    if start[:1] == b"{" and path.stat().st_size < _MOST_INDEX_BYTES:
        _check_no_index(path)


def _check_no_index(path: Path) -> None:
    try:
        shards = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    raise UserError(
        f"{path} is the index of a checkpoint in {len(shards)} shards ({', '.join(map(str, shards[:3]))}"
        f"{', ...' if len(shards) > 3 else ''}), which hold the weights. Join them in one file with "
        "safetensors.torch.load_file and save_file, and give that; a model of transformers is given as hf:DIR."
    )
