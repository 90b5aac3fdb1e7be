"""Messages that crash their encoder again and again are put aside: on disk, with what happened."""

import hashlib
import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from perception.core.messages import CameraFrame, LidarSweep, RadarScan
from perception.core.stages import CameraRequest, EncodeRequest, LidarRequest

logger = logging.getLogger(__name__)

SensorMessage = CameraFrame | LidarSweep | RadarScan


class Quarantine:
    """Remembers such messages by their content, and writes up to `limit` of them to `folder`.

    A payload is written as it came (`.jpg`, `.png`, or else `.bin`), point clouds as `.npz`; beside it a JSON of the
    same name. A folder that cannot be written is no reason to stop: it is logged.
    """

    def __init__(self, folder: Path, limit: int, model: str) -> None:
        self._folder = folder
        self._limit = limit
        self._model = model
        self._errors: dict[bytes, str] = {}
        self.count = 0

    def known(self, request: EncodeRequest) -> str | None:
        """Why this request must not be encoded, if it is in the quarantine."""
        return self._errors.get(_digest(request)) if self._errors else None

    def put(self, request: EncodeRequest, error: str) -> None:
        """Put the request's messages aside."""
        self._errors[_digest(request)] = error
        for message in messages_of(request):
            self.count += 1
            if self.count > self._limit:
                continue
            try:
                self._write(message, error)
            except OSError as problem:
                logger.warning("a message of %s could not be kept in %s: %s", message.sensor, self._folder, problem)

    def _write(self, message: SensorMessage, error: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = f"{re.sub(r'[^A-Za-z0-9_-]', '_', message.sensor)}-{message.capture_ns}"
        suffix, payload = _payload(message)
        (self._folder / (stem + suffix)).write_bytes(payload)
        account = {
            "sensor": message.sensor,
            "capture_ns": message.capture_ns,
            "arrival_ns": message.arrival_ns,
            "payload": stem + suffix,
            "error": error,
            "model": self._model,
            "put_aside": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        (self._folder / (stem + ".json")).write_text(json.dumps(account, indent=2) + "\n")


def messages_of(request: EncodeRequest) -> tuple[SensorMessage, ...]:
    if isinstance(request, CameraRequest):
        return (request.frame,)
    return (request.sweep,) if isinstance(request, LidarRequest) else request.scans


def _payload(message: SensorMessage) -> tuple[str, bytes]:
    if isinstance(message, CameraFrame):
        magic = message.data[:4]
        return ".jpg" if magic[:2] == b"\xff\xd8" else ".png" if magic == b"\x89PNG" else ".bin", message.data
    buffer = io.BytesIO()
    columns: dict[str, Any] = dict(_columns(message))
    np.savez_compressed(buffer, **columns)
    return ".npz", buffer.getvalue()


def _columns(message: LidarSweep | RadarScan) -> Iterator[tuple[str, np.ndarray]]:
    for name in type(message).__slots__:
        column = getattr(message, name)
        if isinstance(column, np.ndarray):
            yield name, column


def _digest(request: EncodeRequest) -> bytes:
    digest = hashlib.sha256()
    for message in messages_of(request):
        digest.update(f"{message.sensor} {message.capture_ns} ".encode())
        if isinstance(message, CameraFrame):
            digest.update(message.data)
        else:
            digest.update(np.ascontiguousarray(message.points_m).data)
    return digest.digest()
