"""A folder of results in one ZIP file, to be sent: without paths and names of a machine, and read without trust.

The same results give the same bytes. Never imports torch.
"""

import io
import platform
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from robustprobe.core.errors import UserError
from robustprobe.core.files import write_whole
from robustprobe.core.shared_names import shared_text
from robustprobe.results.example_images import Group
from robustprobe.results.records import Record
from robustprobe.results.sealing import sealed
from robustprobe.results.store import Store
from robustprobe.results.union import Found, check_files

ENDING = ".zip"
MOST_BYTES = 8 * 2**30
"""An archive that would become larger when it is unpacked is refused."""
_MEMBER = re.compile(
    r"cells/[\w-]{1,80}\.json|rows/[\w-]{1,80}\.parquet|examples/[\w-]{1,80}/[\w-]{1,80}\.(?:png|json)"
)
# The earliest date that ZIP knows: the same results are the same bytes on every day.
_DATE = (1980, 1, 1, 0, 0, 0)
_HOST = re.compile(rf"(?<![\w.-]){re.escape(platform.node() or ' ')}(?![\w-])")


def pack(found: Sequence[Found], groups: Iterable[tuple[Store, Group]], output: Path) -> None:
    """Write cells with their rows, and groups of example images, as one ZIP file.

    Absolute paths are shortened to their last parts and the name of this machine is left out; numbers, rows and
    pictures are as they were.

    Raises:
        UserError: another ending than .zip, a damaged cell, or a file that cannot be written.
    """
    if output.suffix != ENDING:
        raise UserError(f"'{output}' ends in '{output.suffix}'; give a file that ends in {ENDING}.")
    check_files(found, "packed")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(_members(found, groups)):
            archive.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, content.getvalue())
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}. Give another file with --out.") from error


def unpack(archive: Path, folder: Path) -> Store:
    """Unpack what `pack` wrote, and check it.

    Returns:
        the store; records, rows and pictures match their checksums.

    Raises:
        UserError: no ZIP file, names that `pack` never writes, too large, or a damaged cell.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            _check_members(archive, opened.infolist())
            for member in opened.infolist():
                path = folder / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(opened.read(member))
    except UserError:
        raise
    except Exception as error:
        # Damaged bytes make zipfile and zlib raise various exceptions.
        raise UserError(f"{archive} cannot be unpacked: {error}. Ask for it again.") from error
    store = Store(folder)
    if not (folder / "cells").is_dir():
        raise UserError(f"{archive} holds no results; give a file that `robustprobe submit` wrote.")
    check_files([Found(record, store) for record in store.records()], f"used of {archive}")
    return store


def _check_members(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    if wrong := next((m.filename for m in members if not _MEMBER.fullmatch(m.filename)), None):
        raise UserError(f"{archive} holds '{wrong}', which `robustprobe submit` never writes; nothing was unpacked.")
    if (size := sum(member.file_size for member in members)) > MOST_BYTES:
        raise UserError(f"{archive} would take {size:,} bytes, more than {MOST_BYTES:,}; nothing was unpacked.")


def _members(found: Sequence[Found], groups: Iterable[tuple[Store, Group]]) -> Iterable[tuple[str, bytes]]:
    for record, store in found:
        name = record.fingerprint
        yield f"cells/{name}.json", sealed(_shared_record(record))
        yield f"rows/{name}.parquet", store.rows_path(name).read_bytes()
    for store, group in groups:
        yield f"examples/{group.group}/group.json", sealed(_shared_group(group))
        for picture in group.digests:
            yield f"examples/{group.group}/{picture}", store.image(group.group, picture).read_bytes()


def _shared_record(record: Record) -> Record:
    """A record without absolute paths, and without the name of this machine in its command."""
    found = Record.model_validate(_shared(record.model_dump(mode="json")))
    command = _HOST.sub("this-machine", found.provenance.command)
    return found.model_copy(update={"provenance": found.provenance.model_copy(update={"command": command})})


def _shared_group(group: Group) -> Group:
    """A group without absolute paths; ids of images stay, by which they are found again."""
    return group.model_copy(update={"encoder": shared_text(group.encoder), "dataset": shared_text(group.dataset)})


def _shared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shared(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shared(one) for one in value]
    return shared_text(value) if isinstance(value, str) else value
