"""How far attacks on encoders change the covariance of features, as a table: a diagnostic of encoders, not a score."""

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

from robustprobe.report.tables.matrix import data_key, in_order, interval_text, line_names
from robustprobe.report.tables.sheet import Row, Sheet
from robustprobe.results.labels import record_label

if TYPE_CHECKING:
    from robustprobe.results.records import FeatureGaps, Record

COLUMNS = {
    "class_covariance": "class token, covariance",
    "class_variance": "class token, variance",
    "patch_covariance": "patch tokens, covariance",
    "patch_variance": "patch tokens, variance",
}
TITLE = (
    "Features under attack, covariance gap: change of their covariance, and of their variances, "
    "relative to clean ones; 0: none"
)


def feature_gap_rows(records: Iterable["Record"]) -> list["Record"]:
    """One record for each encoder, dataset and attack on the encoder: features do not depend on the judging head."""
    found: dict[Hashable, Record] = {}
    for record in in_order(records, transfer=False):
        if record.feature_gaps:
            found.setdefault((data_key(record), record.encoder, record.encoder_digest, record.attack), record)
    return list(found.values())


def feature_gap_sheet(records: Iterable["Record"]) -> Sheet | None:
    """The table; None where no attack was one on an encoder alone."""
    rows = feature_gap_rows(records)
    if not rows:
        return None
    names = line_names(rows)
    return Sheet(
        TITLE,
        ["dataset", "encoder", "attack"],
        list(COLUMNS.values()),
        [
            Row([*name, record_label(record)], [text(record.feature_gaps) for text in _TEXTS])
            for name, record in zip(names, rows, strict=True)
        ],
    )


def _text(name: str) -> Callable[["FeatureGaps | None"], str]:
    return lambda gaps: interval_text(getattr(gaps, name))


_TEXTS = tuple(map(_text, COLUMNS))
