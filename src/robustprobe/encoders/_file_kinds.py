"""What a file is by its first bytes: weights in one of two formats, or something else that is named."""

import json
import re
import zipfile
from pathlib import Path
from typing import Literal

import torch

from robustprobe.core.errors import UserError
from robustprobe.core.files import COMPRESSED, LFS_POINTER, NUMPY_ARRAY

Format = Literal["safetensors", "torch"]
ENDINGS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar", ".pkl")
START = 300
_SHARD = re.compile(r"-\d+-of-\d+\.")
_MOST_INDEX_BYTES = 2**26
_PICKLE, _ZIP = b"\x80", b"PK\x03\x04"
_OTHERS = {
    **{mark: f"is compressed by {program}; unpack it" for mark, program in COMPRESSED.items()},
    b"7z\xbc\xaf": "is a 7-Zip archive; unpack it",
    b"\x89HDF": "is an HDF5 file, as Keras writes them; robustprobe reads weights of torch",
    NUMPY_ARRAY: "is an array of NumPy; robustprobe reads weights of torch",
    b"GGUF": "is a GGUF file; robustprobe reads weights of torch",
}
_HOW = "Give a file of torch.save or safetensors"


def folder_hint(folder: Path) -> str:
    """What to give in place of a folder of other programs, by the files in it; empty where that is not known."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if any(name.endswith(".distcp") for name in names):
        program = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
        return f" It is a distributed checkpoint of torch: {program} {folder} FILE makes one file of it."
    if "config.json" in names:
        return f" It looks like a model of transformers: give it as hf:{folder}."
    files = [name for name in names if name.endswith(ENDINGS)]
    return f" Give the file itself, such as file:{folder / files[0]}?arch=NAME." if files else ""


def is_shard(path: Path) -> bool:
    """Whether the name of a file says that it is one part of several: `model-00001-of-00003.safetensors`."""
    return _SHARD.search(path.name) is not None


def weights_format(path: Path) -> Format:
    """The format of a checkpoint by its content, whatever its name ends in.

    Raises:
        UserError: a Git LFS pointer, the index of a checkpoint in shards, a web page, an archive, a compiled network,
            or anything else that is neither format.
    """
    with path.open("rb") as file:
        start = file.read(START)
    check_is_weights(path)
    if _is_safetensors(path, start):
        return "safetensors"
    if start.startswith(_ZIP):
        _check_archive(path)
    elif not start.startswith(_PICKLE):
        raise UserError(f"{path} cannot be read as a checkpoint: it {_other_kind(path, start)}. {_HOW}.")
    return "torch"


def check_is_weights(path: Path) -> None:
    """Raises UserError for a Git LFS pointer, the index of a checkpoint in shards, or a web page in place of a file."""
    with path.open("rb") as file:
        start = file.read(START).lstrip()
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


def unsafe_classes(path: Path) -> list[str]:
    """Names of what a checkpoint holds beside weights, as far as torch tells; its code is not run."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:
        # It reads archives alone, and a damaged one may raise anything.
        return []


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Eight bytes that count those of the header, which is JSON; a file that is named so may be a damaged one."""
    stated = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= stated <= path.stat().st_size:
        return True
    return path.suffix == ".safetensors" and not start.startswith((_ZIP, _PICKLE))


def _check_archive(path: Path) -> None:
    """Raises UserError for a ZIP archive that torch.save did not write."""
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} cannot be read as a checkpoint: the file is cut short. Download it again.")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name for name in names) or any(name.endswith("/models/model.json") for name in names):
        raise UserError(
            f"{path} is a compiled network (TorchScript or torch.export), and robustprobe runs no code of a file. If "
            "you trust it, load it yourself and write its state_dict() with safetensors.torch.save_file."
        )
    if not any(name.endswith("data.pkl") for name in names):
        kind = "arrays of NumPy" if names and all(n.endswith(".npy") for n in names) else "a ZIP archive"
        raise UserError(
            f"{path} cannot be read as a checkpoint: it is {kind} ({', '.join(names[:3])}). {_HOW}; unpack an archive."
        )


def _other_kind(path: Path, start: bytes) -> str:
    if not start:
        return "is empty"
    if (known := next((words for magic, words in _OTHERS.items() if start.startswith(magic)), None)) is not None:
        return known
    with path.open("rb") as file:
        file.seek(257)
        if file.read(5) == b"ustar":
            return "is a tar archive; unpack it"
    if path.suffix == ".onnx":
        return "is an ONNX file; robustprobe reads weights of torch"
    try:
        text = start.decode("utf-8").strip()
    except UnicodeDecodeError:
        text = ""
    if text.isascii() and text and text.replace("\n", " ").replace("\t", " ").isprintable():
        return f"is text that begins with {text.splitlines()[0][:60]!r}"
    return f"begins with the bytes {start[:8].hex(' ')}"


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
