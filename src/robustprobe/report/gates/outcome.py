"""What became of a gate, and the file that build servers show (JUnit XML)."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Literal, NamedTuple


class GateOutcome(NamedTuple):
    """One test of one number of an encoder. `skipped`: there was nothing to test it against."""

    encoder: str
    name: str
    state: Literal["passed", "failed", "skipped"]
    message: str


def junit(outcomes: Sequence[GateOutcome]) -> bytes:
    """The outcomes as JUnit XML, a test case each."""
    counts = {
        "tests": str(len(outcomes)),
        "failures": str(sum(o.state == "failed" for o in outcomes)),
        "skipped": str(sum(o.state == "skipped" for o in outcomes)),
        "errors": "0",
    }
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": "robustprobe", **counts})
    for one in outcomes:
        case = ET.SubElement(suite, "testcase", {"classname": _printable(one.encoder), "name": _printable(one.name)})
        if one.state == "failed":
            ET.SubElement(case, "failure", {"message": _printable(one.message)})
        elif one.state == "skipped":
            ET.SubElement(case, "skipped", {"message": _printable(one.message)})
        else:
            ET.SubElement(case, "system-out").text = _printable(one.message)
    ET.indent(root)
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _printable(text: str) -> str:
    """Text without characters that XML has no form for."""
    return re.sub(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]", "\N{REPLACEMENT CHARACTER}", text)
