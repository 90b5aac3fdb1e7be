"""Sensor files in the encodings of nuScenes: lidar as five float32 a point, radar as PCD with 43-byte records."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.messages import LidarSweep, RadarScan

RADAR_RECORD = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("dyn_prop", "i1"),
        ("id", "<i2"),
        ("rcs", "<f4"),
        ("vx", "<f4"),
        ("vy", "<f4"),
        ("vx_comp", "<f4"),
        ("vy_comp", "<f4"),
        ("is_quality_valid", "i1"),
        ("ambig_state", "i1"),
        ("x_rms", "i1"),
        ("y_rms", "i1"),
        ("invalid_state", "i1"),
        ("pdh0", "i1"),
        ("vx_rms", "i1"),
        ("vy_rms", "i1"),
    ]
)
STANDING_MPS = 0.5
"""Slower over ground along the ray than this counts as stationary in `dyn_prop`."""
SPARE_CHUNK_BYTES = 1 << 20
_PADDING_BYTES = 4096
_MOVING, _STATIONARY = 0, 1
_UNAMBIGUOUS = 3
_INVALID = 1


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file or none: a temporary name first. Raises DriveError where the disk refuses."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DriveError(f"{path}: cannot be written ({error.strerror}); what was recorded before stays") from error


class SpareSpace:
    """Room on the disk, held by a file of zeros until `release`: what must be written at the end then finds it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def hold(self, size: int) -> None:
        """Hold at least `size` bytes. Raises DriveError where the disk refuses."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                while (missing := size - file.tell()) > 0:
                    file.write(bytes(min(missing, SPARE_CHUNK_BYTES)))
        except OSError as error:
            raise DriveError(f"{self._path.parent}: the disk is full or refuses ({error.strerror})") from error

    def release(self) -> None:
        self._path.unlink(missing_ok=True)


def encode_lidar(sweep: LidarSweep) -> bytes:
    """x, y, z, intensity 0..255, ring (0 where not known) as float32."""
    rows = np.zeros((len(sweep.points_m), 5), dtype="<f4")
    rows[:, :3] = sweep.points_m
    rows[:, 3] = sweep.intensity * np.float32(255.0)
    if sweep.ring is not None:
        rows[:, 4] = sweep.ring
    return rows.tobytes()


def read_lidar_points(path: Path) -> NDArray[np.float64]:
    """Points (N, 3) of a file that `encode_lidar` made."""
    return np.fromfile(path, dtype="<f4").reshape(-1, 5)[:, :3].astype(np.float64)


def encode_radar(scan: RadarScan, compensated_mps: NDArray[np.floating]) -> bytes:
    """One PCD file. compensated_mps: (N,) range rate over ground.

    A range rate is stored as the vector along its ray, which is what nuScenes keeps. Returns that are not valid get a
    state that the devkit's default filters refuse. An empty scan is one record of nan, as the devkit expects.
    """
    records = np.zeros(max(1, len(scan.points_m)), dtype=RADAR_RECORD)
    if len(scan.points_m):
        _fill(records, scan, compensated_mps)
    else:
        for name in ("x", "y", "z", "rcs", "vx", "vy", "vx_comp", "vy_comp"):
            records[name] = np.nan
    names = RADAR_RECORD.names or ()
    kinds = [RADAR_RECORD[name] for name in names]
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        "FIELDS " + " ".join(names),
        "SIZE " + " ".join(str(kind.itemsize) for kind in kinds),
        "TYPE " + " ".join("F" if kind.kind == "f" else "I" for kind in kinds),
        "COUNT " + " ".join("1" for _ in names),
        f"WIDTH {len(records)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(records)}",
        "DATA binary",
    ]
    # The devkit refuses a file that ends with its last record; the original ones are padded.
    return ("\n".join(header) + "\n").encode("ascii") + records.tobytes() + bytes(_PADDING_BYTES)


def _fill(records: NDArray[np.void], scan: RadarScan, compensated_mps: NDArray[np.floating]) -> None:
    range_m = np.linalg.norm(scan.points_m[:, :2].astype(np.float64), axis=1)
    for axis, name in enumerate(("x", "y", "z")):
        records[name] = scan.points_m[:, axis]
    for axis, name in enumerate(("x", "y")):
        ray = scan.points_m[:, axis] / np.maximum(range_m, 1e-6)
        records[f"v{name}"] = ray * scan.radial_mps
        records[f"v{name}_comp"] = ray * compensated_mps
    records["dyn_prop"] = np.where(np.abs(compensated_mps) < STANDING_MPS, _STATIONARY, _MOVING)
    records["id"] = np.arange(len(records))
    records["rcs"] = scan.rcs_dbsm
    records["is_quality_valid"] = scan.is_valid
    records["ambig_state"] = _UNAMBIGUOUS
    records["invalid_state"] = np.where(scan.is_valid, 0, _INVALID)


def read_radar_points(path: Path) -> NDArray[np.float64]:
    """Points (N, 3) of a file that `encode_radar` made."""
    data = path.read_bytes()
    header, start = data.split(b"DATA binary\n", 1)[0], data.index(b"DATA binary\n") + len(b"DATA binary\n")
    count = int(header.split(b"POINTS ", 1)[1].split()[0])
    records = np.frombuffer(data, dtype=RADAR_RECORD, count=count, offset=start)
    points = np.stack([records["x"], records["y"], records["z"]], axis=1).astype(np.float64)
    finite: NDArray[np.float64] = points[np.all(np.isfinite(points), axis=1)]
    return finite
