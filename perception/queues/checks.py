"""What a queue item must fulfil before it is sent and after it is received, whatever form it has on the way."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import QueueError
from perception.core.geometry import is_rotation, se3_from_quaternion
from perception.core.ports import QueueItem
from perception.core.results import EndOfRun, PerceptionResult, Provenance
from perception.core.taxonomy import ATTRIBUTES, CLASSES

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
MAX_DETECTIONS = 10_000
MAX_SENSORS = 1_000
MAX_WAYPOINTS = 10_000
MAX_ENTRIES = 1_000
MAX_TEXT = 4_096
QUATERNION_TOLERANCE = 1e-3
INT64 = range(-(2**63), 2**63)
DETECTION_NUMBERS = ("score", "center_m", "size_m", "yaw_rad", "velocity_mps")
HINT_NUMBERS = ("confidence", "waypoints_m", "times_s")


def check_item(item: QueueItem) -> None:
    """Raise QueueError naming the first field that is not finite, out of range or absurdly large."""
    check_values(item)
    _check_utf8(item)
    if not isinstance(item, EndOfRun):
        _check_result(item)


def check_values(item: QueueItem) -> None:
    """As `check_item`, but only what an item can have that was read from protobuf.

    There integers have 64 bits and texts are UTF-8; its reader has seen to sizes, to names in closed lists and to the
    pose.
    """
    for name, text in _texts(item):
        if len(text) > MAX_TEXT:
            raise QueueError(f"{name} has {len(text)} characters; at most {MAX_TEXT} are taken")
    if isinstance(item, EndOfRun):
        _check_count("count", item.count)
        return
    _check_count("sequence", item.sequence)
    detections, hints = item.detections, item.path_hints
    _check_finite(
        {f"detections.{name}": getattr(detections, name) for name in DETECTION_NUMBERS}
        | {f"path_hints.{name}": getattr(hints, name) for name in HINT_NUMBERS}
    )
    _check_share("detections.score", detections.score)
    _check_share("path_hints.confidence", hints.confidence)
    _check_number("target_speed_mps", hints.target_speed_mps)
    for sensor in item.sensors:
        _check_number(f"sensors.frequency_hz of {sensor.name}", sensor.frequency_hz)
    for speed in (*(item.ego_velocity_mps or ()), item.ego_yaw_rate_radps):
        _check_number("ego_velocity_mps and ego_yaw_rate_radps", speed)


def check_size(name: str, size: int, limit: int) -> None:
    """Raise QueueError where there are more than `limit`."""
    if size > limit:
        raise QueueError(f"{name} has {size} entries; at most {limit} are taken")


def read_pose(position_m: Sequence[float], quaternion_wxyz: Sequence[float]) -> NDArray[np.float64]:
    """The transform (4, 4) that a position and a unit quaternion stand for. Raises ValueError where they are none."""
    if len(position_m) != 3 or len(quaternion_wxyz) != 4:
        raise ValueError("world_SE3_ego needs 3 numbers in position_m and 4 in quaternion_wxyz")
    if not all(map(math.isfinite, position_m)):
        raise ValueError("position_m of world_SE3_ego must be finite")
    if not abs(math.hypot(*quaternion_wxyz) - 1) < QUATERNION_TOLERANCE:
        raise ValueError("quaternion_wxyz of world_SE3_ego is not of unit length")
    return se3_from_quaternion(list(quaternion_wxyz), list(position_m))


def _texts(item: QueueItem) -> list[tuple[str, str]]:
    """Every text in an item that is of no closed list, behind its name."""
    texts = [("drive_id", item.drive_id), ("run_id", item.run_id)]
    if isinstance(item, EndOfRun):
        return [*texts, ("reason", item.reason)]
    for sensor in item.sensors:
        texts.append(("sensors.name", sensor.name))
        for fault in sensor.faults:
            texts += (("sensors.faults.kind", fault.kind), ("sensors.faults.detail", fault.detail))
    origin = item.provenance
    texts += (
        ("provenance.model", origin.model),
        ("provenance.model_hash", origin.model_hash),
        ("provenance.calibration_hash", origin.calibration_hash),
        ("provenance.placement", origin.placement),
        ("provenance.ladder_rung", origin.ladder_rung),
        ("provenance.ladder_change", origin.ladder_change),
        *(("provenance.stage_latency_ns", stage) for stage in origin.stage_latency_ns),
        *(("provenance.dropped", cause) for cause in origin.dropped),
        *(("provenance.restarts", role) for role in origin.restarts),
        *(("provenance.quarantined", sensor_name) for sensor_name in origin.quarantined),
    )
    return texts


def _check_result(result: PerceptionResult) -> None:
    check_size("detections", len(result.detections), MAX_DETECTIONS)
    check_size("path_hints", result.path_hints.waypoints_m.size // 2, MAX_WAYPOINTS)
    check_size("sensors", len(result.sensors), MAX_SENSORS)
    check_size("sensors.faults", sum(len(sensor.faults) for sensor in result.sensors), MAX_ENTRIES)
    _check_index("detections.label", result.detections.class_index, 0, len(CLASSES))
    _check_index("detections.attribute", result.detections.attribute_index, -1, len(ATTRIBUTES))
    for name in ("reference_ns", "published_ns", "published_drive_ns"):
        _check_int64(name, getattr(result, name))
    if result.predicted_to_ns is not None:
        _check_int64("predicted_to_ns", result.predicted_to_ns)
    for sensor in result.sensors:
        _check_int64(f"sensors.jitter_ns of {sensor.name}", sensor.jitter_ns)
        if sensor.age_ns is not None:
            _check_int64(f"sensors.age_ns of {sensor.name}", sensor.age_ns)
        for fault in sensor.faults:
            _check_int64(f"sensors.faults.since_ns of {sensor.name}", fault.since_ns)
    _check_pose(result.world_SE3_ego)
    _check_provenance(result.provenance)


def _check_pose(world_SE3_ego: NDArray[np.float64] | None) -> None:
    if world_SE3_ego is None:
        return
    if world_SE3_ego.shape != (4, 4):
        raise QueueError(f"world_SE3_ego must be (4, 4), got {world_SE3_ego.shape}")
    if not np.isfinite(world_SE3_ego).all():
        raise QueueError("world_SE3_ego must be finite in every row")
    if not is_rotation(world_SE3_ego[:3, :3]):
        raise QueueError("the rotation of world_SE3_ego is not orthonormal and right-handed")


def _check_provenance(provenance: Provenance) -> None:
    for name in ("deadline_slack_ns", "publication_slack_ns"):
        _check_int64(f"provenance.{name}", getattr(provenance, name))
    if not 0 <= provenance.ladder_level < 2**32:
        raise QueueError(f"provenance.ladder_level must be between 0 and 2^32, got {provenance.ladder_level}")
    check_size("provenance.quarantined", len(provenance.quarantined), MAX_ENTRIES)
    for name in ("stage_latency_ns", "dropped", "restarts"):
        entries = getattr(provenance, name)
        check_size(f"provenance.{name}", len(entries), MAX_ENTRIES)
        for key, value in entries.items():
            _check_int64(f"provenance.{name}.{key}", value)


def _check_utf8(item: QueueItem) -> None:
    for name, text in _texts(item):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise QueueError(f"{name} cannot be written as UTF-8: {error.reason}") from None


def _check_count(name: str, value: int) -> None:
    if not 0 <= value < 2**63:
        raise QueueError(f"{name} must be between 0 and 2^63, got {value}")


def _check_int64(name: str, value: int) -> None:
    if value not in INT64:
        raise QueueError(f"{name} does not fit in 64 bits: {value}")


def _check_number(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise QueueError(f"{name} must be finite, got {value}")


def _check_finite(columns: Mapping[str, NDArray[np.floating]]) -> None:
    # All at once: each look at an array costs more than what is in it.
    if np.isfinite(np.concatenate([numbers.ravel() for numbers in columns.values()])).all():
        return
    for name, numbers in columns.items():
        if not np.isfinite(numbers).all():
            raise QueueError(f"{name} must be finite in every row")


def _check_share(name: str, values: NDArray[np.floating]) -> None:
    if _is_outside(values, 0, 1):
        raise QueueError(f"{name} must lie between 0 and 1, got {values.min()} to {values.max()}")


def _check_index(name: str, values: NDArray[np.int64], low: int, high: int) -> None:
    if _is_outside(values, low, high - 1):
        raise QueueError(f"{name} must be an index from {low} to {high - 1}, got {values.min()} to {values.max()}")


def _is_outside(values: NDArray[Any], low: int, high: int) -> bool:
    # Not `values.min()`, which takes twice as long for as few as there are.
    return bool(values.size) and not (np.minimum.reduce(values) >= low and np.maximum.reduce(values) <= high)
