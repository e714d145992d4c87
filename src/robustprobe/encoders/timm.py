"""Vision transformers and convolutional networks of timm: timm:NAME.tag or timm:NAME.tag@REVISION"""

from typing import Any, final

import timm
from timm.models import get_pretrained_cfg

from robustprobe.core.errors import UserError
from robustprobe.encoders._downloads import hub_file, missing_downloads_named, url_file
from robustprobe.encoders._meant import unknown_tag, unknown_timm_name
from robustprobe.encoders._timm import TimmMap, TimmViT, create, wrap
from robustprobe.encoders.base import Encoder, Source

__all__ = ["TimmMap", "TimmSource", "TimmViT"]

SAFE = ("model.safetensors", "pytorch_model.safetensors")


@final
class TimmSource(Source):
    """Weights from the Hugging Face hub, or from the URL that timm names; the tag `random` gives random weights of a
    fixed seed.

    Without a tag they are timm's default weights. A revision is a branch, a tag or, best, a commit.
    """

    def load(self, name: str) -> Encoder:
        spec = f"timm:{name}"
        name, _, revision = name.partition("@")
        architecture, _, tag = name.partition(".")
        if architecture not in timm.list_models():
            raise unknown_timm_name(name)
        if tag != "random" and tag not in (
            "",
            *(one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*")),
        ):
            raise unknown_tag(architecture, tag)
        try:
            model, commit = (create(architecture), "") if tag == "random" else _pretrained(spec, name, revision)
        except UserError:
            raise
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{spec} cannot be loaded: {str(error).rstrip('.')}.") from error
        return wrap(spec, model, source="timm", revision=commit)


def _pretrained(spec: str, name: str, revision: str) -> tuple[Any, str]:
    """A model with its published weights, and their commit."""
    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        tags = [n for n in timm.list_models(pretrained=True) if n.partition(".")[0] == name.partition(".")[0]]
        raise UserError(f"timm has no weights for {name}; tags with weights: {', '.join(tags) or 'none'}.")
    if config.hf_hub_id:
        repository, _, pinned = config.hf_hub_id.partition("@")
        file = hub_file(spec, repository, SAFE, revision or pinned or None)
        return create(name, pretrained=True, pretrained_cfg_overlay={"file": str(file.path)}), file.commit
    if revision:
        raise UserError(f"{spec}: these weights come from {config.url}, which has no revisions; leave out @{revision}.")
    url_file(spec, config.url)
    with missing_downloads_named(spec):
        return create(name, pretrained=True), ""
