"""Rows of images as one tidy table: what was measured on which image, and how."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustprobe.metrics.statistics import image_scores
from robustprobe.report.tables.matrix import in_order
from robustprobe.results.labels import failed_checks_text

if TYPE_CHECKING:
    import pyarrow as pa

    from robustprobe.results.records import Record
    from robustprobe.results.store import Store

CELL_KEYS = (
    *("encoder", "encoder_digest", "dataset", "dataset_digest", "split", "task", "attack", "objective", "eps", "norm"),
    *("target_task", "steps", "restarts", "seed", "tuning", "metric", "unit", "higher_is_better", "failed_checks"),
    "fingerprint",
)
"""Columns that tables of cells and of images share."""
ROW_KEYS = (*CELL_KEYS, "id", "score", "score_8bit", "iou", "perturbation")
"""Columns of the table of images."""


def cell_facts(record: "Record") -> dict[str, Any]:
    """The values of `CELL_KEYS`; `attack` is the name alone, `failed_checks` holds names separated by `; `."""
    attack = record.attack
    facts = {key: getattr(record, key) for key in CELL_KEYS if key in type(record).model_fields}
    facts |= {key: getattr(attack, key) for key in ("objective", "eps", "norm", "steps", "restarts", "seed")}
    facts |= {"attack": attack.name, "tuning": attack.tuning_text, "failed_checks": failed_checks_text(record)}
    return {key: facts[key] for key in CELL_KEYS}


def tidy_rows(store: "Store", records: "Sequence[Record] | None" = None, transfer: bool = False) -> "pa.Table":
    """One row per image and cell.

    Args:
        store: where the rows are.
        records: the cells; by default all of the store.
        transfer: also the cells whose attack was made for another task than the one that judged.

    Returns:
        columns `ROW_KEYS`. `score` is the image's score in the unit of the task's metric (1 or 0, IoU, RMSE, angle),
        `score_8bit` the same after rounding to 8 bits, `iou` the mean IoU of the classes on the image (null for tasks
        without one), `perturbation` the size in the attack's norm.

    Raises:
        UserError: rows that cannot be read.
    """
    import pyarrow as pa

    known = in_order(store.records() if records is None else records, transfer)
    schema = _schema()
    if not known:
        return schema.empty_table()
    return pa.concat_tables([_of_cell(store, record, schema) for record in known])


def _of_cell(store: "Store", record: "Record", schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa

    rows = store.rows(record.fingerprint)
    columns = {name: rows.column(name).to_pylist() for name in rows.column_names}
    count, nothing = rows.num_rows, [None] * rows.num_rows
    scores = {ending: image_scores(record.statistic, columns, ending) for ending in ("", "_8bit")}
    classes = record.statistic is not None and record.statistic.kind == "mean_iou"
    values = {
        **{key: [value] * count for key, value in cell_facts(record).items()},
        "id": [str(name) for name in columns["id"]],
        "score": nothing if scores[""] is None else scores[""],
        "score_8bit": nothing if scores["_8bit"] is None else scores["_8bit"],
        "iou": scores[""] if classes else nothing,
        "perturbation": columns.get("perturbation", nothing),
    }
    return pa.table([pa.array(values[f.name], f.type, from_pandas=True) for f in schema], schema=schema)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    numbers = ("eps", "score", "score_8bit", "iou", "perturbation")
    kinds = {**dict.fromkeys(numbers, pa.float64()), **dict.fromkeys(("steps", "restarts", "seed"), pa.int64())}
    kinds["higher_is_better"] = pa.bool_()
    return pa.schema([(name, kinds.get(name, pa.string())) for name in ROW_KEYS])
