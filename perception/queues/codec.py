"""Queue items as bytes: the protobuf messages of `perception_result.proto`.

Their bulk, detections and path hints, is written and read by modules of its own (`detection_wire`, `hint_wire`), the
rest by the protobuf library. The bytes are those that the library alone would make, but that in the bulk zeros are
written too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from perception.core.errors import QueueError
from perception.core.faults import SensorFault, Severity
from perception.core.geometry import rotation_to_quaternion
from perception.core.motion import MotionSource
from perception.core.ports import QueueItem
from perception.core.results import Detections, EndOfRun, PathHints, PerceptionResult, Provenance, SensorStatus
from perception.core.rig import Modality
from perception.queues import detection_wire, hint_wire
from perception.queues import perception_result_pb2 as pb
from perception.queues.checks import (
    MAX_DETECTIONS,
    MAX_ENTRIES,
    MAX_PAYLOAD_BYTES,
    MAX_SENSORS,
    MAX_WAYPOINTS,
    check_item,
    check_size,
    check_values,
    read_pose,
)
from perception.queues.wire_columns import COLUMNS, FRAMES, varint

SCHEMA = 1
SCHEMA_FIELD = pb.QueueItem(schema=SCHEMA).SerializeToString()
RESULT_TAG = b"\x12"


def encode(item: QueueItem) -> bytes:
    """One item as a serialized `QueueItem`. Raises QueueError where `check_item` does."""
    check_item(item)
    try:
        if isinstance(item, EndOfRun):
            end = pb.EndOfRun(drive_id=item.drive_id, run_id=item.run_id, count=item.count, reason=item.reason)
            return pb.QueueItem(schema=SCHEMA, end_of_run=end).SerializeToString()
        parts = _result_parts(item)
        # Joined once: each copy of so many bytes also pushes out what the caches hold.
        return b"".join((SCHEMA_FIELD, RESULT_TAG, varint(sum(map(len, parts))), *parts))
    except (ValueError, TypeError) as error:
        raise QueueError(f"{item.drive_id}/{item.run_id}: the item does not fit the wire format: {error}") from None


def decode(payload: bytes) -> QueueItem:
    """The item in a payload from the queue; nothing in it is trusted.

    Raises QueueError where the bytes are not a `QueueItem` of this schema or a field is missing, out of range or
    not finite.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise QueueError(f"a payload of {len(payload)} bytes is no result; at most {MAX_PAYLOAD_BYTES} are taken")
    message, frames = COLUMNS(), FRAMES()
    try:
        message.ParseFromString(payload)
        frames.ParseFromString(payload)
    except DecodeError:
        raise QueueError(f"a payload of {len(payload)} bytes is not a perception.v1.QueueItem") from None
    if message.schema != SCHEMA:
        raise QueueError(f"the payload has schema {message.schema}; this reader knows schema {SCHEMA}")
    kind = message.WhichOneof("item")
    if kind is None:
        raise QueueError("the payload holds neither a result nor the end of a run; its writer may be newer")
    if kind == "end_of_run":
        item: QueueItem = _read_end(message.end_of_run)
    else:
        _check_sizes(message.result, frames.result)
        item = _read_result(message.result, frames.result, payload)
    check_values(item)
    return item


def _result_parts(result: PerceptionResult) -> tuple[bytes, ...]:
    """A serialized `PerceptionResult`: fields 1 to 5, detections, path hints, and the fields behind them."""
    head = pb.PerceptionResult(
        drive_id=result.drive_id,
        run_id=result.run_id,
        sequence=result.sequence,
        reference_ns=result.reference_ns,
        published_ns=result.published_ns,
    )
    return (
        head.SerializeToString(),
        detection_wire.pack_detections(result.detections),
        hint_wire.pack_hints(result.path_hints),
        _rest(result).SerializeToString(deterministic=True),
    )


def _rest(result: PerceptionResult) -> pb.PerceptionResult:
    message = pb.PerceptionResult()
    message.target_speed_mps = result.path_hints.target_speed_mps
    for sensor in result.sensors:
        _fill_sensor(message.sensors.add(), sensor)
    if result.world_SE3_ego is not None:
        message.world_SE3_ego.position_m.extend(result.world_SE3_ego[:3, 3].tolist())
        message.world_SE3_ego.quaternion_wxyz.extend(rotation_to_quaternion(result.world_SE3_ego[:3, :3]).tolist())
    _fill_provenance(message.provenance, result.provenance)
    if result.ego_velocity_mps is not None:
        message.ego_velocity_mps.extend(result.ego_velocity_mps)
    message.ego_yaw_rate_radps = result.ego_yaw_rate_radps
    message.published_drive_ns = result.published_drive_ns
    if result.predicted_to_ns is not None:
        message.predicted_to_ns = result.predicted_to_ns
    message.degraded = result.degraded
    return message


def _fill_sensor(message: pb.SensorStatus, sensor: SensorStatus) -> None:
    message.name = sensor.name
    message.modality = sensor.modality.value
    message.present = sensor.present
    if sensor.age_ns is not None:
        message.age_ns = sensor.age_ns
    message.alive = sensor.alive
    message.valid = sensor.valid
    message.frequency_hz = sensor.frequency_hz
    message.jitter_ns = sensor.jitter_ns
    message.masked = sensor.masked
    for fault in sensor.faults:
        message.faults.add(kind=fault.kind, since_ns=fault.since_ns, severity=fault.severity.value, detail=fault.detail)


