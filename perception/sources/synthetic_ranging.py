"""Lidar and radar of the synthetic drive: rays against the ground plane and boxes, in closed form.

All geometry is in the ego frame at the time of capture: the ground is z = 0 and boxes are upright.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import invert, transform_points
from perception.core.taxonomy import CLASSES
from perception.sources.synthetic_world import KINDS

BEAMS, COLUMNS = 32, 512
LOWEST_RAD, HIGHEST_RAD = np.radians(-30.67), np.radians(10.67)
LIDAR_RANGE_M = 70.0
RADAR_RANGE_M = 100.0
RADAR_HALF_FOV_RAD = np.radians(60.0)
LIDAR_DEPTH_M = 0.02
"""Returns lie this far inside the surface, so that rounding never puts one outside the box it came from."""
RADAR_DEPTH_M = 0.1
_GHOSTS = 2
_GROUND_REFLECTANCE = 0.08

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxesAt:
    """Boxes in the ego frame at one time. class_index: (K,); center_m, size_m: (K, 3); yaw_rad: (K,).

    velocity_mps: (K, 2) over ground, ego axes.
    """

    class_index: NDArray[np.int64]
    center_m: F64
    size_m: F64
    yaw_rad: F64
    velocity_mps: F64


class LidarReturns(NamedTuple):
    points_m: F32
    intensity: F32
    ring: NDArray[np.uint8]


class RadarReturns(NamedTuple):
    points_m: F32
    rcs_dbsm: F32
    radial_mps: F32
    compensated_mps: F32
    is_valid: NDArray[np.bool_]


class LidarPattern:
    """The rays of one lidar, mounted: directions (R, 3) in ego axes, ordered by azimuth so that a box sees few."""

    def __init__(self, ego_SE3_sensor: F64) -> None:
        elevation, azimuth = np.meshgrid(
            np.linspace(LOWEST_RAD, HIGHEST_RAD, BEAMS),
            np.arange(COLUMNS) * (2 * np.pi / COLUMNS) - np.pi,
            indexing="ij",
        )
        local = np.stack(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1
        )
        rays = local.reshape(-1, 3) @ ego_SE3_sensor[:3, :3].T
        turned = np.arctan2(rays[:, 1], rays[:, 0])
        order = np.argsort(turned, kind="stable")
        self._ego_SE3_sensor = ego_SE3_sensor
        self._rays = rays[order]
        self._azimuth = turned[order]
        self._ring = np.repeat(np.arange(BEAMS, dtype=np.uint8), COLUMNS)[order]
        down = np.minimum(self._rays[:, 2], -1e-9)
        self._ground_m = np.where(self._rays[:, 2] < -1e-9, -ego_SE3_sensor[2, 3] / down, np.inf)

    def cast(self, boxes: BoxesAt, rng: np.random.Generator) -> LidarReturns:
        """Nearest hits of all rays, in the lidar frame."""
        origin = self._ego_SE3_sensor[:3, 3]
        range_m = self._ground_m.copy()
        reflectance = np.full(len(range_m), _GROUND_REFLECTANCE)
        for i in range(len(boxes.class_index)):
            near = np.linalg.norm(boxes.center_m[i] - origin) - np.linalg.norm(boxes.size_m[i]) / 2
            if near > LIDAR_RANGE_M:
                continue
            rays = self._facing(boxes.center_m[i], boxes.size_m[i], origin)
            entry, leave = intersect(origin, self._rays[rays], boxes.center_m[i], boxes.size_m[i], boxes.yaw_rad[i])
            is_hit = (leave - entry > 1e-3) & (entry > 0) & (entry < range_m[rays])
            hit = rays[is_hit]
            range_m[hit] = np.minimum(entry + LIDAR_DEPTH_M, (entry + leave) / 2)[is_hit]
            reflectance[hit] = KINDS[CLASSES[boxes.class_index[i]]].reflectance
        seen = np.flatnonzero(range_m < LIDAR_RANGE_M)
        points = origin + self._rays[seen] * range_m[seen, None]
        noise = rng.uniform(0.9, 1.1, len(seen))
        return LidarReturns(
            points_m=transform_points(invert(self._ego_SE3_sensor), points).astype(np.float32),
            intensity=(reflectance[seen] * noise).astype(np.float32),
            ring=self._ring[seen],
        )

    def _facing(self, center: F64, size: F64, origin: F64) -> NDArray[np.int64]:
        """Indices of the rays whose azimuth may meet a box: those within its circumscribed circle."""
        offset = center[:2] - origin[:2]
        distance = float(np.linalg.norm(offset))
        radius = float(np.linalg.norm(size[:2])) / 2
        count = len(self._azimuth)
        if distance <= radius:
            return np.arange(count)
        middle, half = float(np.arctan2(offset[1], offset[0])), float(np.arcsin(radius / distance))
        first, last = np.searchsorted(self._azimuth, [middle - half, middle + half])
        # The wedge may reach over the seam at +-pi.
        before = np.searchsorted(self._azimuth, middle - half + 2 * np.pi)
        after = np.searchsorted(self._azimuth, middle + half - 2 * np.pi)
        return np.concatenate([np.arange(after), np.arange(first, last), np.arange(before, count)])


def intersect(origin: F64, rays: F64, center: F64, size: F64, yaw_rad: float) -> tuple[F64, F64]:
    """Distances (R,) at which rays (R, 3) from `origin` (3,) enter and leave a box; entry > leave where they miss."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    box_R_ego = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    local = rays @ box_R_ego.T
    local = np.where(np.abs(local) < 1e-12, 1e-12, local)
    start = box_R_ego @ (origin - center)
    one, other = (-size / 2 - start) / local, (size / 2 - start) / local
    entry: F64 = np.max(np.minimum(one, other), axis=1)
    leave: F64 = np.min(np.maximum(one, other), axis=1)
    return entry, leave


