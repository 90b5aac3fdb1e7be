"""Synthetic drives with annotations in the world frame and detections in the ego frame, for the golden files.

Runs in the environment of the nuscenes-devkit: numpy alone, nothing of this project.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

PERIOD_S = 0.5
CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction",
    "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}
RACK = "static_object.bicycle_rack"
SIZES_LWH = {
    "car": (4.6, 1.9, 1.7),
    "truck": (7.0, 2.5, 2.9),
    "bus": (11.0, 2.9, 3.5),
    "trailer": (12.0, 2.9, 3.9),
    "construction_vehicle": (6.4, 2.8, 3.2),
    "pedestrian": (0.7, 0.7, 1.8),
    "motorcycle": (2.1, 0.8, 1.5),
    "bicycle": (1.7, 0.6, 1.3),
    "traffic_cone": (0.4, 0.4, 1.1),
    "barrier": (0.5, 2.5, 1.0),
}
ATTRIBUTES = {
    **dict.fromkeys(("car", "truck", "bus", "trailer", "construction_vehicle"), ("vehicle.moving", "vehicle.parked")),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    **dict.fromkeys(("motorcycle", "bicycle"), ("cycle.with_rider", "cycle.without_rider")),
    **dict.fromkeys(("traffic_cone", "barrier"), ("", "")),
}
SPEEDS = {"car": 9.0, "truck": 7.0, "bus": 6.0, "trailer": 7.0, "pedestrian": 1.3, "motorcycle": 8.0, "bicycle": 4.0}


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """A box in the world frame; velocity is that of its motion, for detections to start from."""

    instance: str
    name: str
    center_m: tuple[float, float, float]
    size_m: tuple[float, float, float]
    yaw_rad: float
    velocity_mps: tuple[float, float] = (0.0, 0.0)
    attribute: str = ""
    num_lidar_points: int = 12
    num_radar_points: int = 1


@dataclass(frozen=True, kw_only=True)
class Detected:
    """A box in the ego frame. Its numbers are rounded, and are meant as float32."""

    name: str
    score: float
    center_m: tuple[float, float, float]
    size_m: tuple[float, float, float]
    yaw_rad: float
    velocity_mps: tuple[float, float]
    attribute: str
    track_id: int = -1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """world_SE3_ego: (4, 4) with z = 0."""

    world_SE3_ego: F64
    annotations: tuple[Annotation, ...]
    detections: tuple[Detected, ...] = ()


Drive = list[Sample]


def rotation(yaw_rad: float, pitch_rad: float = 0.0, roll_rad: float = 0.0) -> F64:
    """Rz(yaw) Ry(pitch) Rx(roll), (3, 3)."""
    cy, sy, cp, sp = math.cos(yaw_rad), math.sin(yaw_rad), math.cos(pitch_rad), math.sin(pitch_rad)
    cr, sr = math.cos(roll_rad), math.sin(roll_rad)
    about_z = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    about_y = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    turned: F64 = about_z @ about_y @ np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    return turned


def pose(x_m: float, y_m: float, turned: F64) -> F64:
    """world_SE3_ego of an ego on the ground."""
    transform = np.eye(4)
    transform[:3, :3], transform[:2, 3] = turned, (x_m, y_m)
    return transform


def random_drive(
    rng: np.random.Generator,
    num_samples: int,
    counts: Mapping[str, int],
    *,
    tilt_rad: float = 0.0,
    reach_m: float = 45.0,
) -> Drive:
    """An ego on a bend among objects at constant velocity, each annotated for a part of the drive."""
    start, heading = rng.uniform(-40, 40, 2), rng.uniform(-math.pi, math.pi)
    poses = []
    for k in range(num_samples):
        yaw = heading + 0.04 * k
        pitch, roll = rng.normal(0, tilt_rad, 2)
        ahead = 3.0 * k * np.array([math.cos(heading + 0.02 * k), math.sin(heading + 0.02 * k)])
        x, y = start + ahead
        poses.append(pose(x, y, rotation(yaw, pitch, roll)))
    tracks = [
        track
        for name, count in counts.items()
        for n in range(count)
        for track in [_random_track(rng, f"{name}-{n}", name, poses, reach_m)]
    ]
    return [
        Sample(world_SE3_ego=poses[k], annotations=tuple(track[k] for track in tracks if k in track))
        for k in range(num_samples)
    ]


def _random_track(
    rng: np.random.Generator, instance: str, name: str, poses: list[F64], reach_m: float
) -> dict[int, Annotation]:
    first = int(rng.integers(0, len(poses) // 2))
    last = int(rng.integers(first, len(poses)))
    is_moving = bool(rng.random() < 0.6) and name in SPEEDS
    yaw = rng.uniform(-math.pi, math.pi)
    velocity = SPEEDS.get(name, 0.0) * is_moving * np.array([math.cos(yaw), math.sin(yaw)])
    reach = min(28.0, reach_m) if name in ("traffic_cone", "barrier") else reach_m
    begin = poses[first][:2, 3] + rng.uniform(-reach, reach, 2)
    place = [begin + velocity * PERIOD_S * k for k in range(len(poses))]
    size = _triple(np.array(SIZES_LWH[name]) * rng.uniform(0.9, 1.1, 3))
    attribute = ATTRIBUTES[name][0 if is_moving else 1]
    return {
        k: Annotation(
            instance=instance,
            name=name,
            center_m=(float(place[k - first][0]), float(place[k - first][1]), round(size[2] / 2, 3)),
            size_m=size,
            yaw_rad=yaw,
            velocity_mps=(float(velocity[0]), float(velocity[1])),
            attribute="" if rng.random() < 0.03 else attribute,
            num_lidar_points=int(rng.integers(0, 30)) if rng.random() < 0.8 else 0,
            num_radar_points=int(rng.integers(0, 3)),
        )
        for k in range(first, last + 1)
    }


def seen(sample: Sample, annotation: Annotation, score: float, track_id: int = -1) -> Detected:
    """The detection that says what the annotation says; without an attribute it guesses the class's first."""
    ego_R_world = sample.world_SE3_ego[:3, :3].T
    center = ego_R_world @ (np.array(annotation.center_m) - sample.world_SE3_ego[:3, 3])
    heading = ego_R_world @ rotation(annotation.yaw_rad)[:, 0]
    velocity = ego_R_world @ np.array([*annotation.velocity_mps, 0.0])
    return Detected(
        name=annotation.name,
        score=score,
        center_m=_triple(center),
        size_m=annotation.size_m,
        yaw_rad=round(math.atan2(heading[1], heading[0]), 5),
        velocity_mps=(round(float(velocity[0]), 4), round(float(velocity[1]), 4)),
        attribute=annotation.attribute or ATTRIBUTES[annotation.name][0],
        track_id=track_id,
    )


