"""What the service publishes: detections, path hints, sensor health and where each result came from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.core.faults import SensorFault
from perception.core.motion import MotionSource
from perception.core.rig import Modality
from perception.core.taxonomy import ATTRIBUTES, CLASSES

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

NO_TRACK = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One detected object, as a plain record: what iterating `Detections` gives."""

    label: str
    score: float
    center_m: tuple[float, float, float]
    size_m: tuple[float, float, float]
    yaw_rad: float
    velocity_mps: tuple[float, float]
    attribute: str | None
    track_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections:
    """Detected boxes in the ego frame at the reference time, one row each, best score first; N rows.

    class_index: (N,) int64 into `CLASSES`. score: (N,) float32 in 0..1. center_m, size_m: (N, 3) float32 (l, w, h).
    yaw_rad: (N,) float32. velocity_mps: (N, 2) float32 over ground, ego axes. attribute_index: (N,) int64, -1 if none.
    track_id: (N,) int64, -1 before tracking.
    """

    class_index: NDArray[np.int64]
    score: F32
    center_m: F32
    size_m: F32
    yaw_rad: F32
    velocity_mps: F32
    attribute_index: NDArray[np.int64]
    track_id: NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.class_index)
        for name, columns in (("center_m", 3), ("size_m", 3), ("velocity_mps", 2)):
            if getattr(self, name).shape != (n, columns):
                raise ValueError(f"detections: {name} must be ({n}, {columns}), got {getattr(self, name).shape}")
        for name in ("score", "yaw_rad", "attribute_index", "track_id"):
            if getattr(self, name).shape != (n,):
                raise ValueError(f"detections: {name} must be ({n},), got {getattr(self, name).shape}")

    @classmethod
    def empty(cls) -> "Detections":
        none, rows = np.zeros(0, dtype=np.int64), np.zeros((0, 3), dtype=np.float32)
        return cls(
            class_index=none,
            score=rows[:, 0],
            center_m=rows,
            size_m=rows,
            yaw_rad=rows[:, 0],
            velocity_mps=rows[:, :2],
            attribute_index=none,
            track_id=none,
        )

    def __len__(self) -> int:
        return len(self.class_index)

    def __iter__(self) -> Iterator[Detection]:
        columns = zip(
            self.class_index.tolist(),
            self.score.tolist(),
            self.center_m.tolist(),
            self.size_m.tolist(),
            self.yaw_rad.tolist(),
            self.velocity_mps.tolist(),
            self.attribute_index.tolist(),
            self.track_id.tolist(),
            strict=True,
        )
        for label, score, center, size, yaw, velocity, attribute, track in columns:
            yield Detection(
                label=CLASSES[label],
                score=score,
                center_m=tuple(center),
                size_m=tuple(size),
                yaw_rad=yaw,
                velocity_mps=tuple(velocity),
                attribute=ATTRIBUTES[attribute] if attribute >= 0 else None,
                track_id=track if track != NO_TRACK else None,
            )

    def rows(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> "Detections":
        """The rows that a mask (N,) or an index array picks, in its order."""
        return Detections(**{name: getattr(self, name)[keep] for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathHints:
    """Where the ego could go: M modes of W waypoints in the ego frame at the reference time, best first.

    confidence: (M,) float32, sums to 1. waypoints_m: (M, W, 2) float32. times_s: (W,) float32 after the reference.
    """

    confidence: F32
    waypoints_m: F32
    times_s: F32
    target_speed_mps: float

    def __post_init__(self) -> None:
        if self.waypoints_m.shape != (len(self.confidence), len(self.times_s), 2):
            raise ValueError(f"path hints: waypoints_m has shape {self.waypoints_m.shape}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorStatus:
    """One sensor at one reference time.

    present: it contributed to this result. age_ns: reference minus capture of what was used (None if absent; negative
    when captured after the reference). alive: it was heard from lately. valid: its last message could be read.
    frequency_hz: its measured rate. jitter_ns: mean deviation of its arrivals from an even pace. faults: what is wrong
    with it. masked: it was there, but for a fault it was left out (its cause in `Provenance.dropped`: `masked`).
    """

    name: str
    modality: Modality
    present: bool
    age_ns: int | None
    alive: bool
    valid: bool
    frequency_hz: float
    jitter_ns: int = 0
    faults: tuple[SensorFault, ...] = ()
    masked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a result comes from.

    deadline_slack_ns: time left at the bundle's deadline when it closed, on the arrival clock (0: closed by it).
    stage_latency_ns: wall time by stage. dropped: messages lost since the last result, by cause. restarts: processes of
    the service replaced while this frame was in work or since the last one, by role. quarantined: sensors missing
    because their message crashes the encoder.
    publication_slack_ns: time left at the result's own deadline when it was published, negative where it was missed.
    ladder_level: rung of the ladder of degradations, 0 for none; ladder_rung: what is left out there; ladder_change:
    why the level is not that of the result before, empty where it is.
    """

    model: str
    model_hash: str
    trained: bool
    calibration_hash: str
    ego_motion: MotionSource
    placement: str
    deadline_slack_ns: int
    stage_latency_ns: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    quarantined: tuple[str, ...] = ()
    publication_slack_ns: int = 0
    ladder_level: int = 0
    ladder_rung: str = ""
    ladder_change: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerceptionResult:
    """Everything the service says about one reference time; `(drive_id, run_id, sequence)` identifies it.

    Detections, path hints and world_SE3_ego (4, 4) float64 (None where the drive has no poses) are those of
    `reference_ns`, or where `predicted_to_ns` is given, of that time. ego_velocity_mps (x, y over ground, in ego axes)
    and ego_yaw_rate_radps are the ego's motion; None where nothing is known of it. published_ns: wall clock;
    published_drive_ns: the same moment on the drive's own clock. degraded: made in time of earlier results, because the
    real one was late.
    """

    drive_id: str
    run_id: str
    sequence: int
    reference_ns: int
    published_ns: int
    detections: Detections
    path_hints: PathHints
    sensors: tuple[SensorStatus, ...]
    world_SE3_ego: F64 | None
    provenance: Provenance
    ego_velocity_mps: tuple[float, float] | None = None
    ego_yaw_rate_radps: float = 0.0
    published_drive_ns: int = 0
    predicted_to_ns: int | None = None
    degraded: bool = False

    @property
    def valid_ns(self) -> int:
        """The time that detections, path hints and pose are of, on the capture clock."""
        return self.reference_ns if self.predicted_to_ns is None else self.predicted_to_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOfRun:
    """Closes a run: `count` results were published; `reason` is `completed`, `interrupted` or `failed: ...`."""

    drive_id: str
    run_id: str
    count: int
    reason: str
