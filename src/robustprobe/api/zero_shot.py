"""`robustprobe.zero_shot`: a classifier of an encoder and text embeddings given as a file; nothing is fitted."""

from collections.abc import Sequence
from pathlib import Path

from robustprobe.api.inputs import as_encoder
from robustprobe.core.arguments import checked_types
from robustprobe.core.device import find_device
from robustprobe.core.errors import UserError
from robustprobe.core.head_spec import TextsFile
from robustprobe.core.spec_base import validated
from robustprobe.core.types import LabelSpace
from robustprobe.core.usual_mode import usual_mode
from robustprobe.core.views import Resized
from robustprobe.encoders import Encoder
from robustprobe.probing.zero_shot import EXPECTED, TASK, check_names, head_of_templates, head_of_texts, read_texts
from robustprobe.tasks import Model, load_task


@checked_types("encoder", "device", texts=EXPECTED)
@usual_mode()
def zero_shot(encoder: Encoder | str, texts: str | Path, *, classes: Sequence[str] = (), device: str = "auto") -> Model:
    """A zero-shot classifier: logits are `scale` times the cosine of the projected class token and each text, + `bias`.

    Args:
        encoder: an encoder or its name, such as the image tower of a CLIP model. It moves to `device`.
        texts: a safetensors file with the tensor `text` (C, D), a row for each class, and the names of the classes as a
            JSON list in the metadata `classes`. Optional tensors: `projection` (D, width of the class token), `scale`
            (one number, 100 by default; of CLIP the exponential of its `logit_scale`) and `bias` (one number).
            Or templates, such as `a photo of a {}.`, several separated by `|`; `templates` is this one. The text tower
            of the encoder, a CLIP or SigLIP model of `hf:`, embeds them with the names of `classes`.
        classes: the names (C,), for templates alone.
        device: `auto` is CUDA where it is available, else the CPU.

    Raises:
        UserError: an unknown encoder; a file that is missing, holds something else or does not fit the encoder; or
            templates for an encoder without text tower, or without names of classes.

    Example:
        >>> import robustprobe as rp
        >>> import torch
        >>> from safetensors.torch import save_file
        >>> encoder = rp.load_encoder("bundled:photos")
        >>> texts = {"text": torch.randn(2, encoder.card.widths.cls)}
        >>> save_file(texts, "texts.safetensors", metadata={"classes": '["cat", "dog"]'})
        >>> model = rp.zero_shot(encoder, "texts.safetensors")
        >>> logits = model(images)  # (B, 3, H, W) in [0, 1] to (B, C)
    """
    encoder, where = as_encoder(encoder, "zero_shot"), find_device(device)
    templates = validated(TextsFile, texts, "`texts`").templates
    if templates:
        check_names(classes, "rp.zero_shot (classes=...)")
        head, names = head_of_templates(encoder.text_tower(), templates, classes), tuple(classes)
    elif classes:
        raise UserError(f"a file of texts has the names of its classes inside, and {len(classes)} came beside {texts}.")
    else:
        found = read_texts(Path(texts))
        head, names = head_of_texts(encoder, found), found.classes
    task = load_task(TASK, LabelSpace(classes=names))
    return Model(encoder.to(where), head.to(where), task, Resized(size=encoder.card.input_size)).eval()
