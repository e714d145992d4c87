"""Models of the transformers library, read from a folder: safetensors only, in fp32, without code and network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from robustprobe.core.errors import UserError


def transformers_library() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise UserError("encoders of hf: need transformers: pip install 'robustprobe[hf]'.") from error
    return transformers


@contextmanager
def reading(what: str, folder: Path) -> Iterator[Any]:
    """The library, silent inside; what it raises on a part of a repository, `what`, is one UserError."""
    transformers = transformers_library()
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield transformers
    except Exception as error:
        # It raises various exceptions for an invalid configuration.
        reason = str(error).split("\n")[0]
        raise UserError(f"{what} cannot be read from {folder}: {reason}") from error
    finally:
        transformers.logging.set_verbosity(level)


def read_model(folder: Path, kind: str, spec: str, part: str, **options: Any) -> Any:
    """A model of a class of the library with the weights of a folder.

    Args:
        kind: the name of the class.
        spec: the encoder it belongs to.
        part: what it is of that, for messages, such as `text tower`.

    Raises:
        UserError: it cannot be read, or lacks a weight.
    """
    with reading(f"the {part} of {spec}", folder) as transformers:
        model, report = getattr(transformers, kind).from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{spec} lacks {len(missing)} weights of its {part}: {', '.join(missing[:3])}.")
    return model
