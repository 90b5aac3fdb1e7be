"""Rigid transforms as (4, 4) float64 matrices.

`dst_SE3_src` maps points given in `src` to `dst`, so that neighbours cancel:
`world_SE3_lidar = world_SE3_ego @ ego_SE3_lidar`. Quaternions are (w, x, y, z).
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

_SHORTEST = 1e-9
"""A quaternion that is not longer has no direction."""


def se3(rotation: ArrayLike | None = None, translation: ArrayLike | None = None) -> Float:
    """Build a (4, 4) transform from a (3, 3) rotation and a (3,) translation; what is left out is identity."""
    transform = np.eye(4)
    if rotation is not None:
        transform[:3, :3] = rotation
    if translation is not None:
        transform[:3, 3] = translation
    return transform


def se3_from_quaternion(quaternion_wxyz: Iterable[float], translation: Iterable[float]) -> Float:
    """One (4, 4) of a quaternion (4,) and a translation (3,). Raises ValueError on a zero quaternion.

    Number by number: poses come 100 times a second, and arrays of four take ten times as long.
    """
    w, x, y, z = map(float, quaternion_wxyz)
    norm = math.hypot(w, x, y, z)
    if not norm > _SHORTEST:
        raise ValueError("a quaternion of length zero has no rotation")
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    tx, ty, tz = map(float, translation)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), tx],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), ty],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), tz],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def se3_from_yaw(yaw_rad: float, translation: ArrayLike = (0.0, 0.0, 0.0)) -> Float:
    return se3(rotation_from_yaw(yaw_rad), translation)


def invert(transform: Float) -> Float:
    """Inverse of rigid transforms of shape (..., 4, 4), without a general matrix inversion."""
    rotation_t = np.swapaxes(transform[..., :3, :3], -1, -2)
    inverse = np.zeros_like(transform)
    inverse[..., :3, :3] = rotation_t
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation_t, transform[..., :3, 3])
    inverse[..., 3, 3] = 1.0
    return inverse


def transform_points(dst_SE3_src: Float, points: NDArray[Any]) -> NDArray[Any]:
    """Map points (..., 3) from `src` to `dst`; the dtype of the points is kept."""
    matrix = dst_SE3_src.astype(points.dtype, copy=False)
    moved: NDArray[Any] = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def rotation_from_yaw(yaw_rad: float) -> Float:
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def quaternion_to_rotation(quaternion_wxyz: ArrayLike) -> Float:
    """Rotations (..., 3, 3) of quaternions (..., 4), normalised first. Raises ValueError on a zero quaternion."""
    q = np.asarray(quaternion_wxyz, dtype=np.float64)
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    if not np.all(norm > _SHORTEST):
        raise ValueError("a quaternion of length zero has no rotation")
    w, x, y, z = np.moveaxis(q / norm, -1, 0)
    rotation = np.empty((*q.shape[:-1], 3, 3))
    rotation[..., 0, 0] = 1 - 2 * (y * y + z * z)
    rotation[..., 0, 1] = 2 * (x * y - z * w)
    rotation[..., 0, 2] = 2 * (x * z + y * w)
    rotation[..., 1, 0] = 2 * (x * y + z * w)
    rotation[..., 1, 1] = 1 - 2 * (x * x + z * z)
    rotation[..., 1, 2] = 2 * (y * z - x * w)
    rotation[..., 2, 0] = 2 * (x * z - y * w)
    rotation[..., 2, 1] = 2 * (y * z + x * w)
    rotation[..., 2, 2] = 1 - 2 * (x * x + y * y)
    return rotation


def rotation_to_quaternion(rotation: Float) -> Float:
    """Quaternion (4,) of a rotation (3, 3), with w >= 0 (Shepperd's method: the largest component first)."""
    m = rotation
    candidates = np.array([m[0, 0] + m[1, 1] + m[2, 2], m[0, 0], m[1, 1], m[2, 2]])
    largest = int(np.argmax(candidates))
    if largest == 0:
        w = np.sqrt(max(0.0, 1 + candidates[0])) / 2
        q = np.array([w, (m[2, 1] - m[1, 2]) / (4 * w), (m[0, 2] - m[2, 0]) / (4 * w), (m[1, 0] - m[0, 1]) / (4 * w)])
    else:
        i = largest - 1
        j, k = (i + 1) % 3, (i + 2) % 3
        root = np.sqrt(max(0.0, 1 + m[i, i] - m[j, j] - m[k, k]))
        q = np.empty(4)
        q[0] = (m[k, j] - m[j, k]) / (2 * root)
        q[1 + i] = root / 2
        q[1 + j] = (m[j, i] + m[i, j]) / (2 * root)
        q[1 + k] = (m[k, i] + m[i, k]) / (2 * root)
    unit: Float = q / np.linalg.norm(q)
    return -unit if unit[0] < 0 else unit


def quaternion_from_yaw(yaw_rad: ArrayLike) -> Float:
    """Quaternions (..., 4) that turn by `yaw_rad` (...) about z."""
    half = np.asarray(yaw_rad, dtype=np.float64) / 2
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], axis=-1)