def _fill_provenance(message: pb.Provenance, provenance: Provenance) -> None:
    message.model = provenance.model
    message.model_hash = provenance.model_hash
    message.trained = provenance.trained
    message.calibration_hash = provenance.calibration_hash
    message.ego_motion = provenance.ego_motion.value
    message.placement = provenance.placement
    message.deadline_slack_ns = provenance.deadline_slack_ns
    message.stage_latency_ns.update(provenance.stage_latency_ns)
    message.dropped.update(provenance.dropped)
    message.restarts.update(provenance.restarts)
    message.quarantined.extend(provenance.quarantined)
    message.publication_slack_ns = provenance.publication_slack_ns
    message.ladder_level = provenance.ladder_level
    message.ladder_rung = provenance.ladder_rung
    message.ladder_change = provenance.ladder_change


def _read_end(message: pb.EndOfRun) -> EndOfRun:
    return EndOfRun(drive_id=message.drive_id, run_id=message.run_id, count=message.count, reason=message.reason)


def _check_sizes(message: Any, frames: Any) -> None:
    # Before anything is read: millions of empty parts fit into a payload, and to read them would take half a minute.
    check_size("detections", len(frames.detections), MAX_DETECTIONS)
    check_size("path_hints", len(frames.path_hints), MAX_WAYPOINTS)
    check_size("sensors", len(message.sensors), MAX_SENSORS)
    check_size("sensors.faults", sum(len(sensor.faults) for sensor in message.sensors), MAX_ENTRIES)
    check_size("provenance.stage_latency_ns", len(message.provenance.stage_latency_ns), MAX_ENTRIES)
    check_size("provenance.dropped", len(message.provenance.dropped), MAX_ENTRIES)
    check_size("provenance.restarts", len(message.provenance.restarts), MAX_ENTRIES)
    check_size("provenance.quarantined", len(message.provenance.quarantined), MAX_ENTRIES)


def _read_result(message: Any, frames: Any, payload: bytes) -> PerceptionResult:
    try:
        detections, path_hints = _read_bulk(message, frames, payload)
        return PerceptionResult(
            drive_id=message.drive_id,
            run_id=message.run_id,
            sequence=message.sequence,
            reference_ns=message.reference_ns,
            published_ns=message.published_ns,
            detections=detections,
            path_hints=path_hints,
            sensors=tuple(_read_sensor(sensor) for sensor in message.sensors),
            world_SE3_ego=_read_pose(message),
            provenance=_read_provenance(message.provenance),
            ego_velocity_mps=_read_velocity(message.ego_velocity_mps),
            ego_yaw_rate_radps=message.ego_yaw_rate_radps,
            published_drive_ns=message.published_drive_ns,
            predicted_to_ns=message.predicted_to_ns if message.HasField("predicted_to_ns") else None,
            degraded=message.degraded,
        )
    except (ValueError, DecodeError) as error:
        # Cut, because both hold text of the sender's, which may be megabytes.
        run, problem = message.run_id[:40], str(error)[:200]
        raise QueueError(f"result {message.sequence} of run {run!r} is malformed: {problem}") from None


def _read_bulk(message: Any, frames: Any, payload: bytes) -> tuple[Detections, PathHints]:
    """Detections and path hints: as columns, or where these do not fit together, one by one."""
    speed_mps = message.target_speed_mps
    detections = detection_wire.read_columns(message.detections, list(frames.detections))
    path_hints = hint_wire.read_columns(message.path_hints, list(frames.path_hints), speed_mps)
    if detections is not None and path_hints is not None:
        return detections, path_hints
    result = pb.QueueItem.FromString(payload).result
    return detection_wire.read_messages(result.detections), hint_wire.read_messages(result.path_hints, speed_mps)


def _read_sensor(message: pb.SensorStatus) -> SensorStatus:
    return SensorStatus(
        name=message.name,
        modality=Modality(message.modality),
        present=message.present,
        age_ns=message.age_ns if message.HasField("age_ns") else None,
        alive=message.alive,
        valid=message.valid,
        frequency_hz=message.frequency_hz,
        jitter_ns=message.jitter_ns,
        faults=tuple(_read_fault(fault) for fault in message.faults),
        masked=message.masked,
    )


def _read_fault(message: pb.SensorFault) -> SensorFault:
    return SensorFault(
        kind=message.kind, since_ns=message.since_ns, severity=Severity(message.severity), detail=message.detail
    )


def _read_pose(message: pb.PerceptionResult) -> NDArray[np.float64] | None:
    if not message.HasField("world_SE3_ego"):
        return None
    return read_pose(message.world_SE3_ego.position_m, message.world_SE3_ego.quaternion_wxyz)


def _read_velocity(values: Sequence[float]) -> tuple[float, float] | None:
    if not values:
        return None
    if len(values) != 2:
        raise ValueError(f"ego_velocity_mps needs 2 numbers, got {len(values)}")
    return values[0], values[1]


def _read_provenance(message: pb.Provenance) -> Provenance:
    return Provenance(
        model=message.model,
        model_hash=message.model_hash,
        trained=message.trained,
        calibration_hash=message.calibration_hash,
        ego_motion=MotionSource(message.ego_motion),
        placement=message.placement,
        deadline_slack_ns=message.deadline_slack_ns,
        stage_latency_ns=dict(sorted(message.stage_latency_ns.items())),
        dropped=dict(sorted(message.dropped.items())),
        restarts=dict(sorted(message.restarts.items())),
        quarantined=tuple(message.quarantined),
        publication_slack_ns=message.publication_slack_ns,
        ladder_level=message.ladder_level,
        ladder_rung=message.ladder_rung,
        ladder_change=message.ladder_change,
    )
