"""The world of the synthetic drive: a flat road along an arc, the ego on it, boxes that move at constant velocity."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception.core.geometry import integrate_twist, se3_from_yaw, yaw_of
from perception.core.taxonomy import ATTRIBUTE_INDEX, CLASSES, NO_ATTRIBUTE

EGO_SPEED_MPS = 8.0
EGO_YAW_RATE_RADPS = 0.04
LANE_M = 3.5
MIN_GAP_M = 1.0
_TRIES = 100

F64 = NDArray[np.float64]


class Kind(NamedTuple):
    """How objects of one class look and move. lateral_m: distance from the ego's path, to either side."""

    category: str
    size_m: tuple[float, float, float]
    speed_mps: float
    lateral_m: tuple[float, float]
    moving: str | None
    standing: str | None
    rcs_dbsm: float
    reflectance: float


KINDS: Final[dict[str, Kind]] = {
    "car": Kind("vehicle.car", (4.6, 1.9, 1.7), 7.0, (3.2, 7.0), "vehicle.moving", "vehicle.parked", 12.0, 0.35),
    "truck": Kind("vehicle.truck", (7.0, 2.5, 2.9), 6.0, (3.5, 7.5), "vehicle.moving", "vehicle.parked", 20.0, 0.4),
    "bus": Kind("vehicle.bus.rigid", (11.0, 2.9, 3.4), 6.0, (3.7, 7.7), "vehicle.moving", "vehicle.stopped", 24.0, 0.4),
    "trailer": Kind("vehicle.trailer", (9.0, 2.6, 3.5), 5.0, (7.0, 9.0), "vehicle.moving", "vehicle.parked", 20.0, 0.4),
    "construction_vehicle": Kind(
        "vehicle.construction", (6.2, 2.8, 3.0), 2.0, (8.0, 12.0), "vehicle.moving", "vehicle.parked", 18.0, 0.3
    ),
    "pedestrian": Kind(
        "human.pedestrian.adult",
        (0.7, 0.7, 1.75),
        1.3,
        (5.0, 14.0),
        "pedestrian.moving",
        "pedestrian.standing",
        -3.0,
        0.2,
    ),
    "motorcycle": Kind(
        "vehicle.motorcycle", (2.1, 0.8, 1.5), 7.0, (2.8, 6.0), "cycle.with_rider", "cycle.without_rider", 4.0, 0.25
    ),
    "bicycle": Kind(
        "vehicle.bicycle", (1.8, 0.6, 1.4), 4.0, (4.0, 8.0), "cycle.with_rider", "cycle.without_rider", 0.0, 0.25
    ),
    "traffic_cone": Kind("movable_object.trafficcone", (0.45, 0.45, 0.9), 0.0, (2.5, 6.0), None, None, -5.0, 0.7),
    "barrier": Kind("movable_object.barrier", (0.6, 2.4, 1.0), 0.0, (6.0, 10.0), None, None, 2.0, 0.5),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """K boxes that stand on the ground z = 0. class_index, attribute_index: (K,) int64; size_m: (K, 3) l, w, h.

    start_center_m: (K, 3) at time 0; velocity_mps: (K, 2) and yaw_rad: (K,) in the world.
    """

    world_SE3_start: F64
    class_index: NDArray[np.int64]
    attribute_index: NDArray[np.int64]
    size_m: F64
    start_center_m: F64
    yaw_rad: F64
    velocity_mps: F64

    def ego_at(self, time_s: ArrayLike) -> F64:
        """world_SE3_ego (..., 4, 4) at times (...)."""
        return ego_path(self.world_SE3_start, time_s)

    def centers_at(self, time_s: float) -> F64:
        """(K, 3) in the world."""
        moved = self.start_center_m.copy()
        moved[:, :2] += self.velocity_mps * time_s
        return moved


def ego_path(world_SE3_start: F64, time_s: ArrayLike) -> F64:
    """world_SE3_ego (..., 4, 4) along the arc; also before the start and beyond the end."""
    path: F64 = world_SE3_start @ integrate_twist((EGO_SPEED_MPS, 0.0), EGO_YAW_RATE_RADPS, time_s)
    return path


def make_world(rng: np.random.Generator, duration_s: float) -> World:
    """Scatter boxes along the ego's path so that none comes near the ego or another; every class is near the start."""
    start = se3_from_yaw(rng.uniform(-np.pi, np.pi), (*rng.uniform(-500.0, 500.0, 2), 0.0))
    times_s = np.arange(0.0, duration_s + 0.5, 0.25)
    ego_xy = ego_path(start, times_s)[:, :2, 3]
    tracks: list[F64] = [ego_xy]
    radii: list[float] = [3.5]
    boxes: list[tuple[int, int, F64, F64, float, F64]] = []
    for number in range(24 + round(2 * duration_s)):
        label = number if number < len(CLASSES) else int(rng.integers(len(CLASSES)))
        farthest_m = 35.0 if number < len(CLASSES) else duration_s * EGO_SPEED_MPS + 50.0
        for _ in range(_TRIES):
            attribute, size, center, yaw, velocity = _scatter(rng, start, CLASSES[label], farthest_m)
            track = center[:2] + velocity * times_s[:, None]
            radius = float(np.hypot(*size[:2])) / 2
            gaps = np.linalg.norm(np.stack(tracks) - track, axis=2) - np.array(radii)[:, None] - radius
            if np.all(gaps > MIN_GAP_M):
                tracks.append(track)
                radii.append(radius)
                boxes.append((label, attribute, size, center, yaw, velocity))
                break
    labels, attributes, sizes, centers, yaws, velocities = zip(*boxes, strict=True)
    return World(
        world_SE3_start=start,
        class_index=np.array(labels, dtype=np.int64),
        attribute_index=np.array(attributes, dtype=np.int64),
        size_m=np.stack(sizes),
        start_center_m=np.stack(centers),
        yaw_rad=np.array(yaws, dtype=np.float64),
        velocity_mps=np.stack(velocities),
    )


def _scatter(rng: np.random.Generator, start: F64, label: str, farthest_m: float) -> tuple[int, F64, F64, float, F64]:
    """One candidate: attribute index, size, centre, yaw and velocity."""
    kind = KINDS[label]
    size = np.array(kind.size_m) * rng.uniform(0.9, 1.1, 3)
    side = rng.choice((-1.0, 1.0))
    pose = ego_path(start, rng.uniform(-10.0, farthest_m) / EGO_SPEED_MPS)
    position = pose[:3, 3] + pose[:3, 1] * side * rng.uniform(*kind.lateral_m)
    # Left-hand neighbours come towards the ego; who is not bound to a lane looks anywhere.
    turn = rng.uniform(-np.pi, np.pi) if label in ("pedestrian", "barrier") else np.pi * (side > 0)
    yaw = float(yaw_of(pose[:3, :3])) + turn
    is_moving = kind.moving is not None and rng.random() < 0.6
    speed = kind.speed_mps * rng.uniform(0.6, 1.2) if is_moving else 0.0
    name = kind.moving if is_moving else kind.standing
    attribute = NO_ATTRIBUTE if name is None else ATTRIBUTE_INDEX[name]
    center = np.array([position[0], position[1], size[2] / 2])
    return attribute, size, center, yaw, speed * np.array([np.cos(yaw), np.sin(yaw)])
