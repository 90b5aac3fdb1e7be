"""Path hints to and from protobuf bytes, all waypoints of all hints at once.

As with detections (`detection_wire`), what is written is what any protobuf library writes, and hints with fields left
out are read one by one.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from perception.core.results import PathHints
from perception.queues import perception_result_pb2 as pb
from perception.queues.checks import MAX_WAYPOINTS, check_size
from perception.queues.wire_columns import framed

FRAME_TAG = 0x3A
TIMES_TAG = 0x1A
POINT = np.dtype({"names": ["x", "y"], "formats": ["<f4", "<f4"], "offsets": [3, 8], "itemsize": 12})
"""A waypoint as a field: its tag and length, and both coordinates behind their tags."""
REMEMBERED_LAYOUTS = 16


def pack_hints(hints: PathHints) -> bytes:
    """The field `path_hints` of a serialized `PerceptionResult`: every hint with its tag and length."""
    hint, dtype = _layout(len(hints.times_s))
    data = bytearray(hint * len(hints.confidence))
    rows = np.frombuffer(data, dtype=dtype)
    rows["confidence"] = hints.confidence
    rows["waypoints_m"]["x"] = hints.waypoints_m[..., 0]
    rows["waypoints_m"]["y"] = hints.waypoints_m[..., 1]
    rows["times_s"] = hints.times_s
    return bytes(data)


def read_columns(columns: Any, frames: Sequence[bytes], target_speed_mps: float) -> PathHints | None:
    """The hints in the `COLUMNS` and `FRAMES` of a result.

    None where they are not equally long, or one lacks a number, as the protobuf library leaves out zeros.
    """
    modes, total, points = len(frames), len(columns.times_s), columns.waypoints_m
    if len(set(map(len, frames))) > 1 or total > MAX_WAYPOINTS or (modes and total % modes):
        return None
    if (len(columns.confidence), len(points.x), len(points.y)) != (modes, total, total):
        return None
    steps = total // modes if modes else 0
    times_s = np.fromiter(columns.times_s, np.float32, total).reshape(modes, steps)
    if (times_s != times_s[:1]).any():
        return None
    waypoints_m = np.empty((total, 2), dtype=np.float32)
    waypoints_m[:, 0] = np.fromiter(points.x, np.float32, total)
    waypoints_m[:, 1] = np.fromiter(points.y, np.float32, total)
    return PathHints(
        confidence=np.fromiter(columns.confidence, np.float32, modes),
        waypoints_m=waypoints_m.reshape(modes, steps, 2),
        times_s=times_s[0] if modes else times_s.ravel(),
        target_speed_mps=target_speed_mps,
    )


def read_messages(messages: Sequence[pb.PathHint], target_speed_mps: float) -> PathHints:
    """Hints one by one.

    Raises QueueError where there are too many waypoints, ValueError where hints have other times than the first one, or
    not a waypoint for each.
    """
    check_size("path_hints", sum(len(message.waypoints_m) for message in messages), MAX_WAYPOINTS)
    times = list(messages[0].times_s) if messages else []
    points: list[float] = []
    for message in messages:
        if len(message.waypoints_m) != len(times) or list(message.times_s) != times:
            raise ValueError("every path hint needs the same times_s, one for each waypoint")
        for point in message.waypoints_m:
            points += (point.x, point.y)
    return PathHints(
        confidence=np.array([message.confidence for message in messages], dtype=np.float32),
        waypoints_m=np.array(points, dtype=np.float32).reshape(len(messages), len(times), 2),
        times_s=np.array(times, dtype=np.float32),
        target_speed_mps=target_speed_mps,
    )


@lru_cache(REMEMBERED_LAYOUTS)
def _layout(waypoints: int) -> tuple[bytes, np.dtype[np.void]]:
    """A framed hint of so many waypoints with its tags and zeros, and where in it the values are."""
    point = b"\x12\x0a\x0d\0\0\0\0\x15\0\0\0\0"
    times = framed(TIMES_TAG, bytes(4 * waypoints)) if waypoints else b""
    hint = framed(FRAME_TAG, b"\x0d\0\0\0\0" + point * waypoints + times)
    begin = len(hint) - len(times) - POINT.itemsize * waypoints
    dtype = np.dtype(
        {
            "names": ["confidence", "waypoints_m", "times_s"],
            "formats": ["<f4", (POINT, (waypoints,)), ("<f4", (waypoints,))],
            "offsets": [begin - 4, begin, len(hint) - 4 * waypoints],
            "itemsize": len(hint),
        }
    )
    return hint, dtype
