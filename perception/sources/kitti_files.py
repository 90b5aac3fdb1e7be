"""Files of the KITTI object benchmark: calibration, points, labels; each frame has its own.

Formats: cvlibs.net/datasets/kitti, object development kit (readme.txt).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.core.geometry import is_rotation, se3
from perception.core.messages import AnyMessage, LidarSweep, SweepMotion, Unreadable
from perception.sources.image_files import read_payload
from perception.sources.payloads import finite_rows

F64 = NDArray[np.float64]

_SIZES = {"P2": 12, "R0_rect": 9, "Tr_velo_to_cam": 12}
_LABEL_COLUMNS = 15
_DONT_CARE = "DontCare"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """intrinsic (3, 3) of the left colour camera; camera_SE3_velodyne and rectified_SE3_velodyne (4, 4).

    Labels are in the rectified frame of the grey camera, which the colour camera sits 6 cm beside.
    """

    intrinsic: F64
    camera_SE3_velodyne: F64
    rectified_SE3_velodyne: F64


def read_calibration(path: Path) -> Calibration:
    """Read `calib/NNNNNN.txt`. Raises PayloadError naming the matrix that is missing or broken."""
    rows = dict(line.split(":", 1) for line in _lines(path) if ":" in line)
    values = {name: _floats(path, name, rows.get(name), size) for name, size in _SIZES.items()}
    projection, turn = values["P2"].reshape(3, 4), values["R0_rect"].reshape(3, 3)
    velodyne = values["Tr_velo_to_cam"].reshape(3, 4)
    for name, rotation in (("R0_rect", turn), ("Tr_velo_to_cam", velodyne[:, :3])):
        if not is_rotation(rotation):
            raise PayloadError(f"{path}: {name} is no rotation")
    intrinsic = projection[:, :3].copy()
    if min(intrinsic[0, 0], intrinsic[1, 1]) <= 0 or not np.allclose(intrinsic[2], [0, 0, 1]):
        raise PayloadError(f"{path}: P2 is no pinhole projection")
    rectified_SE3_velodyne = se3(turn) @ se3(velodyne[:, :3], velodyne[:, 3])
    # P2 = K [I | t]: the camera's place beside the grey one is folded into its last column.
    camera_SE3_rectified = se3(translation=np.linalg.solve(intrinsic, projection[:, 3]))
    return Calibration(
        intrinsic=intrinsic,
        camera_SE3_velodyne=camera_SE3_rectified @ rectified_SE3_velodyne,
        rectified_SE3_velodyne=rectified_SE3_velodyne,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """One labelled object: bottom centre in the rectified camera frame (x right, y down, z forward), metres."""

    category: str
    height: float
    width: float
    length: float
    bottom: tuple[float, float, float]
    rotation_y: float


def read_label_rows(path: Path) -> list[LabelRow]:
    """Objects of `label_2/NNNNNN.txt` without the regions marked DontCare. Raises PayloadError naming the line."""
    objects = []
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields or fields[0] == _DONT_CARE:
            continue
        if len(fields) != _LABEL_COLUMNS:
            raise PayloadError(f"{path}: line {number} has {len(fields)} columns, not {_LABEL_COLUMNS}")
        height, width, length, x, y, z, rotation_y = _floats(path, f"line {number}", " ".join(fields[8:]), 7).tolist()
        if min(height, width, length) <= 0 or abs(rotation_y) > 2 * math.pi:
            raise PayloadError(f"{path}: line {number} has no positive dimensions or no angle")
        objects.append(
            LabelRow(
                category=fields[0], height=height, width=width, length=length, bottom=(x, y, z), rotation_y=rotation_y
            )
        )
    return objects


def read_velodyne(path: Path) -> NDArray[np.float32]:
    """(N, 4) float32: x, y, z in metres, reflectance 0..1; points that are not finite left out. Raises PayloadError."""
    data = read_payload(path)
    if len(data) % 16:
        raise PayloadError(f"{path}: {len(data)} bytes are no whole number of 16-byte points")
    rows: NDArray[np.float32] = finite_rows(path, np.frombuffer(data, dtype="<f4").reshape(-1, 4)).astype(np.float32)
    return rows


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise PayloadError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise PayloadError(f"{path}: is no text") from error


def _floats(path: Path, name: str, text: str | None, count: int) -> F64:
    if text is None:
        raise PayloadError(f"{path}: {name} is missing")
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise PayloadError(f"{path}: {name}: {error}") from error
    if len(values) != count or not np.all(np.isfinite(values)):
        raise PayloadError(f"{path}: {name} must be {count} finite numbers, got {text.strip()!r}")
    return values


def load_sweep(sensor: str, path: Path, capture_ns: int, arrival_ns: int) -> list[AnyMessage]:
    """The sweep in a file, not deskewed; `Unreadable` where it cannot be read."""
    try:
        rows = read_velodyne(path)
    except PayloadError as error:
        return [Unreadable(sensor=sensor, capture_ns=capture_ns, arrival_ns=arrival_ns, error=str(error))]
    sweep = LidarSweep(
        sensor=sensor,
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        points_m=np.ascontiguousarray(rows[:, :3]),
        intensity=np.clip(rows[:, 3], 0.0, 1.0),
        motion=SweepMotion.RAW,
    )
    return [sweep]
