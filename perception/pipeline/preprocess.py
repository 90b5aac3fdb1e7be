"""From a request to the arrays that its encoder takes.

The service runs this before it encodes, training keeps what it gives: a network learns from exactly what it will see.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import ModelConfig
from perception.core.stages import CameraRequest, LidarRequest, RadarRequest
from perception.models.preprocess import decode_image, pack_points, pack_radar
from perception.sync.compensation import scan_at_reference, sweep_at_reference

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedPoints:
    """Points in the ego frame at the reference time, as an encoder takes them.

    points: (P, F) float32, zeros behind the first `count` () int64. nonfinite: how many were left out for that.
    """

    points: NDArray[np.float32]
    count: NDArray[np.int64]
    nonfinite: int = 0


def preprocess_camera(request: CameraRequest, config: ModelConfig) -> NDArray[np.uint8]:
    """The image (3, H, W) uint8 RGB at the network's size. Raises PayloadError where it cannot be decoded."""
    return decode_image(request.frame.data, config.image, request.camera.width_px, request.camera.height_px)


def preprocess_lidar(request: LidarRequest, config: ModelConfig) -> PackedPoints:
    """One sweep and those that join it, moved to the reference time; columns as `LIDAR_FIELDS`.

    Above the cap all sweeps are thinned alike.
    """
    sweeps = [
        sweep_at_reference(sweep, request.ego_SE3_sensor, request.motion)
        for sweep in (request.sweep, *request.earlier[: config.lidar.sweeps - 1])
    ]
    points, count = pack_points(
        _joined([sweep.points_ego_m for sweep in sweeps]),
        _joined([sweep.intensity for sweep in sweeps]),
        _joined([sweep.offset_s for sweep in sweeps]),
        config,
    )
    return PackedPoints(points=points, count=count, nonfinite=sweeps[0].nonfinite)


def preprocess_radar(request: RadarRequest, config: ModelConfig) -> PackedPoints:
    """The returns of all radars, moved to the reference time; columns as `RADAR_FIELDS`."""
    scans = [
        scan_at_reference(scan, mount, request.motion)
        for scan, mount in zip(request.scans, request.ego_SE3_sensor, strict=True)
    ]
    points, count = pack_radar(
        np.concatenate([scan.points_ego_m for scan in scans]),
        np.concatenate([scan.rcs_dbsm for scan in scans]),
        np.concatenate([scan.compensated_mps[:, None] * scan.direction[:, :2] for scan in scans]),
        np.concatenate([scan.offset_s for scan in scans]),
        config,
    )
    return PackedPoints(points=points, count=count)


def _joined(parts: list[F32]) -> F32:
    """Arrays (N, ...) one after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
