"""A recording of several gigabytes: how much memory it takes to read, and how long to find a place in it."""

import contextlib
import itertools
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from perception.core.errors import DriveError
from perception.core.messages import AnyMessage, CameraFrame
from perception.recorders.mcap import McapRecorder
from perception.sources.bench_reading import large_file_reading
from perception.sources.synthetic import SyntheticSource

LAP_S: Final = 1.0
IMAGE_BYTES: Final = 150_000
"""Of a JPEG of 1600x900. Small images would make it a drive of an hour, mostly spent in packing it."""
_SPARE = 1.1
_COMMENT = b"\xff\xfe"
_MAX_COMMENT_BYTES = 65_533
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
    source, rng = SyntheticSource(seed=1, duration_s=LAP_S), np.random.default_rng(1)
    lap = [_as_large_as_real(message, rng) for message in source.messages()]
    lap_ns = lap[-1].arrival_ns - lap[0].arrival_ns + _PAUSE_NS
    with contextlib.closing(McapRecorder(path, source.rig, source.drive_id)) as recorder:
        for number in itertools.count():
            for message in lap:
                recorder.write(_later(message, number * lap_ns))
            if path.stat().st_size >= size_bytes:
                return


def _as_large_as_real(message: AnyMessage, rng: np.random.Generator) -> AnyMessage:
    """Images with comments of noise, which decoders pass over and zstd cannot pack, as it cannot pack a JPEG."""
    if not isinstance(message, CameraFrame):
        return message
    comments, missing = b"", max(0, IMAGE_BYTES - len(message.data))
    while missing > 0:
        length = min(missing, _MAX_COMMENT_BYTES)
        comments += _COMMENT + (length + 2).to_bytes(2, "big") + rng.bytes(length)
        missing -= length
    return replace(message, data=message.data[:2] + comments + message.data[2:])


def _later(message: AnyMessage, by_ns: int) -> AnyMessage:
    return replace(message, capture_ns=message.capture_ns + by_ns, arrival_ns=message.arrival_ns + by_ns)
