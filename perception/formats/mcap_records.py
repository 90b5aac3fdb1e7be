"""What Foxglove's schemas have no field for, as JSON with a schema: all bits of numbers are kept, null is not a number.

`MotionRecord` and the others are the content of messages; `pack` makes bytes of a core type, `read_*` the core type.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, check_mount
from perception.core.errors import DriveError, PayloadError
from perception.core.labels import Labels
from perception.core.messages import CameraFrame, Command, EgoState, RouteCommand, Signal, Unreadable
from perception.formats.mcap_drive import CameraRecord, matrix, pack_camera, read_camera

Numbers = list[float | None]


class MotionRecord(msgspec.Struct, frozen=True):
    """`EgoState`: world_SE3_ego by rows."""

    capture_ns: int
    world_SE3_ego: Numbers | None
    velocity_mps: Numbers | None
    yaw_rate_radps: float | None


class RouteRecord(msgspec.Struct, frozen=True):
    """`RouteCommand`."""

    capture_ns: int
    command: str
    speed_limit_mps: float | None
    signal: str
    distance_m: float | None
    target_m: Numbers | None = None


class UnreadableRecord(msgspec.Struct, frozen=True):
    """`Unreadable`."""

    capture_ns: int
    sensor: str
    error: str


class ViewRecord(msgspec.Struct, frozen=True):
    """The calibration that the next image of its sensor brings; mount by rows."""

    capture_ns: int
    calibration: CameraRecord | None
    ego_SE3_sensor: list[float] | None


class LabelsRecord(msgspec.Struct, frozen=True):
    """`Labels`, a row for each box."""

    reference_ns: int
    category: list[str]
    class_index: list[int]
    center_m: list[Numbers]
    size_m: list[Numbers]
    quaternion_wxyz: list[Numbers]
    velocity_mps: list[Numbers]
    attribute_index: list[int]
    track_id: list[str]
    num_lidar_points: list[int]
    num_radar_points: list[int]
    visible_share: Numbers | None


JsonRecord = MotionRecord | RouteRecord | UnreadableRecord | ViewRecord | LabelsRecord
R = TypeVar("R", MotionRecord, RouteRecord, UnreadableRecord, ViewRecord, LabelsRecord)


@cache
def json_schema(kind: type[JsonRecord]) -> bytes:
    """The JSON schema of a record, self-contained and an object at its top, as Foxglove wants it."""
    (schema,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    top = parts.pop(kind.__name__) if "$ref" in schema else schema
    return msgspec.json.encode({**top, "$defs": parts} if parts else top)


def pack_record(item: EgoState | RouteCommand | Unreadable | Labels) -> bytes:
    """Raises DriveError where a number is infinite."""
    if isinstance(item, EgoState):
        return msgspec.json.encode(
            MotionRecord(
                capture_ns=int(item.capture_ns),
                world_SE3_ego=None if item.world_SE3_ego is None else _numbers(item.world_SE3_ego.ravel()),
                velocity_mps=None if item.velocity_mps is None else _numbers(item.velocity_mps),
                yaw_rate_radps=_number(item.yaw_rate_radps),
            )
        )
    if isinstance(item, RouteCommand):
        return msgspec.json.encode(
            RouteRecord(
                capture_ns=int(item.capture_ns),
                command=item.command.value,
                speed_limit_mps=_number(item.speed_limit_mps),
                signal=item.signal.value,
                distance_m=_number(item.distance_m),
                target_m=None if item.target_m is None else _numbers(item.target_m),
            )
        )
    if isinstance(item, Unreadable):
        record = UnreadableRecord(capture_ns=int(item.capture_ns), sensor=item.sensor, error=item.error)
        return msgspec.json.encode(record)
    return msgspec.json.encode(_labels_record(item))


def pack_view(frame: CameraFrame) -> bytes:
    """The calibration and mount that `frame` brings itself."""
    mount = frame.ego_SE3_sensor
    return msgspec.json.encode(
        ViewRecord(
            capture_ns=int(frame.capture_ns),
            calibration=None if frame.calibration is None else pack_camera(frame.calibration),
            ego_SE3_sensor=None if mount is None else mount.ravel().tolist(),
        )
    )


def read_motion(data: bytes | memoryview, sensor: str, arrival_ns: int) -> EgoState:
    """Raises PayloadError where the bytes are no `MotionRecord`; so do the others for theirs."""
    record = _decode(data, MotionRecord)
    pose, velocity = record.world_SE3_ego, record.velocity_mps
    if (pose is not None and len(pose) != 16) or (velocity is not None and len(velocity) != 2):
        raise PayloadError(f"{sensor}: an ego state needs 16 numbers for its pose and 2 for its velocity")
    return EgoState(
        sensor=sensor,
        capture_ns=record.capture_ns,
        arrival_ns=arrival_ns,
        world_SE3_ego=None if pose is None else _array(pose).reshape(4, 4),
        velocity_mps=None if velocity is None else _array(velocity),
        yaw_rate_radps=record.yaw_rate_radps,
    )


def read_route(data: bytes | memoryview, sensor: str, arrival_ns: int) -> RouteCommand:
    record = _decode(data, RouteRecord)
    try:
        command, signal = Command(record.command), Signal(record.signal)
    except ValueError as error:
        raise PayloadError(f"{sensor}: {error}") from error
    target = record.target_m
    if target is not None and len(target) != 2:
        raise PayloadError(f"{sensor}: a route's target needs 2 numbers, got {len(target)}")
    return RouteCommand(
        sensor=sensor,
        capture_ns=record.capture_ns,
        arrival_ns=arrival_ns,
        command=command,
        speed_limit_mps=record.speed_limit_mps,
        signal=signal,
        distance_m=record.distance_m,
        target_m=None if target is None else _array(target),
    )


def read_unreadable(data: bytes | memoryview, arrival_ns: int) -> Unreadable:
    record = _decode(data, UnreadableRecord)
    return Unreadable(sensor=record.sensor, capture_ns=record.capture_ns, arrival_ns=arrival_ns, error=record.error)


def read_view(data: bytes | memoryview) -> tuple[int, CameraModel | None, NDArray[np.float64] | None]:
    """Capture time of the image it belongs to, calibration, and mount (4, 4)."""
    record = _decode(data, ViewRecord)
    try:
        camera = None if record.calibration is None else read_camera(record.calibration)
        mount = None if record.ego_SE3_sensor is None else matrix(record.ego_SE3_sensor, 4)
        if mount is not None:
            check_mount(mount)
    except ValueError as error:
        raise PayloadError(f"a view of an image is malformed ({error})") from error
    return record.capture_ns, camera, mount


def read_labels(data: bytes | memoryview) -> Labels:
    record = _decode(data, LabelsRecord)
    try:
        return Labels(
            reference_ns=record.reference_ns,
            category=tuple(record.category),
            class_index=np.array(record.class_index, dtype=np.int64),
            center_m=_rows(record.center_m, 3),
            size_m=_rows(record.size_m, 3),
            quaternion_wxyz=_rows(record.quaternion_wxyz, 4),
            velocity_mps=_rows(record.velocity_mps, 2),
            attribute_index=np.array(record.attribute_index, dtype=np.int64),
            track_id=tuple(record.track_id),
            num_lidar_points=np.array(record.num_lidar_points, dtype=np.int64),
            num_radar_points=np.array(record.num_radar_points, dtype=np.int64),
            visible_share=None if record.visible_share is None else _array(record.visible_share),
        )
    except (ValueError, OverflowError) as error:
        raise PayloadError(f"labels are malformed ({error})") from error


def _labels_record(labels: Labels) -> LabelsRecord:
    return LabelsRecord(
        reference_ns=int(labels.reference_ns),
        category=list(labels.category),
        class_index=labels.class_index.tolist(),
        center_m=[_numbers(row) for row in labels.center_m],
        size_m=[_numbers(row) for row in labels.size_m],
        quaternion_wxyz=[_numbers(row) for row in labels.quaternion_wxyz],
        velocity_mps=[_numbers(row) for row in labels.velocity_mps],
        attribute_index=labels.attribute_index.tolist(),
        track_id=list(labels.track_id),
        num_lidar_points=labels.num_lidar_points.tolist(),
        num_radar_points=labels.num_radar_points.tolist(),
        visible_share=None if labels.visible_share is None else _numbers(labels.visible_share),
    )


def _decode(data: bytes | memoryview, kind: type[R]) -> R:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PayloadError(f"a message is no {kind.__name__} ({error})") from error


def _number(value: float | None) -> float | None:
    if value is None or math.isnan(value):
        return None
    if math.isinf(value):
        raise DriveError("an infinite number cannot be recorded")
    return float(value)


def _numbers(values: NDArray[Any]) -> Numbers:
    return [_number(value) for value in values.tolist()]


def _array(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)  # where None becomes not a number


def _rows(rows: list[Numbers], columns: int) -> NDArray[np.float64]:
    if any(len(row) != columns for row in rows):
        raise ValueError(f"a row has not {columns} numbers")
    return _array([value for row in rows for value in row]).reshape(-1, columns)
