"""What a run leaves, to compare with what another one left."""

from typing import Any

from robustprobe.evaluation.run import RunProgress
from robustprobe.results.store import Store


def quiet(progress: RunProgress) -> None:
    """Tell nobody."""


def contents(store: Store) -> dict[str, Any]:
    """Records and rows by name: everything but when and where they were made."""
    return {
        record.fingerprint: (record.model_dump(exclude={"provenance"}), store.rows(record.fingerprint).to_pydict())
        for record in store.records()
    }
