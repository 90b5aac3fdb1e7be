"""What passes between a session and an engine: requests to encode and to fuse, and what comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel
from perception.core.messages import CameraFrame, Command, LidarSweep, RadarScan, RouteCommand, Signal
from perception.core.motion import EgoMotion
from perception.core.results import Detections, PathHints
from perception.core.rig import Sensor

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraRequest:
    """Encode one image, free of geometry but for its size. `key` names the features."""

    key: str
    frame: CameraFrame
    camera: CameraModel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LidarRequest:
    """Encode one sweep, moved to the reference time of `motion`.

    earlier: sweeps of the same lidar before it, newest first, whose points join it (`lidar.sweeps` of the model).
    """

    key: str
    sweep: LidarSweep
    ego_SE3_sensor: F64
    motion: EgoMotion
    earlier: tuple[LidarSweep, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RadarRequest:
    """Encode the scans of all radars of one bundle together, moved to the reference time of `motion`."""

    key: str
    scans: tuple[RadarScan, ...]
    ego_SE3_sensor: tuple[F64, ...]
    motion: EgoMotion


EncodeRequest = CameraRequest | LidarRequest | RadarRequest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraView:
    """How one camera of a bundle saw the world. reference_SE3_camera: (4, 4), ego motion since capture included."""

    sensor: str
    camera: CameraModel
    reference_SE3_camera: F64
    age_ns: int

    @classmethod
    def of(cls, frame: CameraFrame, sensor: Sensor, motion: EgoMotion) -> "CameraView":
        """The view of `frame`, by its own calibration where it brings one, else by that of `sensor`."""
        return cls.of_each([(frame, sensor)], motion)[0]

    @classmethod
    def of_each(cls, frames: Sequence[tuple[CameraFrame, Sensor]], motion: EgoMotion) -> tuple["CameraView", ...]:
        """The view of each frame as `of` gives it, the ego's motion for all of them in one go: a sixth of the time."""
        moved = motion.at_many(np.array([frame.capture_ns for frame, _ in frames], dtype=np.int64))
        views = []
        for (frame, sensor), reference_SE3_ego in zip(frames, moved, strict=True):
            camera = frame.calibration or sensor.camera
            assert camera is not None
            mount = sensor.ego_SE3_sensor if frame.ego_SE3_sensor is None else frame.ego_SE3_sensor
            views.append(
                cls(
                    sensor=frame.sensor,
                    camera=camera,
                    reference_SE3_camera=reference_SE3_ego @ mount,
                    age_ns=motion.reference_ns - frame.capture_ns,
                )
            )
        return tuple(views)


def target_at_reference(route: RouteCommand, motion: EgoMotion) -> F64 | None:
    """`RouteCommand.target_m` in ego axes at the reference of `motion`, (2,); None also where it is not a number."""
    if route.target_m is None or not np.isfinite(route.target_m).all():
        return None
    reference_SE3_ego = motion.at(route.capture_ns)
    moved: F64 = reference_SE3_ego[:2, :2] @ route.target_m + reference_SE3_ego[:2, 3]
    return moved


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FuseRequest:
    """Fuse the features of one bundle.

    cameras: one view for each present camera, in the order of their features. lidars: names of the present ones,
    lidar_age_ns their ages. radar_age_ns: mean age of the radar scans, None without any. speed_limit_mps: None where
    not known, and so is route_distance_m, how far it is to the manoeuvre or the light's stop line (`RouteCommand`), and
    route_target_m, (2,) the place on the route to go to, in ego axes at the reference.
    received_ns: monotonic time when the bundle's last message came in, for the account of latencies.
    """

    reference_ns: int
    cameras: tuple[CameraView, ...]
    lidars: tuple[str, ...]
    lidar_age_ns: tuple[int, ...]
    radar_age_ns: int | None
    speed_mps: float
    yaw_rate_radps: float
    command: Command
    speed_limit_mps: float | None
    signal: Signal
    route_distance_m: float | None
    route_target_m: F64 | None = None
    received_ns: int = 0
    keep_dense: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Which model an engine runs. hash: first 16 hex digits over weights and configuration.

    lidar_sweeps: how many sweeps of a lidar it takes at once, the newest included.
    """

    name: str
    hash: str
    trained: bool
    lidar_sweeps: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpan:
    """When a stage of one frame ran, in monotonic time. sensors: whose messages it worked on, none for fusion."""

    stage: str
    sensors: tuple[str, ...]
    started_ns: int
    finished_ns: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionOutput:
    """What fusion says about one bundle.

    failures: error by sensor whose payload could not be encoded (that sensor counts as absent).
    stage_latency_ns: wall time by stage. dense: named arrays of the dense head, only if asked for.
    quarantined: those of `failures` whose message was put aside because it crashed its encoder.
    restarts: engine processes replaced since the frame before, by role.
    spans: when each stage ran. model: which one fused, None where the engine has never had another.
    """

    detections: Detections
    path_hints: PathHints
    failures: Mapping[str, str]
    stage_latency_ns: Mapping[str, int]
    dense: Mapping[str, NDArray[np.float32]]
    quarantined: tuple[str, ...] = ()
    restarts: Mapping[str, int] = field(default_factory=dict)
    spans: tuple[StageSpan, ...] = ()
    model: ModelInfo | None = None
