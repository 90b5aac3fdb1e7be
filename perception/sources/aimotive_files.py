"""Files of an aiMotive session: calibration, boxes, laz sweeps, radar scans.

Layout: github.com/aimotive/aimotive_dataset. Conventions that it does not spell out were measured; see `aimotive.py`.
"""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, Projection
from perception.core.errors import DriveError, PayloadError
from perception.core.geometry import invert, is_rotation, transform_points
from perception.core.messages import LidarSweep, RadarScan, SweepMotion
from perception.core.rig import Modality, Sensor
from perception.sources.laz import read_laz
from perception.sources.payloads import finite_rows, point_offsets, read_json

F64 = NDArray[np.float64]

MIN_RCS_M2 = 1e-6

_MAX_INTENSITY = 255.0
_PROJECTIONS = {"opencv_pinhole": Projection.BROWN, "mei": Projection.MEI}
_MODALITIES = {"camera": Modality.CAMERA, "lidar": Modality.LIDAR, "radar": Modality.RADAR}
_Matrix = list[list[float]]


class Calibration(msgspec.Struct, frozen=True):
    """One sensor of `calibration.json`; the camera fields are absent for others."""

    RT_body_from_sensor: _Matrix | None = None
    RT_sensor_from_body: _Matrix | None = None
    model: str = ""
    image_resolution_px: tuple[int, int] = (0, 0)
    focal_length_px: tuple[float, float] = (0.0, 0.0)
    principal_point_px: tuple[float, float] = (0.0, 0.0)
    distortion_coeffs: list[float] = []
    xi: float = 0.0
    transform: str = "none"


class Target(msgspec.Struct, frozen=True):
    azimuth: float
    elevation: float
    range: float
    speed: float
    rcs: float


class Scan(msgspec.Struct, frozen=True):
    targets: list[Target]


def read_sensors(folder: Path, frequency_hz: float) -> list[Sensor]:
    """Cameras, lidar and radars of `calibration.json`, mounts in the body frame. Raises DriveError naming the field."""
    path = folder / "calibration.json"
    sensors = []
    for name, fields in read_json(path, dict[str, dict[str, Any]]).items():
        if (modality := _MODALITIES.get(fields.get("sensor_type", ""))) is None:
            continue  # GNSS and IMU
        try:
            entry = msgspec.convert(fields, Calibration)
            sensors.append(
                Sensor(
                    name=name,
                    modality=modality,
                    ego_SE3_sensor=_mount(entry),
                    frequency_hz=frequency_hz,
                    camera=_camera(entry) if modality is Modality.CAMERA else None,
                )
            )
        except (ValueError, msgspec.ValidationError) as error:
            raise DriveError(f"{path}: {name}: {error}") from error
    return sorted(sensors, key=lambda sensor: (list(_MODALITIES.values()).index(sensor.modality), sensor.name))


def _mount(entry: Calibration) -> F64:
    body_SE3_sensor = np.array(entry.RT_body_from_sensor or [], dtype=np.float64)
    if body_SE3_sensor.shape != (4, 4) or not is_rotation(body_SE3_sensor[:3, :3]):
        raise ValueError("RT_body_from_sensor is not a rigid 4x4 transform")
    if entry.RT_sensor_from_body is not None:
        inverse = np.array(entry.RT_sensor_from_body, dtype=np.float64)
        if inverse.shape != (4, 4) or not np.allclose(inverse, invert(body_SE3_sensor), atol=1e-3):
            raise ValueError("RT_sensor_from_body is not the inverse of RT_body_from_sensor")
    return body_SE3_sensor


def _camera(entry: Calibration) -> CameraModel:
    if entry.model not in _PROJECTIONS:
        raise ValueError(f"camera model {entry.model!r} is not one of {', '.join(_PROJECTIONS)}")
    if entry.transform != "none":
        raise ValueError(f"images transformed by {entry.transform!r} are not read")
    (fx, fy), (cx, cy) = entry.focal_length_px, entry.principal_point_px
    return CameraModel(
        width_px=entry.image_resolution_px[0],
        height_px=entry.image_resolution_px[1],
        intrinsic=np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]),
        projection=_PROJECTIONS[entry.model],
        distortion=np.array(entry.distortion_coeffs, dtype=np.float64),
        xi=entry.xi,
    )


def read_sweep(path: Path, sensor: Sensor, capture_ns: int, latency_ns: int) -> LidarSweep:
    """Points of one frame, from the body frame to the lidar's; they arrive after the last. Raises PayloadError.

    Points that are not finite are left out.
    """
    rows = finite_rows(path, read_laz(path))
    offsets = point_offsets(path, rows[:, 4] - capture_ns)
    return LidarSweep(
        sensor=sensor.name,
        capture_ns=capture_ns,
        arrival_ns=capture_ns + max(0, int(offsets.max())) + latency_ns,
        points_m=transform_points(invert(sensor.ego_SE3_sensor), rows[:, :3]).astype(np.float32),
        intensity=np.clip(rows[:, 3] / _MAX_INTENSITY, 0.0, 1.0).astype(np.float32),
        motion=SweepMotion.RAW,
        point_offset_ns=offsets,
    )


def read_scan(path: Path, sensor: Sensor, capture_ns: int, arrival_ns: int) -> RadarScan:
    """One radar scan; polar to Cartesian, elevation counted downwards, rcs from square metres. Raises PayloadError."""
    targets = read_json(path, Scan, PayloadError).targets
    columns = np.array([(t.azimuth, t.elevation, t.range, t.speed, t.rcs) for t in targets]).reshape(-1, 5)
    azimuth, elevation, distance, speed, rcs_m2 = columns.T
    if np.any(distance < 0) or np.any(np.abs(columns[:, :2]) > math.pi):
        raise PayloadError(f"{path}: a target has a negative range or an angle beyond 180 degrees")
    flat = distance * np.cos(elevation)
    points = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), -distance * np.sin(elevation)], axis=1)
    return RadarScan(
        sensor=sensor.name,
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        points_m=points.astype(np.float32),
        rcs_dbsm=(10.0 * np.log10(np.maximum(rcs_m2, MIN_RCS_M2))).astype(np.float32),
        radial_mps=speed.astype(np.float32),
        compensated_mps=None,
        is_valid=np.ones(len(columns), dtype=np.bool_),
    )
