"""Where PandaSet's sensors sit on the vehicle, measured on a sequence: camera mounts and height above the road."""

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.geometry import invert, rotation_log, se3
from perception.sources.pandaset_files import Track

F64 = NDArray[np.float64]

MAX_MOUNT_SPREAD_M = 0.1
MAX_MOUNT_SPREAD_RAD = float(np.radians(1.0))
"""Measured on sequence 002: 15 mm and 0.09 degrees."""

_LANE_HALF_WIDTH_M = 1.2
_NEAR_M, _FAR_M = 3, 14
_MIN_SLICES, _MIN_SLICE_POINTS = 3, 10
_HEIGHTS_M = (0.1, 1.0)


def rigid_mount(camera: str, poses: Track, track: Track) -> F64:
    """pose_SE3_camera (4, 4): where a camera sits, from its own world poses and the vehicle's at the same times.

    The median over the sequence. Raises DriveError where the poses do not belong to a rigid mount.
    """
    mounts = np.array(
        [
            invert(poses.at(int(time_ns))) @ world_SE3_camera
            for time_ns, world_SE3_camera in zip(track.times_ns, track.world_SE3_sensor, strict=True)
        ]
    )
    position = np.median(mounts[:, :3, 3], axis=0)
    u, _, vt = np.linalg.svd(mounts[:, :3, :3].mean(axis=0))
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    spread_m = float(np.max(np.linalg.norm(mounts[:, :3, 3] - position, axis=1)))
    spread_rad = float(np.max(np.linalg.norm(rotation_log(rotation.T @ mounts[:, :3, :3]), axis=1)))
    if spread_m > MAX_MOUNT_SPREAD_M or spread_rad > MAX_MOUNT_SPREAD_RAD:
        raise DriveError(
            f"camera/{camera}/poses.json: the camera moves on the vehicle by {spread_m:.2f} m and "
            f"{np.degrees(spread_rad):.1f} degrees; its poses, its timestamps or those of the lidar are wrong"
        )
    return se3(rotation, position)


def road_height(points_pose_m: F64) -> float | None:
    """Height in metres of the poses' origin above the road, None where too little road is seen.

    points_pose_m: (N, 3) in the poses' frame (y forward). The vehicle's own lane, ahead and behind, is cut into slices
    of a metre; the road is the low end of each (cars stand on it), and the median slice decides.
    """
    distance = np.abs(points_pose_m[:, 1])
    is_near = (
        (np.abs(points_pose_m[:, 0]) < _LANE_HALF_WIDTH_M)
        & (distance > _NEAR_M)
        & (distance < _FAR_M)
        & (points_pose_m[:, 2] < 0.0)
        & (points_pose_m[:, 2] > -_HEIGHTS_M[1])
    )
    near = points_pose_m[is_near]
    slices = np.floor(near[:, 1]).astype(np.int64)
    lows = [
        float(np.percentile(near[slices == place, 2], 10))
        for place in np.unique(slices)
        if np.count_nonzero(slices == place) >= _MIN_SLICE_POINTS
    ]
    if len(lows) < _MIN_SLICES:
        return None
    height = -float(np.median(lows))
    return height if _HEIGHTS_M[0] <= height <= _HEIGHTS_M[1] else None