def scan_radar(
    ego_SE3_sensor: F64, boxes: BoxesAt, ego_velocity_mps: F64, yaw_rate_radps: float, rng: np.random.Generator
) -> RadarReturns:
    """One to three returns of each box in view, all at the height of the radar, and a few that fail the filters.

    Range rates are those of geometry: the ray times the difference of the target's and the mounted radar's velocity.
    """
    origin = ego_SE3_sensor[:3, 3]
    mount_mps = ego_velocity_mps + yaw_rate_radps * np.array([-origin[1], origin[0]])
    points, rcs, radial, ground = [], [], [], []
    for i, label in enumerate(boxes.class_index.tolist()):
        aims = boxes.center_m[i, :2] + rng.uniform(-0.3, 0.3, (int(rng.integers(1, 4)), 2)) * boxes.size_m[i, 1]
        rays = np.zeros((len(aims), 3))
        rays[:, :2] = aims - origin[:2]
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        entry, leave = intersect(origin, rays, boxes.center_m[i], boxes.size_m[i], boxes.yaw_rad[i])
        is_seen = (rays @ ego_SE3_sensor[:3, 0] > np.cos(RADAR_HALF_FOV_RAD)) & (entry > 0) & (leave > entry)
        is_seen &= entry < RADAR_RANGE_M
        depth = np.minimum(entry + RADAR_DEPTH_M, (entry + leave) / 2)
        points.append((origin + rays * depth[:, None])[is_seen])
        rcs.append(KINDS[CLASSES[label]].rcs_dbsm + rng.uniform(-2.0, 2.0, len(aims))[is_seen])
        ground.append((rays[:, :2] @ boxes.velocity_mps[i])[is_seen])
        radial.append((rays[:, :2] @ (boxes.velocity_mps[i] - mount_mps))[is_seen])
    seen_m = transform_points(invert(ego_SE3_sensor), np.concatenate(points))
    bearing = rng.uniform(-RADAR_HALF_FOV_RAD, RADAR_HALF_FOV_RAD, _GHOSTS)
    ghosts_m = rng.uniform(10.0, RADAR_RANGE_M, (_GHOSTS, 1)) * np.stack(
        [np.cos(bearing), np.sin(bearing), np.zeros(_GHOSTS)], axis=1
    )
    return RadarReturns(
        points_m=np.concatenate([seen_m, ghosts_m]).astype(np.float32),
        rcs_dbsm=np.concatenate([*rcs, rng.uniform(-5.0, 0.0, _GHOSTS)]).astype(np.float32),
        radial_mps=np.concatenate([*radial, rng.uniform(-20.0, 20.0, _GHOSTS)]).astype(np.float32),
        compensated_mps=np.concatenate([*ground, rng.uniform(-20.0, 20.0, _GHOSTS)]).astype(np.float32),
        is_valid=np.concatenate([np.ones(len(seen_m), dtype=bool), np.zeros(_GHOSTS, dtype=bool)]),
    )
