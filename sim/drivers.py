"""Who drives the ego in the closed loop: the oracle, the service's path hints, or nobody much (constant speed)."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import ConfigError
from perception.core.geometry import transform_points
from perception.core.messages import Signal
from perception.core.results import PathHints
from sim.control import idm, steer_along, stop_in
from sim.ego import DriveTarget
from sim.oracle import OracleDriver
from sim.path import STEP_M, Path
from sim.situation import Driver, Heard, Situation

F64 = NDArray[np.float64]

STALE_S = 1.0
"""Hints older than this are not followed: the ego brakes to a standstill in its lane."""
MIN_SCORE = 0.3
"""Detections below never brake."""
BRAKE_AT_MPS2 = 3.0
"""The emergency brake acts where avoiding a collision needs more than this."""
BRAKE_MARGIN_M = 1.5
SIDE_MARGIN_M = 0.2
PATIENCE_S = 4.0
"""Who has stood for so long creeps at `CREEP_MPS`."""
CREEP_MPS = 2.0
STANDING_MPS = 0.2
RED_WITHIN_M = 30.0
"""A red light this near is a reason to stand."""
STRAIGHT_ON_M: Final = np.array([[0.0, 0.0], [10.0, 0.0]])


class ConstantDriver:
    """Goes straight on at the speed it began with, or at the route's limit there: the lower bound."""

    def act(self, situation: Situation) -> DriveTarget:
        wanted = situation.start.speed_mps or float(situation.path.limit_mps[0])
        return DriveTarget(steer_rad=0.0, acceleration_mps2=wanted - situation.state.speed_mps)


class HintsDriver:
    """Follows the service's best path mode at its target speed, with an emergency brake from its detections.

    Who has stood for a while with nothing in the way creeps: a network that learned from drivers takes standing for a
    reason to stand, and would never move again (the inertia problem of imitation: Codevilla et al., "Exploring the
    limitations of behavior cloning for autonomous driving", ICCV 2019).
    """

    def __init__(self) -> None:
        self._standing_since_ns: int | None = None

    def act(self, situation: Situation) -> DriveTarget:
        state, spec, heard = situation.state, situation.spec, situation.heard
        if heard is None:
            return DriveTarget(steer_rad=state.steer_rad, acceleration_mps2=-spec.comfort_deceleration_mps2)
        age_s = (state.time_ns - heard.result.reference_ns) / 1e9
        creeps = self._creeps(situation)
        path = hinted_path(heard.result.path_hints, heard.world_SE3_ego, must_move=creeps)
        if path is None or age_s > STALE_S:
            steer = state.steer_rad if path is None else _steer(path, situation)
            return DriveTarget(steer_rad=steer, acceleration_mps2=-spec.comfort_deceleration_mps2)
        wanted = max(CREEP_MPS if creeps else 0.0, heard.result.path_hints.target_speed_mps)
        acceleration = idm(state.speed_mps, wanted, math.inf, 0.0, spec) if wanted > 0.2 else -1.5
        speed_mps = max(CREEP_MPS if creeps else 0.0, state.speed_mps)
        # Who creeps passes what he would not pass at speed: parked cars are a hand's breadth away in narrow streets.
        margin_m = 0.0 if creeps else SIDE_MARGIN_M
        brake = emergency_brake(heard, path, situation, age_s, speed_mps, margin_m)
        return DriveTarget(steer_rad=_steer(path, situation), acceleration_mps2=min(acceleration, brake))

    def _creeps(self, situation: Situation) -> bool:
        """Whether the ego has stood for so long, before no light that is red, that it moves on slowly."""
        state, ahead = situation.state, situation.ahead
        waits = ahead.signal is Signal.RED and ahead.line_m < RED_WITHIN_M
        if waits or state.speed_mps > CREEP_MPS:
            self._standing_since_ns = None
        elif state.speed_mps < STANDING_MPS and self._standing_since_ns is None:
            self._standing_since_ns = state.time_ns
        since = self._standing_since_ns
        return since is not None and state.time_ns - since > PATIENCE_S * 1e9


def hinted_path(hints: PathHints, world_SE3_ego: F64, *, must_move: bool = False) -> Path | None:
    """The most confident mode as a path in the world, None where it hardly leaves the spot.

    must_move: the most confident of those that do; straight on where none does.
    """
    if len(hints.confidence) == 0:
        return None
    lines = [_line(mode) for mode in hints.waypoints_m.astype(np.float64)[np.argsort(-hints.confidence)]]
    moving = [line for line in lines if np.linalg.norm(np.diff(line, axis=0), axis=1).sum() >= 4 * STEP_M]
    if must_move:
        line = moving[0] if moving else STRAIGHT_ON_M
    elif moving and moving[0] is lines[0]:
        line = lines[0]
    else:
        return None
    world = transform_points(world_SE3_ego, np.column_stack([line, np.zeros(len(line))]))
    return Path.along(world, 0.0)


def _line(mode: F64) -> F64:
    """From the ego along the waypoints (W, 2) that are numbers."""
    return np.concatenate([np.zeros((1, 2)), mode[np.all(np.isfinite(mode), axis=1)]])


def emergency_brake(
    heard: Heard, path: Path, situation: Situation, age_s: float, speed_mps: float, margin_m: float = SIDE_MARGIN_M
) -> float:
    """Deceleration (negative) that detections on the hinted path call for at a speed; infinite where none does."""
    detections, spec, state = heard.result.detections, situation.spec, situation.state
    keep = detections.score >= MIN_SCORE
    if not keep.any():
        return math.inf
    center = detections.center_m[keep].astype(np.float64)
    rotation = heard.world_SE3_ego[:2, :2]
    velocity = np.nan_to_num(detections.velocity_mps[keep].astype(np.float64)) @ rotation.T
    world = transform_points(heard.world_SE3_ego, center)[:, :2] + velocity * age_s
    s, offset = path.project(world)
    own_s, _ = path.project(np.array([[state.x_m, state.y_m]]))
    half = detections.size_m[keep, :2].astype(np.float64) / 2
    lies_on = np.abs(offset) < np.minimum(half[:, 1], 1.5) + spec.width_m / 2 + margin_m
    gap = s - own_s[0] - spec.front_m - half[:, 0] - BRAKE_MARGIN_M
    is_ahead = lies_on & (s > own_s[0] + spec.front_m) & (s < path.length_m)
    if not is_ahead.any():
        return math.inf
    forward = np.array([math.cos(state.yaw_rad), math.sin(state.yaw_rad)])
    closing = np.maximum(0.0, speed_mps - velocity[is_ahead] @ forward)
    needed = min(stop_in(float(c), float(g)) for c, g in zip(closing, gap[is_ahead], strict=True))
    return -spec.max_deceleration_mps2 if needed < -BRAKE_AT_MPS2 else math.inf


def _steer(path: Path, situation: Situation) -> float:
    state = situation.state
    s, offset = path.project(np.array([[state.x_m, state.y_m]]))
    return steer_along(path, float(s[0]), float(offset[0]), state, situation.spec)


DRIVERS: Final[dict[str, Callable[[], Driver]]] = {
    "oracle": OracleDriver,
    "hints": HintsDriver,
    "constant": ConstantDriver,
}


def make_driver(name: str) -> Driver:
    """Raises ConfigError on an unknown name."""
    if name not in DRIVERS:
        raise ConfigError(f"driver: {name!r} is not known; choose one of {', '.join(DRIVERS)}")
    return DRIVERS[name]()
