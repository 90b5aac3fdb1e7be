"""A message as a small header and flat bytes, for dataflows that carry arrays: no copy but one, and no pickles."""

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import (
    AnyMessage,
    CameraFrame,
    Command,
    EgoState,
    LidarSweep,
    RadarScan,
    RouteCommand,
    Signal,
    SweepMotion,
    Unreadable,
)

Bytes = NDArray[np.uint8]
KINDS: dict[str, type[AnyMessage]] = {
    kind.__name__: kind for kind in (CameraFrame, LidarSweep, RadarScan, EgoState, RouteCommand)
}
ENUMS: dict[str, type[StrEnum]] = {"motion": SweepMotion, "command": Command, "signal": Signal}


def pack(message: AnyMessage) -> tuple[dict[str, Any], Bytes]:
    """Header (numbers, text and lists of them) and payload (N,) uint8. Raises TypeError for a message without one."""
    if isinstance(message, Unreadable):
        raise TypeError(f"{message.sensor}: an unreadable message has no payload")
    header: dict[str, Any] = {"kind": type(message).__name__}
    parts: list[Bytes] = []
    for name in _fields(type(message)):
        value = getattr(message, name)
        if isinstance(value, bytes):
            value = np.frombuffer(value, dtype=np.uint8)
        if isinstance(value, np.ndarray):
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            header[name] = [str(value.dtype), *(str(side) for side in value.shape)]
            parts.append(flat)
        elif value is not None:
            header[name] = str(value) if isinstance(value, str) else value
    return header, np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)


def unpack(header: dict[str, Any], payload: Bytes) -> AnyMessage:
    """The message again; its arrays lie in `payload`."""
    kind = KINDS[header["kind"]]
    values: dict[str, Any] = {}
    at = 0
    for name in _fields(kind):
        value = header.get(name)
        if isinstance(value, list):
            dtype, shape = np.dtype(value[0]), tuple(int(side) for side in value[1:])
            size = int(np.prod(shape)) * dtype.itemsize
            value = payload[at : at + size].copy().view(dtype).reshape(shape)
            at += size
            if name == "data":
                value = value.tobytes()
        values[name] = value
    for name, enum in ENUMS.items():
        if name in values:
            values[name] = enum(values[name])
    return kind(**values)


def _fields(kind: type[AnyMessage]) -> tuple[str, ...]:
    return tuple(kind.__dataclass_fields__)
