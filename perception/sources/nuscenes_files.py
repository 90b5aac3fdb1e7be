"""Sensor files of a nuScenes-format drive as messages; what cannot be read becomes `Unreadable`."""

from pathlib import Path

import numpy as np

from perception.core.errors import PayloadError
from perception.core.messages import CameraFrame, LidarSweep, RadarScan, SweepMotion, Unreadable
from perception.core.rig import Modality, Sensor
from perception.sources.image_files import read_payload
from perception.sources.payloads import finite_rows, load_camera_frame
from perception.sources.radar_pcd import parse_radar_pcd

LIDAR_FIELDS = ("x", "y", "z", "intensity", "ring")
_MAX_INTENSITY = 255.0


def load_message(
    root: Path, filename: str, sensor: Sensor, capture_ns: int, arrival_ns: int
) -> CameraFrame | LidarSweep | RadarScan | Unreadable:
    """Read the sensor file `filename` (relative to `root`). Never raises on bad data: it returns `Unreadable`."""
    try:
        path = _inside(root, filename)
        if sensor.modality is Modality.CAMERA:
            return load_camera_frame(sensor, path, capture_ns, arrival_ns)
        if sensor.modality is Modality.LIDAR:
            return _load_lidar(path, sensor.name, capture_ns, arrival_ns)
        return _load_radar(path, sensor.name, capture_ns, arrival_ns)
    except PayloadError as error:
        return Unreadable(sensor=sensor.name, capture_ns=capture_ns, arrival_ns=arrival_ns, error=str(error))


def _inside(root: Path, filename: str) -> Path:
    """A drive comes from strangers: its tables may only name files of its own folder."""
    if Path(filename).is_absolute() or ".." in Path(filename).parts or "\0" in filename:
        raise PayloadError(f"{filename}: the path leads out of {root}")
    return root / filename


def _load_lidar(path: Path, sensor: str, capture_ns: int, arrival_ns: int) -> LidarSweep:
    """Five float32 a point: x, y, z, intensity 0..255, ring. Points that are not finite are left out."""
    data = read_payload(path)
    if len(data) % (4 * len(LIDAR_FIELDS)):
        raise PayloadError(f"{path}: {len(data)} bytes are no whole number of {4 * len(LIDAR_FIELDS)}-byte points")
    rows = finite_rows(path, np.frombuffer(data, dtype="<f4").reshape(-1, len(LIDAR_FIELDS)))
    return LidarSweep(
        sensor=sensor,
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        points_m=rows[:, :3].astype(np.float32),
        intensity=np.clip(rows[:, 3] / np.float32(_MAX_INTENSITY), 0.0, 1.0).astype(np.float32),
        motion=SweepMotion.COMPENSATED,
        ring=np.clip(rows[:, 4], 0, 255).astype(np.uint8),
    )


def _load_radar(path: Path, sensor: str, capture_ns: int, arrival_ns: int) -> RadarScan:
    data = read_payload(path)
    try:
        returns = parse_radar_pcd(data)
    except PayloadError as error:
        raise PayloadError(f"{path}: {error}") from error
    return RadarScan(
        sensor=sensor,
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        points_m=returns.points_m,
        rcs_dbsm=returns.rcs_dbsm,
        radial_mps=returns.radial_mps,
        compensated_mps=returns.compensated_mps,
        is_valid=returns.is_valid,
    )
