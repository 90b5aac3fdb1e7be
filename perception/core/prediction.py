"""Carries results on in time: what was seen at the reference time, moved to when somebody needs it.

Objects go on at their own velocity, the ego at constant velocity and yaw rate; everything is then seen from the ego
frame of the new time. Waypoints are places on the ground: they only change their frame, and those already passed go.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import integrate_twist, invert, rotation_from_yaw, transform_points, wrap_angle, yaw_of
from perception.core.results import Detections, PathHints, PerceptionResult

F64 = NDArray[np.float64]


def predict(result: PerceptionResult, at_ns: int) -> PerceptionResult:
    """The same result as it should look at `at_ns` (capture clock), earlier or later than what it is of.

    Where the result says nothing of the ego's motion the ego is taken to stand still.
    """
    duration_s = (at_ns - result.valid_ns) / 1e9
    old_SE3_new = integrate_twist(result.ego_velocity_mps or (0.0, 0.0), result.ego_yaw_rate_radps, duration_s)
    new_SE3_old = invert(old_SE3_new)
    pose = result.world_SE3_ego
    return replace(
        result,
        detections=move_detections(result.detections, new_SE3_old, duration_s),
        path_hints=move_hints(result.path_hints, new_SE3_old, duration_s),
        world_SE3_ego=None if pose is None else pose @ old_SE3_new,
        predicted_to_ns=at_ns,
    )


def move_detections(detections: Detections, new_SE3_old: F64, duration_s: float) -> Detections:
    """The same objects `duration_s` later, each gone on at its velocity, seen from the ego frame `new`."""
    center = detections.center_m.astype(np.float64)
    center[:, :2] += detections.velocity_mps * duration_s
    turn = float(yaw_of(new_SE3_old[:3, :3]))
    return replace(
        detections,
        center_m=transform_points(new_SE3_old, center).astype(np.float32),
        yaw_rad=wrap_angle(detections.yaw_rad + turn).astype(np.float32),
        velocity_mps=(detections.velocity_mps @ rotation_from_yaw(turn)[:2, :2].T).astype(np.float32),
    )


def move_hints(hints: PathHints, new_SE3_old: F64, duration_s: float) -> PathHints:
    """The same paths seen from the ego frame `new`, `duration_s` later, without the waypoints of the past."""
    times_s = hints.times_s - np.float32(duration_s)
    is_ahead = times_s > 0
    flat = hints.waypoints_m.reshape(-1, 2)
    points = np.column_stack([flat, np.zeros(len(flat))])
    moved = transform_points(new_SE3_old, points)[:, :2].reshape(hints.waypoints_m.shape)
    return replace(hints, waypoints_m=moved[:, is_ahead].astype(np.float32), times_s=times_s[is_ahead])