def yaw_of(rotation: Float) -> Float:
    """Heading of the x axis of rotations (..., 3, 3) about z, in (-pi, pi]."""
    yaw: Float = np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])
    return yaw


def wrap_angle(angle_rad: NDArray[Any]) -> NDArray[Any]:
    """The same angles in [-pi, pi)."""
    wrapped: NDArray[Any] = (angle_rad + np.pi) % (2 * np.pi) - np.pi
    return wrapped


def rotation_log(rotation: Float) -> Float:
    """Rotation vectors (..., 3) of rotations (..., 3, 3): axis times angle, angle in [0, pi]."""
    skew = np.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        axis=-1,
    )
    sine = np.linalg.norm(skew, axis=-1) / 2
    angle = np.arctan2(sine, (np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2)
    log: Float = skew * np.where(sine > 1e-9, angle / np.where(sine > 1e-9, 2 * sine, 1.0), 0.5)[..., None]
    # Near half a turn the skew part vanishes and says little of the axis; the quaternion still does.
    for index in map(tuple, np.argwhere(angle > np.pi - 0.05)):
        w, *axis = rotation_to_quaternion(rotation[index])
        log[index] = np.array(axis) / np.linalg.norm(axis) * 2 * np.arctan2(np.linalg.norm(axis), w)
    return log


def rotation_exp(rotation_vector: Float) -> Float:
    """Rotations (..., 3, 3) of rotation vectors (..., 3) (Rodrigues' formula)."""
    angle = np.linalg.norm(rotation_vector, axis=-1)
    half = angle / 2
    scale = np.where(angle > 1e-12, np.sin(half) / np.where(angle > 1e-12, angle, 1.0), 0.5)
    quaternion = np.concatenate([np.cos(half)[..., None], rotation_vector * scale[..., None]], axis=-1)
    return quaternion_to_rotation(quaternion)


def interpolate_se3(start: Float, end: Float, fraction: ArrayLike) -> Float:
    """Transforms (..., 4, 4) between `start` and `end` (..., 4, 4): translation linear, rotation at constant rate.

    `fraction` (...) is 0 at `start` and 1 at `end`; values outside extrapolate at the same rate.
    """
    share = np.asarray(fraction, dtype=np.float64)
    step = rotation_log(np.swapaxes(start[..., :3, :3], -1, -2) @ end[..., :3, :3])
    moved = np.zeros((*share.shape, 4, 4))
    moved[..., :3, :3] = start[..., :3, :3] @ rotation_exp(share[..., None] * step)
    moved[..., :3, 3] = start[..., :3, 3] + share[..., None] * (end[..., :3, 3] - start[..., :3, 3])
    moved[..., 3, 3] = 1.0
    return moved


def integrate_twist(velocity_mps: ArrayLike, yaw_rate_radps: float, duration_s: ArrayLike) -> Float:
    """Ego pose after `duration_s` (...) at constant body velocity (2,) and yaw rate: start_SE3_end (..., 4, 4).

    Closed form of the planar arc; negative durations go back in time.
    """
    vx, vy = np.asarray(velocity_mps, dtype=np.float64)[:2]
    t = np.asarray(duration_s, dtype=np.float64)
    angle = yaw_rate_radps * t
    # sin(a)/a and (1 - cos(a))/a by numpy's sinc, which has no hole at 0.
    sine = np.sinc(angle / np.pi)
    versine = np.sinc(angle / (2 * np.pi)) * np.sin(angle / 2)
    moved = np.zeros((*t.shape, 4, 4))
    cos, sin = np.cos(angle), np.sin(angle)
    moved[..., 0, 0], moved[..., 0, 1] = cos, -sin
    moved[..., 1, 0], moved[..., 1, 1] = sin, cos
    moved[..., 2, 2] = moved[..., 3, 3] = 1.0
    moved[..., 0, 3] = t * (vx * sine - vy * versine)
    moved[..., 1, 3] = t * (vx * versine + vy * sine)
    return moved


def is_rotation(matrix: Float, tolerance: float = 1e-3) -> bool:
    """Whether a (3, 3) matrix is orthonormal and right-handed within `tolerance`."""
    if not np.isfinite(matrix).all():
        return False
    return bool(np.abs(matrix @ matrix.T - np.eye(3)).max() <= tolerance and np.linalg.det(matrix) > 0)
