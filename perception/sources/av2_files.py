"""Files of an Argoverse 2 sensor log: feather tables of poses, calibration, points and boxes.

Layout: github.com/argoverse/av2-api and argoverse.github.io/user-guide, "Sensor dataset". Times are in the file names,
in nanoseconds. Images are undistorted; the distortion in `intrinsics.feather` is what was taken out of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import feather

from perception.core.cameras import CameraModel
from perception.core.errors import DriveError, PayloadError, PerceptionError
from perception.core.geometry import interpolate_se3, quaternion_to_rotation
from perception.sources.payloads import finite_rows

F64 = NDArray[np.float64]

MAX_FILE_BYTES = 256 * 2**20
"""A sweep has 1 to 2 MB, the poses of a log 0.2 MB, its boxes 1.5 MB."""

_POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
_INTRINSICS = ("fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")
_MAX_INTENSITY = 255.0


class Table:
    """Some columns of a feather file. Raises `error` where the file cannot be read or one of `columns` is missing."""

    def __init__(self, path: Path, columns: tuple[str, ...], error: type[PerceptionError]) -> None:
        self._path, self._error = path, error
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise error(f"{path}: {path.stat().st_size} bytes are more than such a table may have")
            found = feather.read_table(path, memory_map=False)
        except OSError as cause:
            raise error(f"{path}: cannot be read ({cause.strerror or cause}); restore it from the log") from cause
        except (pa.ArrowException, MemoryError) as cause:
            raise error(f"{path}: no feather table ({cause})") from cause
        if missing := [name for name in columns if name not in found.column_names]:
            raise error(f"{path}: column {missing[0]} is missing; it has {', '.join(found.column_names)}")
        self._columns = {name: found.column(name) for name in columns}

    def numbers(self, *names: str) -> F64:
        """Columns as (N, C) float64."""
        return np.stack([self._array(name, "fiu").astype(np.float64) for name in names], axis=1)

    def integers(self, name: str) -> NDArray[np.int64]:
        """One column (N,) as int64, exact."""
        return self._array(name, "iu").astype(np.int64)

    def texts(self, name: str) -> list[str]:
        return [str(value) for value in self._columns[name].to_pylist()]

    def _array(self, name: str, kinds: str) -> NDArray[np.generic]:
        column = self._columns[name]
        array: NDArray[np.generic] = column.to_numpy()
        if array.dtype.kind not in kinds or column.null_count:
            raise self._error(f"{self._path}: column {name} holds {column.type} or empty cells, not numbers")
        return array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Poses:
    """Where the vehicle was: times_ns (T,) int64, rising; city_SE3_vehicle (T, 4, 4) float64."""

    times_ns: NDArray[np.int64]
    city_SE3_vehicle: F64

    def at(self, time_ns: int) -> F64:
        """city_SE3_vehicle (4, 4) at `time_ns`; before the first and after the last pose it stands still."""
        time_ns = int(np.clip(time_ns, self.times_ns[0], self.times_ns[-1]))
        i = int(np.clip(np.searchsorted(self.times_ns, time_ns, side="right") - 1, 0, len(self.times_ns) - 2))
        share = (time_ns - self.times_ns[i]) / (self.times_ns[i + 1] - self.times_ns[i])
        return interpolate_se3(self.city_SE3_vehicle[i], self.city_SE3_vehicle[i + 1], share)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SweepRows:
    """points_m (N, 3) float32 in the vehicle frame, intensity (N,) 0..1, ring (N,), offset_ns (N,) float64."""

    points_m: NDArray[np.float32]
    intensity: NDArray[np.float32]
    ring: NDArray[np.uint8]
    offset_ns: F64


def read_poses(path: Path) -> Poses:
    """Read `city_SE3_egovehicle.feather`. Raises DriveError where times do not rise or a pose is none."""
    table = Table(path, ("timestamp_ns", *_POSE), DriveError)
    times = table.integers("timestamp_ns")
    if len(times) < 2 or np.any(np.diff(times) <= 0):
        raise DriveError(f"{path}: it needs at least two poses whose timestamp_ns rise")
    return Poses(times_ns=times, city_SE3_vehicle=_transforms(path, table.numbers(*_POSE)))


def read_mounts(path: Path) -> dict[str, F64]:
    """Read `calibration/egovehicle_SE3_sensor.feather`: vehicle_SE3_sensor (4, 4) by sensor. Raises DriveError."""
    table = Table(path, ("sensor_name", *_POSE), DriveError)
    return dict(zip(table.texts("sensor_name"), _transforms(path, table.numbers(*_POSE)), strict=True))


def read_cameras(path: Path) -> dict[str, CameraModel]:
    """Read `calibration/intrinsics.feather`: pinhole cameras by name. Raises DriveError naming the camera."""
    table = Table(path, ("sensor_name", *_INTRINSICS), DriveError)
    cameras = {}
    for name, row in zip(table.texts("sensor_name"), table.numbers(*_INTRINSICS), strict=True):
        fx, fy, cx, cy, width, height = row.tolist()
        try:
            cameras[name] = CameraModel(
                width_px=round(width),
                height_px=round(height),
                intrinsic=np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]),
            )
        except ValueError as error:
            raise DriveError(f"{path}: {name}: {error}") from error
    return cameras


def read_sweep(path: Path) -> SweepRows:
    """Points of one sweep; those that are not finite left out. Raises PayloadError."""
    table = Table(path, ("x", "y", "z", "intensity", "laser_number", "offset_ns"), PayloadError)
    rows = finite_rows(path, table.numbers("x", "y", "z", "intensity", "laser_number", "offset_ns"))
    if np.any((rows[:, 4] < 0) | (rows[:, 4] > 255)):
        raise PayloadError(f"{path}: column laser_number is outside 0..255")
    return SweepRows(
        points_m=rows[:, :3].astype(np.float32),
        intensity=np.clip(rows[:, 3] / _MAX_INTENSITY, 0.0, 1.0).astype(np.float32),
        ring=rows[:, 4].astype(np.uint8),
        offset_ns=rows[:, 5],
    )


def _transforms(path: Path, rows: F64) -> F64:
    """(N, 4, 4) of rows (N, 7): quaternion wxyz and translation."""
    if not np.all(np.isfinite(rows)):
        raise DriveError(f"{path}: a pose is not finite")
    transforms = np.tile(np.eye(4), (len(rows), 1, 1))
    try:
        transforms[:, :3, :3] = quaternion_to_rotation(rows[:, :4])
    except ValueError as error:
        raise DriveError(f"{path}: {error}") from error
    transforms[:, :3, 3] = rows[:, 4:]
    return transforms
