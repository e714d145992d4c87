"""On which images heads are fitted: as they are, or attacked in a ball."""

from typing import Annotated, NamedTuple, cast, get_args

from pydantic import BeforeValidator, WithJsonSchema

from robustprobe.core.errors import UserError
from robustprobe.core.sizes import Norm, check_eps, format_eps, parse_eps

CLEAN_IMAGES, ATTACKED_IMAGES = "clean", "adversarial"


class HeadThreat(NamedTuple):
    """The ball in which images are attacked while a head is fitted on them."""

    eps: float
    norm: Norm


def head_threat(text: str) -> HeadThreat | None:
    """The ball of `adversarial:EPS` or `adversarial:EPS:NORM`, 4/255 and linf where not given; None for `clean`.

    Raises:
        UserError: anything else.
    """
    kind, _, ball = str(text).partition(":")
    size, _, norm = ball.partition(":")
    if text == CLEAN_IMAGES:
        return None
    if kind != ATTACKED_IMAGES or norm not in ("", *get_args(Norm)):
        raise UserError(
            f"expected clean, adversarial:EPS such as adversarial:4/255, or adversarial:0.5:l2, got {text!r}"
        )
    threat = HeadThreat(parse_eps(size or 4 / 255), cast(Norm, norm or "linf"))
    check_eps(*threat)
    if not threat.eps:
        raise UserError("expected an eps above 0; heads on images as they are: clean")
    return threat


def _training_text(text: object) -> str:
    """The same text for the same ball: `adversarial` becomes `adversarial:4/255`."""
    threat = head_threat(cast(str, text))
    if threat is None:
        return CLEAN_IMAGES
    norm = "" if threat.norm == "linf" else f":{threat.norm}"
    return f"{ATTACKED_IMAGES}:{format_eps(*threat)}{norm}"


_TRAINING_SCHEMA = {
    "type": "string",
    "pattern": r"^(clean|adversarial(:[0-9.eE+-]+(/[0-9.eE+-]+)?(:(linf|l2|l1))?)?)$",
    "description": "clean, or adversarial:EPS such as adversarial:4/255; adversarial:0.5:l2 for another norm.",
}
HeadTraining = Annotated[str, BeforeValidator(_training_text), WithJsonSchema(_TRAINING_SCHEMA, mode="validation")]