def blurred(rng: np.random.Generator, detected: Detected, spread: float = 0.5) -> Detected:
    """The same box, off by a realistic amount."""
    others = ATTRIBUTES[detected.name]
    vx, vy = np.array(detected.velocity_mps) + rng.normal(0, 0.8 * spread, 2)
    size = np.array(detected.size_m) * np.exp(rng.normal(0, 0.15, 3))
    return replace(
        detected,
        center_m=_triple(np.array(detected.center_m) + rng.normal(0, spread, 3)),
        size_m=_triple(size),
        yaw_rad=round(detected.yaw_rad + rng.normal(0, 0.2) + math.pi * bool(rng.random() < 0.06), 5),
        velocity_mps=(round(float(vx), 4), round(float(vy), 4)),
        attribute=others[int(rng.random() < 0.5)] if rng.random() < 0.3 else detected.attribute,
    )


def imagined(rng: np.random.Generator, score: float, track_id: int = -1) -> Detected:
    """A box where nothing is."""
    name = str(rng.choice(list(CATEGORIES)))
    return Detected(
        name=name,
        score=score,
        center_m=_triple(np.array([*rng.uniform(-45, 45, 2), 0.8])),
        size_m=SIZES_LWH[name],
        yaw_rad=round(float(rng.uniform(-math.pi, math.pi)), 5),
        velocity_mps=(0.0, round(float(rng.normal()), 4)),
        attribute=ATTRIBUTES[name][1],
        track_id=track_id,
    )


def _triple(values: F64) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 4) for value in values)
    return x, y, z
