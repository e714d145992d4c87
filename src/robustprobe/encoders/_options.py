"""Options at the end of an encoder's name, as in file:PATH?arch=NAME&branch=student."""

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode

from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.shared_names import split_name


def split_options(name: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The part before the question mark, and the options after it.

    Raises:
        UserError: an option that is not among `known`, given twice or without a value.
    """
    path, _, text = name.rpartition("?")
    if not path or "=" not in text:
        return name, {}
    pairs = parse_qsl(text, keep_blank_values=True)
    options = dict(pairs)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of '{name}'", option, known)
    if len(options) < len(pairs) or not all(options.values()):
        raise UserError(f"'{name}' gives an option twice or without a value; write each once, as in ?{known[0]}=NAME.")
    return path, options


def with_arch(spec: str, arch: str) -> str:
    """The name of a checkpoint file with its architecture: `file:PATH` and `NAME` to `file:PATH?arch=NAME`.

    Raises:
        UserError: it is not a file, or has another architecture already.
    """
    given, spec = split_name(spec)
    if not spec.startswith("file:"):
        raise UserError(f"an architecture belongs to a checkpoint file, file:PATH; '{spec}' has its own. Leave it out.")
    path, mark, text = spec.rpartition("?")
    options = dict(parse_qsl(text)) if mark and "=" in text else {}
    if options.get("arch", arch) != arch:
        raise UserError(f"'{spec}' names the architecture {options['arch']} already; {arch} was given too. Keep one.")
    base = path if options else spec
    named = f"{given}={base}" if given else base
    return f"{named}?{urlencode({**options, 'arch': arch}, safe='./:@')}"
