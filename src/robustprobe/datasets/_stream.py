"""Streaming of Hugging Face datasets; the images of a run are kept in a temporary file."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, cast, final

from huggingface_hub import constants

from robustprobe.core.errors import UserError
from robustprobe.core.network import no_way_to

LABELS = ("label", "labels", "fine_label", "cls", "class", "target")
IMAGES = ("image", "img", "jpg", "png", "picture", "pixels")
# From version 4 on, `datasets` does not run code of repositories.
NEEDED = 4


class StreamColumns(NamedTuple):
    """Names of the columns of images and of classes, and the names of the classes if they are given."""

    image: str
    label: str
    classes: tuple[str, ...]


@final
class StreamSource:
    """A dataset of the hub, or a folder that `datasets` can load, streamed without a full download.

    Raises:
        UserError: `datasets` is not installed, or does not find the name.
    """

    def __init__(self, name: str, revision: str | None) -> None:
        self.name, self.revision = name, revision
        self.library = _library()
        # The library would try again for half a minute.
        if not (constants.HF_HUB_OFFLINE or Path(name).exists()) and (why := no_way_to(constants.ENDPOINT)):
            raise UserError(f"hfstream:{name} is no folder here, and there is {why}. Give a folder, or connect.")
        self.builder = self._asked(lambda: self.library.load_dataset_builder(name, revision=revision))

    @property
    def splits(self) -> list[str]:
        """The published names of the splits."""
        known = self.builder.info.splits or self.builder.config.data_files or {}
        return [str(split) for split in known]

    @property
    def files(self) -> list[str]:
        """The files of all splits; for the hub their names contain the commit."""
        listed = self.builder.config.data_files or {}
        return sorted(str(file) for files in listed.values() for file in files)

    def columns(self, split: str) -> StreamColumns:
        """The columns to read. Raises UserError if there is no image or no class column."""
        features = self._features(self.stream(split))
        image = next((n for n, f in features.items() if type(f).__name__ == "Image"), None)
        image = image or next((n for n in IMAGES if n in features), None)
        label = next((n for n, f in features.items() if type(f).__name__ == "ClassLabel"), None)
        label = label or next((n for n in LABELS if n in features), None)
        if image is None or label is None:
            raise UserError(
                f"hfstream:{self.name} has the columns {', '.join(features)}; expected an image ({', '.join(IMAGES)}) "
                f"and a class ({', '.join(LABELS)}). Rename them."
            )
        return StreamColumns(image, label, tuple(getattr(features[label], "names", None) or ()))

    def labels(self, split: str, column: str) -> list[int]:
        """The class of every row, in order, without reading an image."""
        stream = self.stream(split).select_columns([column])
        try:
            return cast(list[int], self._asked(lambda: [int(row[column]) for row in stream]))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"hfstream:{self.name} has classes in {column} that are not numbers: {error}. Use class indices."
            ) from error

    def images(self, split: str, column: str, first: int) -> Iterator[bytes]:
        """The stored bytes of the images from row `first` on, in order."""
        stream = self.stream(split).select_columns([column])
        if type(self._features(stream)[column]).__name__ == "Image":
            stream = stream.cast_column(column, self.library.Image(decode=False))
        for row in stream.skip(first) if first else stream:
            yield self._bytes(row[column])

    def stream(self, split: str) -> Any:
        """Rows as an iterable dataset of `datasets`."""
        return self._asked(
            lambda: self.library.load_dataset(self.name, revision=self.revision, split=split, streaming=True)
        )

    def _features(self, stream: Any) -> Any:
        # Resolving features starts a reader that does not end with the process, so it is the last resort.
        return stream.features or self._asked(lambda: stream._resolve_features().features)

    def _bytes(self, value: Any) -> bytes:
        stored = value if isinstance(value, Mapping) else {}
        if isinstance(stored.get("bytes"), bytes):
            return cast(bytes, stored["bytes"])
        if not isinstance(stored.get("path"), str):
            raise UserError(f"hfstream:{self.name} has a row without an image. Remove it.")
        from datasets.download.streaming_download_manager import xopen

        with closing(xopen(stored["path"], "rb")) as file:
            return cast(bytes, file.read())

    def _asked(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (UserError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"hfstream:{self.name} cannot be read: {error}.") from error
        except Exception as error:
            raise UserError(
                f"hfstream:{self.name} cannot be read: {type(error).__name__}: {error}. Give a folder, or, with "
                "a network connection, a name of the hub."
            ) from error


@final
class Spool:
    """Images by row: read once from a stream, in order, and kept as stored bytes in a temporary file.

    Rows that are not wanted are skipped. The file is deleted with the process.
    """

    def __init__(self, images: Callable[[int], Iterator[bytes]]) -> None:
        self.images = images
        self.file = tempfile.TemporaryFile(prefix="robustprobe-")  # noqa: SIM115 - open as long as the dataset
        self.spans: dict[int, tuple[int, int]] = {}
        self.lock = Lock()
        self.stream: Iterator[bytes] = iter(())
        self.next = -1

    def get(self, row: int, wanted: Callable[[int], bool]) -> bytes:
        """The stored bytes of the image of a row. Raises UserError if the stream ends before it."""
        with self.lock:
            if row not in self.spans:
                self._advance(row, wanted)
            start, size = self.spans[row]
            self.file.seek(start)
            return self.file.read(size)

    def _advance(self, row: int, wanted: Callable[[int], bool]) -> None:
        if self.next < 0 or row < self.next:
            self.stream, self.next = self.images(row), row
        while self.next <= row:
            try:
                content = next(self.stream)
            except StopIteration:
                raise UserError(f"the stream has {self.next} rows, and row {row} was listed. Run it again.") from None
            if self.next == row or (wanted(self.next) and self.next not in self.spans):
                start = self.file.seek(0, 2)
                self.file.write(content)
                self.spans[self.next] = (start, len(content))
            self.next += 1


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError("hfstream needs the library datasets: pip install 'robustprobe[datasets]'.") from error
    if int(datasets.__version__.partition(".")[0]) < NEEDED:
        raise UserError(f"datasets {datasets.__version__} runs code of repositories; update it to {NEEDED} or newer.")
    datasets.disable_progress_bars()
    return datasets
