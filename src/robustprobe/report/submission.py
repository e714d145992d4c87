"""What somebody who sends results says about them: the text of a pull request, from the records alone."""

from collections.abc import Iterable, Sequence

from robustprobe.report.page.lead import lead
from robustprobe.report.tables.matrix import failed_checks
from robustprobe.report.tables.results import render
from robustprobe.results.protocol import protocol_name
from robustprobe.results.union import Found


def submission_text(found: Sequence[Found], archive: str) -> str:
    """Markdown: encoders with their digests, what was found, the tables, failed checks, and how to check it.

    Args:
        archive: name of the file that `robustprobe.results.archive.pack` wrote.
    """
    records = [one.record for one in found]
    encoders = {(r.encoder, r.encoder_digest[:12], r.encoder_licence or "unknown") for r in records}
    machines = {(r.provenance.hardware, r.provenance.device) for r in records}
    versions = {", ".join(f"{k} {v}" for k, v in r.provenance.versions.items()) for r in records}
    checks = failed_checks(records)
    parts = [
        f"# Results: {', '.join(sorted(name for name, _, _ in encoders))}",
        lead(found),
        _list("Encoders", (f"{name}, digest {digest}, licence {licence}" for name, digest, licence in encoders)),
        f"Protocol: {protocol_name(records)}",
        render(records, "md"),
        _list("Failed sanity checks", checks) if checks else "No sanity check failed.",
        _list("Measured on", (f"{hardware} ({device})" for hardware, device in machines)),
        _list("Versions", versions),
        f"To check it: `robustprobe verify {archive} --data-root DATA` judges the stored adversarial images again.",
    ]
    return "\n\n".join(parts) + "\n"


def _list(title: str, entries: Iterable[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {entry}" for entry in sorted(entries))])
