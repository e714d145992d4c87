"""Fuzz one reader of files, guided by coverage: finds bytes that raise anything but a UserError.

uv run --with atheris python -m scripts.fuzz READER [--seconds 300] [--found tests/unit/found]

The readers are those of `tests/readers.py`. Failing inputs are written to `--found`, where the tests pick them up.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["robustprobe", "yaml", "PIL", "torch._weights_only_unpickler", "pickle"]):
    from robustprobe import UserError
    from tests.readers import READERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=sorted(READERS))
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--found", type=Path, default=Path("tests/unit/found"))
    options = parser.parse_args()
    reader, seen = READERS[options.reader], set[Any]()
    with tempfile.TemporaryDirectory() as corpus, tempfile.TemporaryDirectory() as name:
        folder, count, start = Path(name), 0, time.monotonic()
        reader.write(folder)
        whole = (folder / reader.file).read_bytes()
        (Path(corpus) / "whole").write_bytes(whole)

        def once(content: bytes) -> None:
            nonlocal count
            count += 1
            (folder / reader.file).write_bytes(content)
            try:
                reader.read(folder)
            except UserError:
                pass
            except Exception as error:
                trace = error.__traceback__
                while trace and trace.tb_next:
                    trace = trace.tb_next
                position = (
                    type(error).__name__,
                    trace.tb_frame.f_code.co_filename if trace else "",
                    trace and trace.tb_lineno,
                )
                if position not in seen:
                    seen.add(position)
                    options.found.mkdir(parents=True, exist_ok=True)
                    digest = hashlib.sha256(content).hexdigest()[:8]
                    (options.found / f"{options.reader}-{type(error).__name__}-{digest}").write_bytes(content)
                    print(f"found {position}: {str(error)[:200]}", flush=True)
            if count % 1000 == 0:
                print(f"{count} in {time.monotonic() - start:.0f} s, {len(seen)} found", flush=True)

        atheris.Setup(
            [
                sys.argv[0],
                corpus,
                f"-max_total_time={options.seconds}",
                "-rss_limit_mb=8000",
                "-timeout=60",
                f"-max_len={4 * len(whole) + 64}",
                "-verbosity=0",
            ],
            once,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
