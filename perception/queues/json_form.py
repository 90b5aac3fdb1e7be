"""Queue items as one line of JSON: plain numbers, every field present, nothing that is not finite.

The names of the fields are a promise to users; the structures below are the place where they are written down.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import QueueError
from perception.core.faults import SensorFault
from perception.core.geometry import rotation_to_quaternion
from perception.core.motion import MotionSource
from perception.core.ports import QueueItem
from perception.core.results import (
    NO_TRACK,
    Detections,
    EndOfRun,
    PathHints,
    PerceptionResult,
    Provenance,
    SensorStatus,
)
from perception.core.rig import Modality
from perception.core.taxonomy import ATTRIBUTE_INDEX, ATTRIBUTES, CLASS_INDEX, CLASSES, NO_ATTRIBUTE
from perception.queues.checks import check_item, read_pose

Vector = tuple[float, float, float]
Pair = tuple[float, float]


class DetectionLine(msgspec.Struct, frozen=True):
    label: str
    score: float
    center_m: Vector
    size_m: Vector
    yaw_rad: float
    velocity_mps: Pair
    attribute: str | None
    track_id: int | None


class HintLine(msgspec.Struct, frozen=True):
    confidence: float
    waypoints_m: list[Pair]
    times_s: list[float]


class SensorLine(msgspec.Struct, frozen=True):
    name: str
    modality: Modality
    present: bool
    age_ns: int | None
    alive: bool
    valid: bool
    frequency_hz: float
    # Defaults: what earlier writers left out.
    jitter_ns: int = 0
    faults: tuple[SensorFault, ...] = ()
    masked: bool = False


class PoseLine(msgspec.Struct, frozen=True):
    position_m: Vector
    quaternion_wxyz: tuple[float, float, float, float]


class ProvenanceLine(msgspec.Struct, frozen=True):
    model: str
    model_hash: str
    trained: bool
    calibration_hash: str
    ego_motion: MotionSource
    placement: str
    deadline_slack_ns: int
    stage_latency_ns: dict[str, int]
    dropped: dict[str, int]
    # Defaults: what earlier writers left out.
    restarts: dict[str, int] = msgspec.field(default_factory=dict)
    quarantined: tuple[str, ...] = ()
    publication_slack_ns: int = 0
    ladder_level: int = 0
    ladder_rung: str = ""
    ladder_change: str = ""


class ResultLine(msgspec.Struct, frozen=True):
    drive_id: str
    run_id: str
    sequence: int
    reference_ns: int
    published_ns: int
    detections: list[DetectionLine]
    path_hints: list[HintLine]
    target_speed_mps: float
    sensors: list[SensorLine]
    world_SE3_ego: PoseLine | None
    provenance: ProvenanceLine
    ego_velocity_mps: Pair | None = None
    ego_yaw_rate_radps: float = 0.0
    published_drive_ns: int = 0
    predicted_to_ns: int | None = None
    degraded: bool = False


class EndLine(msgspec.Struct, frozen=True):
    end_of_run: EndOfRun


def to_json(item: QueueItem) -> str:
    """One line of JSON without its newline. Raises QueueError where `check_item` does."""
    check_item(item)
    line = EndLine(end_of_run=item) if isinstance(item, EndOfRun) else _result_line(item)
    return msgspec.json.encode(line).decode()


def from_json(line: str) -> QueueItem:
    """The item that `to_json` wrote. Raises QueueError where the line is not such a one."""
    try:
        fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        if "end_of_run" in fields:
            item: QueueItem = msgspec.json.decode(line, type=EndLine).end_of_run
        else:
            # Numbers too large for a float32 become infinite, and are refused as such.
            with np.errstate(over="ignore"):
                item = _result(msgspec.json.decode(line, type=ResultLine))
    except (msgspec.MsgspecError, ValueError) as error:
        raise QueueError(f"the line is not a result: {error}") from None
    check_item(item)
    return item


def _short(values: NDArray[np.float32]) -> list[float]:
    # The shortest decimal that gives the same float32: 0.1 and not 0.10000000149011612.
    return [float(text) for text in values.ravel().astype(np.float32).astype("U32").tolist()]


def _result_line(result: PerceptionResult) -> ResultLine:
    return ResultLine(
        drive_id=result.drive_id,
        run_id=result.run_id,
        sequence=result.sequence,
        reference_ns=result.reference_ns,
        published_ns=result.published_ns,
        detections=_detection_lines(result.detections),
        path_hints=_hint_lines(result.path_hints),
        target_speed_mps=result.path_hints.target_speed_mps,
        sensors=[msgspec.convert(sensor, SensorLine, from_attributes=True) for sensor in result.sensors],
        world_SE3_ego=_pose_line(result.world_SE3_ego),
        provenance=msgspec.convert(result.provenance, ProvenanceLine, from_attributes=True),
        ego_velocity_mps=result.ego_velocity_mps,
        ego_yaw_rate_radps=result.ego_yaw_rate_radps,
        published_drive_ns=result.published_drive_ns,
        predicted_to_ns=result.predicted_to_ns,
        degraded=result.degraded,
    )


def _detection_lines(detections: Detections) -> list[DetectionLine]:
    columns = (detections.score, detections.yaw_rad, detections.center_m, detections.size_m, detections.velocity_mps)
    rows = np.column_stack(columns)
    numbers = iter(zip(*[iter(_short(rows))] * rows.shape[1], strict=True))
    names = zip(
        detections.class_index.tolist(), detections.attribute_index.tolist(), detections.track_id.tolist(), strict=True
    )
    return [
        DetectionLine(
            label=CLASSES[label],
            score=score,
            center_m=(x, y, z),
            size_m=(length, width, height),
            yaw_rad=yaw,
            velocity_mps=(vx, vy),
            attribute=ATTRIBUTES[attribute] if attribute != NO_ATTRIBUTE else None,
            track_id=track if track != NO_TRACK else None,
        )
        for (label, attribute, track), (score, yaw, x, y, z, length, width, height, vx, vy) in zip(
            names, numbers, strict=True
        )
    ]


def _hint_lines(hints: PathHints) -> list[HintLine]:
    times = _short(hints.times_s)
    return [
        HintLine(
            confidence=confidence,
            waypoints_m=[(x, y) for x, y in zip(*[iter(_short(path))] * 2, strict=True)],
            times_s=times,
        )
        for confidence, path in zip(_short(hints.confidence), hints.waypoints_m, strict=True)
    ]


def _pose_line(world_SE3_ego: NDArray[np.float64] | None) -> PoseLine | None:
    if world_SE3_ego is None:
        return None
    x, y, z = world_SE3_ego[:3, 3].tolist()
    qw, qx, qy, qz = rotation_to_quaternion(world_SE3_ego[:3, :3]).tolist()
    return PoseLine(position_m=(x, y, z), quaternion_wxyz=(qw, qx, qy, qz))


def _result(line: ResultLine) -> PerceptionResult:
    pose = line.world_SE3_ego
    return PerceptionResult(
        drive_id=line.drive_id,
        run_id=line.run_id,
        sequence=line.sequence,
        reference_ns=line.reference_ns,
        published_ns=line.published_ns,
        detections=_detections(line.detections),
        path_hints=_path_hints(line.path_hints, line.target_speed_mps),
        sensors=tuple(SensorStatus(**msgspec.structs.asdict(sensor)) for sensor in line.sensors),
        world_SE3_ego=None if pose is None else read_pose(pose.position_m, pose.quaternion_wxyz),
        provenance=Provenance(**msgspec.structs.asdict(line.provenance)),
        ego_velocity_mps=line.ego_velocity_mps,
        ego_yaw_rate_radps=line.ego_yaw_rate_radps,
        published_drive_ns=line.published_drive_ns,
        predicted_to_ns=line.predicted_to_ns,
        degraded=line.degraded,
    )


def _detections(lines: list[DetectionLine]) -> Detections:
    for line in lines:
        if line.label not in CLASS_INDEX:
            raise ValueError(f"label {line.label[:40]!r} is none of {', '.join(CLASSES)}")
        if line.attribute is not None and line.attribute not in ATTRIBUTE_INDEX:
            raise ValueError(f"attribute {line.attribute[:40]!r} is none of {', '.join(ATTRIBUTES)}")
    attributes = [NO_ATTRIBUTE if line.attribute is None else ATTRIBUTE_INDEX[line.attribute] for line in lines]
    tracks = [NO_TRACK if line.track_id is None else line.track_id for line in lines]
    return Detections(
        class_index=np.array([CLASS_INDEX[line.label] for line in lines], dtype=np.int64),
        score=np.array([line.score for line in lines], dtype=np.float32),
        center_m=np.array([line.center_m for line in lines], dtype=np.float32).reshape(-1, 3),
        size_m=np.array([line.size_m for line in lines], dtype=np.float32).reshape(-1, 3),
        yaw_rad=np.array([line.yaw_rad for line in lines], dtype=np.float32),
        velocity_mps=np.array([line.velocity_mps for line in lines], dtype=np.float32).reshape(-1, 2),
        attribute_index=np.array(attributes, dtype=np.int64),
        track_id=np.array(tracks, dtype=np.int64),
    )


def _path_hints(lines: list[HintLine], target_speed_mps: float) -> PathHints:
    times = lines[0].times_s if lines else []
    if any(line.times_s != times or len(line.waypoints_m) != len(times) for line in lines):
        raise ValueError("every path hint needs the same times_s, one for each waypoint")
    points = [line.waypoints_m for line in lines]
    return PathHints(
        confidence=np.array([line.confidence for line in lines], dtype=np.float32),
        waypoints_m=np.array(points, dtype=np.float32).reshape(len(lines), len(times), 2),
        times_s=np.array(times, dtype=np.float32),
        target_speed_mps=target_speed_mps,
    )
