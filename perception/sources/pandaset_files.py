"""Files of a PandaSet sequence: poses, times, intrinsics, points.

Layout: github.com/scaleapi/pandaset-devkit, README ("Dataset structure"). Times are unix seconds with microseconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError, PayloadError
from perception.core.geometry import interpolate_se3, se3_from_quaternion
from perception.sources.allowlist_pickle import Table, load_table
from perception.sources.payloads import finite_rows, numbered_files, read_json

F64 = NDArray[np.float64]

PANDAR64, PANDAR_GT = 0, 1
"""Values of the points' column `d`."""

_POINT_COLUMNS = ("x", "y", "z", "i", "t", "d")


class Vector(msgspec.Struct, frozen=True):
    x: float
    y: float
    z: float


class Quaternion(msgspec.Struct, frozen=True):
    w: float
    x: float
    y: float
    z: float


class Pose(msgspec.Struct, frozen=True):
    position: Vector
    heading: Quaternion


class Intrinsics(msgspec.Struct, frozen=True):
    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """Poses of one sensor: times_ns (T,) int64; world_SE3_sensor (T, 4, 4) float64."""

    times_ns: NDArray[np.int64]
    world_SE3_sensor: F64

    @property
    def frequency_hz(self) -> float:
        return float(1e9 / np.median(np.diff(self.times_ns)))

    def at(self, time_ns: int) -> F64:
        """world_SE3_sensor (4, 4) at `time_ns`; beyond the ends the last segment goes on."""
        i = int(np.clip(np.searchsorted(self.times_ns, time_ns, side="right") - 1, 0, len(self.times_ns) - 2))
        start, end = self.times_ns[i], self.times_ns[i + 1]
        return interpolate_se3(
            self.world_SE3_sensor[i], self.world_SE3_sensor[i + 1], (time_ns - start) / (end - start)
        )


def read_track(folder: Path) -> Track:
    """Poses and times of the sensor in `folder`. Raises DriveError where they are missing, differ or do not rise."""
    times = read_json(folder / "timestamps.json", list[float])
    poses = read_json(folder / "poses.json", list[Pose])
    if len(times) != len(poses) or len(times) < 2:
        raise DriveError(f"{folder}: {len(times)} timestamps and {len(poses)} poses; they must be equal and at least 2")
    times_ns = np.array([round(time * 1e6) * 1000 for time in times], dtype=np.int64)
    if not np.all(np.diff(times_ns) > 0):
        worst = int(np.argmin(np.diff(times_ns)))
        raise DriveError(f"{folder}/timestamps.json: time does not rise from entry {worst} to {worst + 1}")
    try:
        transforms = np.array([_transform(pose) for pose in poses])
    except ValueError as error:
        raise DriveError(f"{folder}/poses.json: {error}") from error
    return Track(times_ns=times_ns, world_SE3_sensor=transforms)


def _transform(pose: Pose) -> F64:
    position, heading = pose.position, pose.heading
    quaternion = [heading.w, heading.x, heading.y, heading.z]
    return se3_from_quaternion(quaternion, [position.x, position.y, position.z])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Points:
    """Points of both lidars: points_world_m (N, 3) float64, intensity (N,) float32 in 0..1, time_s (N,), lidar (N,)."""

    points_world_m: F64
    intensity: NDArray[np.float32]
    time_s: F64
    lidar: NDArray[Any]


def read_points(path: Path) -> Points:
    """Points of one frame; those that are not finite are left out. Raises PayloadError."""
    columns = numbers(path, load_table(path), _POINT_COLUMNS)
    rows = finite_rows(path, columns)
    return Points(
        points_world_m=rows[:, :3],
        intensity=np.clip(rows[:, 3] / 255.0, 0.0, 1.0).astype(np.float32),
        time_s=rows[:, 4],
        lidar=rows[:, 5],
    )


def numbers(path: Path, table: Table, names: tuple[str, ...]) -> F64:
    """Columns of a table as (N, C) float64. Raises PayloadError where one is missing or holds no numbers."""
    for name in names:
        if name not in table:
            raise PayloadError(f"{path}: column {name} is missing; it has {', '.join(sorted(table))}")
        if table[name].dtype.kind not in "fiub":
            raise PayloadError(f"{path}: column {name} holds {table[name].dtype}, not numbers")
    return np.stack([table[name].astype(np.float64) for name in names], axis=1)


def sequence_frames(folder: Path) -> list[int]:
    """Indices of the frames of which a lidar or camera file is there, rising."""
    found = set(numbered_files(folder / "lidar", r"(\d+)\.pkl\.gz"))
    for camera in (folder / "camera").glob("*"):
        found |= set(numbered_files(camera, r"(\d+)\.jpg"))
    return sorted(found)
