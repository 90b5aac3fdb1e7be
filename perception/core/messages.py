"""The typed messages that a source yields: what a sensor saw, when it saw it, when it reached us.

All times are int nanoseconds: `capture_ns` when the sensor saw it, `arrival_ns` when the service got it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Compared as they are: a scalar type would be made a dtype at each comparison.
_FLOAT32, _INT32, _UINT8, _BOOL = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.uint8), np.dtype(np.bool_)

EGO_SENSOR = "ego"
ROUTE_SENSOR = "route"


class SweepMotion(StrEnum):
    RAW = "raw"
    """Points lie where the moving sensor saw them: deskew before use."""
    COMPENSATED = "compensated"
    """Points already refer to `capture_ns`: never deskewed again."""


class Command(StrEnum):
    FOLLOW = "follow"
    LEFT = "left"
    RIGHT = "right"
    STRAIGHT = "straight"
    CHANGE_LEFT = "change_left"
    CHANGE_RIGHT = "change_right"


class Signal(StrEnum):
    """State of the traffic light that governs the ego's lane, where it is known."""

    UNKNOWN = "unknown"
    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Message:
    """What every message carries. `sensor` is a name of the rig, or `ego` or `route`."""

    sensor: str
    capture_ns: int
    arrival_ns: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraFrame(Message):
    """One compressed image (JPEG or PNG bytes), decoded only where its pixels are needed.

    calibration, ego_SE3_sensor: this frame's own intrinsics and (4, 4) mount where they differ from the rig's (KITTI
    object frames), else None.
    """

    data: bytes
    calibration: CameraModel | None = None
    ego_SE3_sensor: F64 | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LidarSweep(Message):
    """One sweep. points_m: (N, 3) float32 in the lidar frame; intensity: (N,) float32 in 0..1.

    point_offset_ns: (N,) int32 signed from `capture_ns`, or None where the format has no point times.
    ring: (N,) uint8 beam index or None.
    """

    points_m: F32
    intensity: F32
    motion: SweepMotion
    point_offset_ns: NDArray[np.int32] | None = None
    ring: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        n = _check_points(self.sensor, self.points_m)
        _check_column(self.sensor, "intensity", self.intensity, n, _FLOAT32)
        if self.point_offset_ns is not None:
            _check_column(self.sensor, "point_offset_ns", self.point_offset_ns, n, _INT32)
        if self.ring is not None:
            _check_column(self.sensor, "ring", self.ring, n, _UINT8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RadarScan(Message):
    """One scan. points_m: (N, 3) float32 in the radar frame (x forward, y left); rcs_dbsm: (N,) float32.

    radial_mps: (N,) float32 range rate as measured (negative: closing; a standing target shows the ego's motion).
    compensated_mps: (N,) float32 range rate over ground, or None where the sensor does not compensate.
    is_valid: (N,) bool, True where the return passes the format's own filters.
    """

    points_m: F32
    rcs_dbsm: F32
    radial_mps: F32
    compensated_mps: F32 | None
    is_valid: NDArray[np.bool_]

    def __post_init__(self) -> None:
        n = _check_points(self.sensor, self.points_m)
        _check_column(self.sensor, "rcs_dbsm", self.rcs_dbsm, n, _FLOAT32)
        _check_column(self.sensor, "radial_mps", self.radial_mps, n, _FLOAT32)
        if self.compensated_mps is not None:
            _check_column(self.sensor, "compensated_mps", self.compensated_mps, n, _FLOAT32)
        _check_column(self.sensor, "is_valid", self.is_valid, n, _BOOL)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EgoState(Message):
    """Where the ego is and how it moves; each part None where it is not known.

    world_SE3_ego: (4, 4) float64. velocity_mps: (2,) float64 over ground in ego axes. yaw_rate_radps: about z.
    """

    world_SE3_ego: F64 | None
    velocity_mps: F64 | None = None
    yaw_rate_radps: float | None = None
    sensor: str = EGO_SENSOR

    def __post_init__(self) -> None:
        if self.world_SE3_ego is not None and self.world_SE3_ego.shape != (4, 4):
            raise ValueError(f"world_SE3_ego must be (4, 4), got {self.world_SE3_ego.shape}")
        if self.velocity_mps is not None and self.velocity_mps.shape != (2,):
            raise ValueError(f"velocity_mps must be (2,), got {self.velocity_mps.shape}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RouteCommand(Message):
    """What the navigation asks for next.

    distance_m: to the manoeuvre or signal, None where not known. target_m: (2,) float64 the place on the route about
    three seconds, and at least 20 m, ahead, in ego axes at `capture_ns`, as well as the navigation knows where the ego
    is (a metre or two); None where it does not say.
    """

    command: Command
    speed_limit_mps: float | None = None
    signal: Signal = Signal.UNKNOWN
    distance_m: float | None = None
    target_m: F64 | None = None
    sensor: str = ROUTE_SENSOR

    def __post_init__(self) -> None:
        if self.target_m is not None and self.target_m.shape != (2,):
            raise ValueError(f"target_m must be (2,), got {self.target_m.shape}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unreadable(Message):
    """A message that was there but could not be read: counted, reported, and its sensor is missing in that frame."""

    error: str


SensorMessage = CameraFrame | LidarSweep | RadarScan
AnyMessage = CameraFrame | LidarSweep | RadarScan | EgoState | RouteCommand | Unreadable


def _check_points(sensor: str, points: F32) -> int:
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype != _FLOAT32:
        raise ValueError(f"{sensor}: points_m must be (N, 3) float32, got {points.shape} {points.dtype}")
    return len(points)


def _check_column(sensor: str, name: str, column: NDArray[np.generic], n: int, dtype: np.dtype[Any]) -> None:
    if column.shape != (n,) or column.dtype != dtype:
        raise ValueError(f"{sensor}: {name} must be ({n},) {dtype}, got {column.shape} {column.dtype}")
