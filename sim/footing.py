"""Puts bodies on the ground: poses from place, heading and the slope under four feet."""

import numpy as np
from numpy.typing import NDArray

from sim.maps.relief import Relief

F64 = NDArray[np.float64]


def footed(relief: Relief, center_m: F64, yaw_rad: F64, foot_m: F64, reach_m: F64) -> F64:
    """Transforms world_SE3_body (K, 4, 4) of bodies standing on the ground.

    center_m: (K, 2). foot_m: (K,) height over the ground. reach_m: (K, 2) half the wheelbase and half the track, over
    which the slope is taken.
    """
    count = len(yaw_rad)
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    pose = np.zeros((count, 4, 4))
    pose[:, :2, 3], pose[:, 3, 3] = center_m, 1.0
    if relief.is_flat:
        pose[:, 0, 0], pose[:, 0, 1], pose[:, 1, 0], pose[:, 1, 1], pose[:, 2, 2] = cos, -sin, sin, cos, 1.0
        pose[:, 2, 3] = relief.level_m + foot_m
        return pose
    along, across = np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)
    ahead, aside = along * reach_m[:, :1], across * reach_m[:, 1:]
    feet = np.stack([center_m + ahead, center_m - ahead, center_m + aside, center_m - aside], axis=1)
    front, rear, left, right = relief.at(feet).T
    x = np.column_stack([2 * ahead, front - rear])
    y = np.column_stack([2 * aside, left - right])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    z = np.cross(x, y)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    pose[:, :3, 0], pose[:, :3, 1], pose[:, :3, 2] = x, np.cross(z, x), z
    pose[:, 2, 3] = (front + rear) / 2 + foot_m
    return pose
