"""The program as a process of its own, and what it answers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Answer(NamedTuple):
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def child(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own."""
    started = start(*arguments, cwd=cwd, **environment)
    out, err = started.communicate(timeout=600)
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)


def start(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """The command line as a process of its own that is not waited for."""
    command = [sys.executable, "-c", "from robustprobe.cli import main; main()", *(str(a) for a in arguments)]
    pipe, settings = subprocess.PIPE, {**os.environ, **environment}
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=settings)
