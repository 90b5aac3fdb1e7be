"""Files of a KITTI raw drive: calibration of the day, time stamps, positions of the inertial unit.

Formats: cvlibs.net/datasets/kitti, raw data development kit (readme.txt). Stamps are local time without a zone and are
taken as UTC; only their differences matter.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel
from perception.core.errors import DriveError, PayloadError, PerceptionError
from perception.core.geometry import invert, is_rotation, se3

F64 = NDArray[np.float64]

EARTH_RADIUS_M = 6378137.0
"""Of the Mercator projection in the development kit (`latlonToMercator.m`)."""

_STAMP = re.compile(r"(\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?\d*")
_OXTS_COLUMNS = 25
_LATITUDE_LIMIT_DEG = 85.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RectifiedCamera:
    """One camera of the rectified images: velodyne_SE3_camera (4, 4) and its pinhole model."""

    velodyne_SE3_camera: F64
    model: CameraModel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OxtsRow:
    """One file of `oxts/data`: position (3,) by Mercator scaled to latitude 0, world_R_imu (3, 3).

    velocity_mps: (3,) ahead, left, up. turn_radps: (3,) about the axes of the unit (x ahead, y left, z up).
    """

    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    world_R_imu: F64
    velocity_mps: F64
    turn_radps: F64


def read_timestamps(path: Path) -> list[int]:
    """Times in nanoseconds, a line each. Raises DriveError naming the line that holds none."""
    times = []
    for number, line in enumerate(_text(path, DriveError).splitlines(), start=1):
        if not line.strip():
            continue
        match = _STAMP.fullmatch(line.strip())
        try:
            second = datetime.fromisoformat(match[1]).replace(tzinfo=UTC) if match else None
        except ValueError:
            second = None
        if match is None or second is None:
            raise DriveError(f"{path}: line {number} is no time: {line.strip()[:40]!r}")
        times.append(int(second.timestamp()) * 1_000_000_000 + int((match[2] or "0").ljust(9, "0")))
    return times


def read_cameras(folder: Path) -> dict[str, RectifiedCamera]:
    """Cameras `image_00` to `image_03` of `calib_cam_to_cam.txt` and `calib_velo_to_cam.txt` in `folder`.

    Raises DriveError naming the matrix that is missing or broken.
    """
    path = folder / "calib_cam_to_cam.txt"
    rows = _rows(path)
    rectified_SE3_velodyne = _rigid(path, "R_rect_00", _floats(path, rows, "R_rect_00", 9), np.zeros(3))
    rectified_SE3_velodyne = rectified_SE3_velodyne @ read_transform(folder / "calib_velo_to_cam.txt")
    cameras = {}
    for name in (name for name in rows if re.fullmatch(r"P_rect_0\d", name)):
        number = name[-2:]
        projection = _floats(path, rows, name, 12).reshape(3, 4)
        width, height = _floats(path, rows, f"S_rect_{number}", 2).tolist()
        intrinsic = projection[:, :3].copy()
        try:
            model = CameraModel(width_px=round(width), height_px=round(height), intrinsic=intrinsic)
        except ValueError as error:
            raise DriveError(f"{path}: {name}: {error}") from error
        # P = K [I | t]: the camera's place beside the first one is folded into its last column.
        camera_SE3_rectified = se3(translation=np.linalg.solve(intrinsic, projection[:, 3]))
        velodyne_SE3_camera = invert(camera_SE3_rectified @ rectified_SE3_velodyne)
        cameras[f"image_{number}"] = RectifiedCamera(velodyne_SE3_camera=velodyne_SE3_camera, model=model)
    return cameras


def read_transform(path: Path) -> F64:
    """The rigid (4, 4) transform R, T of a file such as `calib_imu_to_velo.txt`. Raises DriveError."""
    rows = _rows(path)
    return _rigid(path, "R", _floats(path, rows, "R", 9), _floats(path, rows, "T", 3))


def read_oxts(path: Path) -> OxtsRow:
    """One measurement of the inertial unit. Raises PayloadError."""
    words = _text(path, PayloadError).split()
    try:
        values = np.array([float(word) for word in words[:_OXTS_COLUMNS]])
    except ValueError as error:
        raise PayloadError(f"{path}: {error}") from error
    if len(values) < _OXTS_COLUMNS or not np.all(np.isfinite(values)):
        raise PayloadError(f"{path}: it needs {_OXTS_COLUMNS} finite numbers, got {len(values)}")
    if abs(values[0]) > _LATITUDE_LIMIT_DEG or abs(values[1]) > 180:
        raise PayloadError(f"{path}: latitude {values[0]:g} or longitude {values[1]:g} is outside its range")
    roll, pitch, yaw = values[3:6]
    return OxtsRow(
        latitude_deg=float(values[0]),
        longitude_deg=float(values[1]),
        altitude_m=float(values[2]),
        world_R_imu=_turn("z", yaw) @ _turn("y", pitch) @ _turn("x", roll),
        velocity_mps=values[8:11],
        turn_radps=values[17:20],
    )


def world_SE3_imu(row: OxtsRow, first: OxtsRow) -> F64:
    """Pose (4, 4), x east, y north, z up, with the origin at `first` (`convertOxtsToPose.m` of the development kit)."""
    scale = np.cos(np.radians(first.latitude_deg))
    position = _mercator(row, scale) - _mercator(first, scale)
    return se3(row.world_R_imu, position)


def _mercator(row: OxtsRow, scale: float) -> F64:
    east = scale * EARTH_RADIUS_M * np.radians(row.longitude_deg)
    north = scale * EARTH_RADIUS_M * np.log(np.tan(np.radians(90 + row.latitude_deg) / 2))
    return np.array([east, north, row.altitude_m])


def _turn(axis: str, angle_rad: float) -> F64:
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return {
        "x": np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]]),
        "y": np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]]),
        "z": np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]),
    }[axis]


def _rigid(path: Path, name: str, rotation: F64, translation: F64) -> F64:
    if not is_rotation(rotation.reshape(3, 3)):
        raise DriveError(f"{path}: {name} is no rotation")
    return se3(rotation.reshape(3, 3), translation)


def _rows(path: Path) -> dict[str, str]:
    return dict(line.split(":", 1) for line in _text(path, DriveError).splitlines() if ":" in line)


def _floats(path: Path, rows: dict[str, str], name: str, count: int) -> F64:
    if name not in rows:
        raise DriveError(f"{path}: {name} is missing")
    try:
        values = np.array([float(word) for word in rows[name].split()])
    except ValueError as error:
        raise DriveError(f"{path}: {name}: {error}") from error
    if len(values) != count or not np.all(np.isfinite(values)):
        raise DriveError(f"{path}: {name} must be {count} finite numbers, got {rows[name].strip()[:80]!r}")
    return values


def _text(path: Path, error: type[PerceptionError]) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}); restore it from the original archive") from cause
    except UnicodeDecodeError as cause:
        raise error(f"{path}: is no text") from cause
