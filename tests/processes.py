"""Which of some processes is at work on what."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def holders_of(file: Path, among: Iterable[psutil.Process]) -> list[int]:
    """Those that have `file` open."""
    found = []
    for process in among:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(opened.path == str(file) for opened in process.open_files()):
                found.append(process.pid)
    return found
