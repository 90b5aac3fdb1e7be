"""A recording of several gigabytes: how much memory it takes to read, and how long to find a place in it."""

import contextlib
import itertools
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from perception.core.errors import DriveError
from perception.core.messages import AnyMessage
from perception.recorders.mcap import McapRecorder
from perception.sources.bench_reading import large_file_reading
from perception.sources.synthetic import SyntheticSource

LAP_S: Final = 1.0
_SPARE = 1.1
_PAUSE_NS = 10_000_000


def bench_large_file(path: Path, size_bytes: int) -> dict[str, Any]:
    """Write an MCAP drive of about `size_bytes` to `path`, read it in a process of its own, and delete it.

    Raises DriveError where the disk has no room for it, or reading fails.
    """
    free = shutil.disk_usage(path.parent).free
    if free < _SPARE * size_bytes:
        raise DriveError(f"{path.parent}: {free / 1e9:.1f} GB are free, {_SPARE * size_bytes / 1e9:.1f} are needed")
    try:
        begun = time.perf_counter()
        _write(path, size_bytes)
        written_s = time.perf_counter() - begun
        return {"bytes": path.stat().st_size, "write_s": written_s, **large_file_reading(path)}
    finally:
        path.unlink(missing_ok=True)


def _write(path: Path, size_bytes: int) -> None:
    """The same computed drive again and again, until the file is as large as it should be."""
    source = SyntheticSource(seed=1, duration_s=LAP_S)
    lap = list(source.messages())
    lap_ns = lap[-1].arrival_ns - lap[0].arrival_ns + _PAUSE_NS
    with contextlib.closing(McapRecorder(path, source.rig, source.drive_id)) as recorder:
        for number in itertools.count():
            for message in lap:
                recorder.write(_later(message, number * lap_ns))
            if path.stat().st_size >= size_bytes:
                return


def _later(message: AnyMessage, by_ns: int) -> AnyMessage:
    return replace(message, capture_ns=message.capture_ns + by_ns, arrival_ns=message.arrival_ns + by_ns)
