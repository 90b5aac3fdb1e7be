"""`radar_msgs/RadarScan` and `RadarTracks` to radar scans.

Definitions: github.com/ros-perception/radar_msgs. Azimuth counts to the left and elevation upwards (REP 103); the range
rate is taken to be positive where a target goes away, which the definition leaves open.
"""

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.sources.payloads import MAX_DISTANCE_M
from perception.sources.rosbag_points import Returns
from perception.sources.rosbag_wire import RadarScan, RadarTracks

F32 = NDArray[np.float32]


def scan_returns(name: str, message: RadarScan) -> Returns:
    """Returns of a `RadarScan`; `amplitude` (dB) is taken for the cross-section, whose offset to it nobody knows.

    Raises PayloadError, naming `name`, where one has a negative range. Returns that are not finite are left out.
    """
    found = message.returns
    rows = np.stack([found[name] for name in found.dtype.names or ()], axis=1).astype(np.float64)
    rows = rows[np.all(np.isfinite(rows), axis=1) & (np.abs(rows[:, 0]) < MAX_DISTANCE_M)]
    distance, azimuth, elevation, radial, amplitude = rows.T
    if np.any(distance < 0):
        raise PayloadError(f"{name}: a return has a negative range")
    flat = distance * np.cos(elevation)
    points = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)], axis=1)
    return _returns(points, amplitude, radial)


def track_returns(name: str, message: RadarTracks) -> Returns:
    """Objects of a `RadarTracks` as returns: range rates are their velocities along the ray; no cross-section (0).

    Raises PayloadError, naming `name`, where one is not finite.
    """
    rows = np.concatenate([message.tracks["position"], message.tracks["velocity"]], axis=1).astype(np.float64)
    if not np.all(np.isfinite(rows)) or np.any(np.abs(rows[:, :3]) > MAX_DISTANCE_M):
        raise PayloadError(f"{name}: a track is not finite or too far away")
    points, velocity = rows[:, :3], rows[:, 3:]
    distance = np.maximum(np.linalg.norm(points, axis=1), 1e-6)
    radial = np.sum(points * velocity, axis=1) / distance
    return _returns(points, np.zeros(len(rows)), radial)


def _returns(points: NDArray[np.float64], rcs: NDArray[np.float64], radial: NDArray[np.float64]) -> Returns:
    return Returns(
        points_m=points.astype(np.float32),
        rcs_dbsm=rcs.astype(np.float32),
        radial_mps=radial.astype(np.float32),
        compensated_mps=None,
    )
