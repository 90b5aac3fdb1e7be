"""The controllers that turn a path and a speed into steering and acceleration."""

import math

import numpy as np
from numpy.typing import NDArray

from sim.ego import VehicleSpec, VehicleState
from sim.obstacles import Obstacles
from sim.path import Path

F64 = NDArray[np.float64]

PREVIEW_S = 0.25
"""The wheels turn at a limited rate, so the bend this far ahead counts."""
HEADING_GAIN_PER_M = 0.55
OFFSET_GAIN_PER_M2 = 0.10
MAX_APPROACH_RAD = 0.35
"""Steepest angle at which a car off its path comes back to it."""

ASIDE_ROOM_M, MAX_ASIDE_M, ASIDE_AHEAD_M, ASIDE_RAMP_M = 0.5, 0.7, 22.0, 12.0
STANDING_MPS = 0.2

TIME_GAP_S = 1.5
STANDSTILL_GAP_M = 3.0
FREE_EXPONENT = 4


def steer_along(path: Path, s_m: float, offset_m: float, state: VehicleState, spec: VehicleSpec) -> float:
    """Front wheel angle that brings the rear axle back to a path and keeps it there.

    Feedback of offset and heading on the rear axle with the path's own curvature ahead (Paden et al., "A survey of
    motion planning and control techniques for self-driving urban vehicles", 2016, V.A.2), the gains falling with speed.
    """
    preview = PREVIEW_S * state.speed_mps
    _, heading, curvature = path.at(np.array([s_m, s_m + preview]))
    error = math.remainder(state.yaw_rad - float(heading[0]), 2 * math.pi)
    calm = 1.0 / (1.0 + (state.speed_mps / 12.0) ** 2)
    heading_gain, offset_gain = HEADING_GAIN_PER_M * math.sqrt(calm), OFFSET_GAIN_PER_M2 * calm
    approach = min(max(offset_m * offset_gain / heading_gain, -MAX_APPROACH_RAD), MAX_APPROACH_RAD)
    # The feed-forward fades where the car is far off: the bend is then not its own.
    bend = float(curvature[1]) * math.cos(error) / max(0.4, 1.0 - float(curvature[1]) * offset_m)
    return math.atan(spec.wheelbase_m * (bend - heading_gain * (error + approach)))


def room_beside(path: Path, s_m: float, others: Obstacles, width_m: float) -> float:
    """How far a car of that width, `s_m` along a path, keeps to its left (right: negative) to pass those who stand
    close beside it."""
    still = others.rows(others.speed_mps <= STANDING_MPS)
    if len(still) == 0:
        return 0.0
    corners = still.corners_m()
    outline = np.concatenate([corners, (corners + np.roll(corners, 1, axis=1)) / 2], axis=1)
    s, offset = path.project(outline.reshape(-1, 2), s_m)
    away = s.reshape(outline.shape[:2]) - s_m
    offset = offset.reshape(outline.shape[:2])
    rising = np.clip((ASIDE_AHEAD_M - away) / ASIDE_RAMP_M, 0.0, 1.0)
    nearness = np.minimum(rising, np.clip(1.0 + (away + 2.0) / ASIDE_RAMP_M, 0.0, 1.0)).max(axis=1)
    inner = np.abs(offset).min(axis=1) - width_m / 2
    lies_left = (offset > 0).all(axis=1)
    is_beside = (lies_left | (offset < 0).all(axis=1)) & (inner < ASIDE_ROOM_M) & (inner > ASIDE_ROOM_M - MAX_ASIDE_M)
    need = np.where(is_beside, nearness * (ASIDE_ROOM_M - inner), 0.0)
    to_right, to_left = need[lies_left].max(initial=0.0), need[~lies_left].max(initial=0.0)
    # Between two of them the middle.
    return float(to_left - to_right) if min(to_left, to_right) == 0.0 else float(to_left - to_right) / 2


def idm(speed_mps: float, wanted_mps: float, gap_m: float, leader_mps: float, spec: VehicleSpec) -> float:
    """Acceleration behind a leader `gap_m` ahead, or freely where the gap is infinite.

    Treiber, Hennecke, Helbing: "Congested traffic states in empirical observations and microscopic simulations", 2000.
    """
    acceleration, braking = spec.max_acceleration_mps2 * 0.8, spec.comfort_deceleration_mps2 * 0.7
    if speed_mps <= wanted_mps:
        free = acceleration * (1 - (speed_mps / max(wanted_mps, 0.1)) ** FREE_EXPONENT)
    else:
        free = -braking * min(2.0, speed_mps - wanted_mps)
    if not math.isfinite(gap_m):
        return free
    closing = speed_mps * (speed_mps - leader_mps) / (2 * math.sqrt(acceleration * braking))
    desired = STANDSTILL_GAP_M + max(0.0, speed_mps * TIME_GAP_S + closing)
    return min(free, acceleration * (1 - (desired / max(gap_m, 0.1)) ** 2))


def along_profile(path: Path, profile_mps: F64, s_m: float, speed_mps: float) -> float:
    """Highest acceleration that meets a speed profile (N,) along a path a little ahead."""
    reach = np.array([0.4, 0.8]) * max(speed_mps, 2.0)
    ahead = path.sample(profile_mps, s_m + reach)
    return float(np.min((ahead**2 - speed_mps**2) / (2 * reach)))


def stop_in(speed_mps: float, distance_m: float) -> float:
    """Constant acceleration (negative) that ends at standstill after `distance_m`."""
    return -speed_mps * speed_mps / (2 * max(distance_m, 0.05))
