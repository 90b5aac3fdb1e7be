"""Frames as Chrome's trace events, for https://ui.perfetto.dev and chrome://tracing.

Format: "Trace Event Format" (JSON array; its closing bracket may be missing, so a killed service leaves a whole file).
A vehicle is a process there, a stage a thread, a frame an asynchronous span; times are microseconds since the trace
began.
"""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic_ns
from typing import Any, TextIO

from perception.core.errors import ConfigError
from perception.runtime.service_spans import FrameSpans

ROWS = {"camera": 1, "lidar": 2, "radar": 3, "fusion": 4}


class ChromeTrace:
    """Writes to `path`; one larger than `max_bytes` becomes `PATH.1` and a new one is begun.

    Raises ConfigError where the file cannot be written; a disk that fills up later ends the trace.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._begun_ns = monotonic_ns()
        self._numbers: dict[str, int] = {}
        self._rows: set[tuple[int, int]] = set()
        self._size = 0
        try:
            self._file: TextIO | None = self._begin()
        except OSError as error:
            raise ConfigError(f"traces.file: {path} cannot be written ({error.strerror})") from None

    def write(self, frame: FrameSpans) -> None:
        with self._lock:
            if self._file is None:
                return
            try:
                self._write_frame(frame)
                if self._size > self._max_bytes:
                    self._rotate()
            except OSError:
                self._file = None

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.write("{}]\n")
                self._file.close()
                self._file = None

    def _write_frame(self, frame: FrameSpans) -> None:
        result = frame.result
        about = {
            "drive_id": result.drive_id,
            "run_id": result.run_id,
            "sequence": result.sequence,
            "reference_ns": str(result.reference_ns),
        }
        number = self._number(frame.vehicle)
        own_id = f"{result.run_id}/{result.sequence}"
        self._overlapping(number, "frame", own_id, frame.received_ns, frame.published_ns, about)
        fused_ns = frame.asked_ns
        for stage in frame.stages:
            own = {**about, "sensors": ", ".join(stage.sensors)}
            label = " ".join((stage.stage, *stage.sensors[:1]))
            self._span(number, stage.stage, label, stage.started_ns, stage.finished_ns, own)
            fused_ns = max(fused_ns, stage.finished_ns)
        self._overlapping(number, "track and publish", own_id, fused_ns, frame.published_ns, about)

    def _overlapping(
        self, number: int, name: str, own_id: str, begin_ns: int, end_ns: int, args: dict[str, Any]
    ) -> None:
        """A span that may overlap with the next frame's, which those of a thread must not."""
        common = {"name": name, "cat": "frame", "id": own_id, "pid": number, "tid": 0}
        self._put({"ph": "b", **common, "ts": (begin_ns - self._begun_ns) / 1e3, "args": args})
        self._put({"ph": "e", **common, "ts": (max(begin_ns, end_ns) - self._begun_ns) / 1e3})

    def _span(self, number: int, row: str, name: str, begin_ns: int, end_ns: int, args: dict[str, Any]) -> None:
        thread = ROWS[row]
        if (number, thread) not in self._rows:
            self._rows.add((number, thread))
            self._put({"ph": "M", "name": "thread_name", "pid": number, "tid": thread, "args": {"name": row}})
        self._put(
            {
                "ph": "X",
                "name": name,
                "cat": row,
                "pid": number,
                "tid": thread,
                "ts": (begin_ns - self._begun_ns) / 1e3,
                "dur": max(0, end_ns - begin_ns) / 1e3,
                "args": args,
            }
        )

    def _number(self, vehicle: str) -> int:
        if vehicle not in self._numbers:
            self._numbers[vehicle] = len(self._numbers) + 1
            self._name(vehicle)
        return self._numbers[vehicle]

    def _name(self, vehicle: str) -> None:
        number = self._numbers[vehicle]
        self._put({"ph": "M", "name": "process_name", "pid": number, "tid": 0, "args": {"name": vehicle}})

    def _put(self, event: dict[str, Any]) -> None:
        assert self._file is not None
        self._size += self._file.write(json.dumps(event) + ",\n")

    def _begin(self) -> TextIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("w", encoding="utf-8", buffering=1)
        started = {"ph": "i", "s": "g", "name": "trace begins", "pid": 0, "tid": 0}
        moment = {"ts": (monotonic_ns() - self._begun_ns) / 1e3, "args": {"utc": datetime.now(UTC).isoformat()}}
        self._size = file.write("[\n" + json.dumps({**started, **moment}) + ",\n")
        return file

    def _rotate(self) -> None:
        assert self._file is not None
        self._file.write("{}]\n")
        self._file.close()
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._file = self._begin()
        self._rows.clear()
        for vehicle in self._numbers:
            self._name(vehicle)
