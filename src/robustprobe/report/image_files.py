"""Stored adversarial images as files for other programs: PNG, and a table that says what each is."""

from pathlib import Path

from robustprobe.core.errors import UserError
from robustprobe.core.files import write_whole
from robustprobe.report.tables.sheet import csv_text
from robustprobe.report.tables.tidy import cell_facts
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from robustprobe.results.union import check_files, finished

TABLE = "images.csv"


def write_images(folder: Path, output: Path) -> int:
    """Copy the stored images of every attack as OUTPUT/GROUP/POSITION.png, and write OUTPUT/images.csv.

    The table has a row per image and task: the file, the id of the image, its score, and what `cell_facts` says. The
    images before an attack are those of the attack `clean`.

    Returns:
        number of images.

    Raises:
        UserError: no results, no stored images, damaged files, or a folder that cannot be written.
    """
    store, found = Store(folder), finished([folder], "export")
    check_files(found, "exported")
    rows, files = [], dict[Path, Path]()
    for group in store.groups():
        records = [one.record for one in found if one.record.group == group.group]
        for example in group.examples if records else ():
            name = f"{group.group}/{example.position}.png"
            files[output / name] = store.image(group.group, f"{example.position}.png")
            rows += [_row(name, record, example.id, example.scores.get(record.task)) for record in records]
    if not rows:
        raise UserError(f"{folder} holds no example images; run the suite with --examples 6 or more.")
    try:
        for target, source in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, source.read_bytes())
        write_whole(output / TABLE, csv_text(rows, list(rows[0])).encode())
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}. Give another folder with --out.") from error
    return len(files)


def _row(name: str, record: Record, image_id: str, score: float | None) -> dict[str, object]:
    return {"file": name, "id": image_id, "score": score, **cell_facts(record)}
