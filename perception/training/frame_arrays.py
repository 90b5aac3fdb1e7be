"""A training frame as plain arrays and back; in between they lie on disk.

Each array of a frame has rows (cameras, points, labels, ... or one), so that arrays of many frames join into one.
Points take two bytes a number: float16 would be 1.6 cm off at 50 m, whole numbers that share a scale 0.8 mm.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, Projection
from perception.training.frames import TrainingFrame

Arrays = dict[str, NDArray[Any]]

_AS_THEY_ARE: Final = (
    "images",
    "top_px",
    "reference_SE3_camera",
    "camera_age_s",
    "lidar_points",
    "lidar_count",
    "lidar_age_s",
    "radar_points",
    "class_index",
    "boxes",
    "attribute_index",
    "visible_share",
    "path_m",
    "path_known",
)
POINTS: Final = ("lidar_points", "radar_points")
"""Arrays that are stored as whole numbers with a scale for each column."""
_MAX: Final = 32767
_PROJECTIONS: Final = tuple(Projection)
_CAMERA_NUMBERS: Final = 14 + 8
"""Of a camera: see `_camera_row`; no lens has more than eight coefficients."""


def to_arrays(frame: TrainingFrame) -> Arrays:
    """All of a frame but the drive's name; what is one for a frame becomes one row."""
    arrays: Arrays = {name: getattr(frame, name) for name in _AS_THEY_ARE}
    cameras = [_camera_row(camera) for camera in frame.cameras]
    arrays["cameras"] = np.array(cameras).reshape(len(cameras), _CAMERA_NUMBERS)
    arrays["drivable"] = np.zeros((0, 0, 0), dtype=np.bool_) if frame.drivable is None else frame.drivable[None]
    arrays["ego"] = frame.ego[None]
    arrays["reference_ns"] = np.array([frame.reference_ns], dtype=np.int64)
    radar_age_s = np.nan if frame.radar_age_s is None else frame.radar_age_s
    arrays["scalars"] = np.array([[radar_age_s, frame.target_speed_mps]])
    return arrays


def from_arrays(arrays: Mapping[str, NDArray[Any]], drive_id: str, cameras: dict[bytes, CameraModel]) -> TrainingFrame:
    """The inverse of `to_arrays`. cameras: those made before, since most frames of a drive share theirs."""
    radar_age_s, target_speed_mps = arrays["scalars"][0].tolist()
    return TrainingFrame(
        **{name: arrays[name] for name in _AS_THEY_ARE},
        drive_id=drive_id,
        reference_ns=int(arrays["reference_ns"][0]),
        cameras=tuple(_camera(row, cameras) for row in arrays["cameras"]),
        radar_age_s=None if np.isnan(radar_age_s) else radar_age_s,
        ego=arrays["ego"][0],
        target_speed_mps=target_speed_mps,
        drivable=arrays["drivable"][0] if len(arrays["drivable"]) else None,
    )


def quantise(points: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Points (N, F) as whole numbers and the scale (F,) of their columns; half a step of error at most."""
    largest = np.abs(points).max(axis=0, initial=0.0)
    scale = np.where(largest > 0, largest / _MAX, 1.0).astype(np.float32)
    return np.clip(np.rint(points / scale), -_MAX, _MAX).astype(np.int16), scale


def restore(whole: NDArray[np.int16], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of `quantise`."""
    points: NDArray[np.float32] = whole * scale
    return points


def _camera_row(camera: CameraModel) -> NDArray[np.float64]:
    """Projection, width, height, intrinsic row by row, xi, number of coefficients, coefficients."""
    numbers = np.zeros(_CAMERA_NUMBERS)
    count = len(camera.distortion)
    numbers[:3] = _PROJECTIONS.index(camera.projection), camera.width_px, camera.height_px
    numbers[3:12] = camera.intrinsic.ravel()
    numbers[12:14] = camera.xi, count
    numbers[14 : 14 + count] = camera.distortion
    return numbers


def _camera(row: NDArray[np.float64], known: dict[bytes, CameraModel]) -> CameraModel:
    key = row.tobytes()
    if key not in known:
        known[key] = CameraModel(
            width_px=int(row[1]),
            height_px=int(row[2]),
            intrinsic=row[3:12].reshape(3, 3).copy(),
            projection=_PROJECTIONS[int(row[0])],
            distortion=row[14 : 14 + int(row[13])].copy(),
            xi=float(row[12]),
        )
    return known[key]
