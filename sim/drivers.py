"""Who drives the ego in the closed loop: the oracle, the service's path hints, or nobody much (constant speed)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import ConfigError
from perception.core.geometry import transform_points, yaw_of
from perception.core.messages import Signal
from perception.core.results import PathHints
from sim.control import STANDING_MPS, idm, room_beside, steer_along, stop_in
from sim.ego import DriveTarget
from sim.obstacles import ON_FOOT, Obstacles
from sim.oracle import OracleDriver
from sim.path import STEP_M, Path
from sim.situation import Driver, Heard, Situation

F64 = NDArray[np.float64]

STALE_S = 1.0
"""Hints older than this are not followed: the ego brakes to a standstill in its lane."""
MIN_SCORE = 0.3
"""Detections below never brake."""
SURELY_MOVES_MPS = 0.7
"""Detections that seem slower stand: their velocity is no better known."""
BRAKE_AT_MPS2 = 3.0
"""The emergency brake acts where avoiding a collision needs more than this."""
BRAKE_MARGIN_M = 1.5
SIDE_MARGIN_M = 0.2
PATIENCE_S = 4.0
"""Who has stood for so long creeps at `CREEP_MPS`."""
CREEP_MPS = 2.0
RED_WITHIN_M = 30.0
"""A red light this near is a reason to stand."""
ONWARD_M = 8.0
STRAIGHT_ON_M: Final = np.array([[0.0, 0.0], [10.0, 0.0]])


class ConstantDriver:
    """Goes straight on at the speed it began with, or at the route's limit there: the lower bound."""

    def act(self, situation: Situation) -> DriveTarget:
        wanted = situation.start.speed_mps or float(situation.path.limit_mps[0])
        return DriveTarget(steer_rad=0.0, acceleration_mps2=wanted - situation.state.speed_mps)


class HintsDriver:
    """Follows the service's best path mode at its target speed, keeps the room beside it that the oracle keeps, and
    has an emergency brake; for both it knows of others what was detected.

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
        hints, creeps = heard.result.path_hints, self._creeps(situation)
        paths = hinted_paths(hints, heard.world_SE3_ego, must_move=creeps)
        seen = detected(heard, age_s)
        ways = [_Way.along(path, situation, seen) for path in paths]
        if not ways or age_s > STALE_S:
            steer_rad = ways[0].steer_rad if ways else state.steer_rad
            return DriveTarget(steer_rad=steer_rad, acceleration_mps2=-spec.comfort_deceleration_mps2)
        least_mps = CREEP_MPS if creeps else 0.0
        # Who creeps passes what he would not pass at speed: parked cars are a hand's breadth away in narrow streets.
        margin_m = 0.0 if creeps else SIDE_MARGIN_M
        brakes = [way.emergency_brake(seen, situation, max(least_mps, state.speed_mps), margin_m) for way in ways]
        free = brakes.index(math.inf) if math.inf in brakes else 0
        wanted = max(least_mps, hints.target_speed_mps)
        acceleration = idm(state.speed_mps, wanted, math.inf, 0.0, spec) if wanted > STANDING_MPS else -1.5
        return DriveTarget(steer_rad=ways[free].steer_rad, acceleration_mps2=min(acceleration, brakes[free]))

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Way:
    """A path from where the ego is, `s_m` along it, driven `aside_m` to its left."""

    path: Path
    s_m: float
    aside_m: float
    steer_rad: float

    @classmethod
    def along(cls, path: Path, situation: Situation, seen: Obstacles) -> "_Way":
        state, spec = situation.state, situation.spec
        s, offset = path.project(np.array([[state.x_m, state.y_m]]))
        aside_m = room_beside(path, float(s[0]), seen, spec.width_m)
        steer_rad = steer_along(path, float(s[0]), float(offset[0]) - aside_m, state, spec)
        return cls(path=path, s_m=float(s[0]), aside_m=aside_m, steer_rad=steer_rad)

    def emergency_brake(self, seen: Obstacles, situation: Situation, speed_mps: float, margin_m: float) -> float:
        """Deceleration (negative) that those on the way call for at a speed; infinite where nobody does."""
        state, spec = situation.state, situation.spec
        if not len(seen):
            return math.inf
        s, offset = self.path.project(seen.center_m)
        lies_on = np.abs(offset - self.aside_m) < np.minimum(seen.half_m[:, 1], 1.5) + spec.width_m / 2 + margin_m
        gap = s - self.s_m - spec.front_m - seen.half_m[:, 0] - BRAKE_MARGIN_M
        is_ahead = lies_on & (s > self.s_m + spec.front_m) & (s < self.path.length_m)
        if not is_ahead.any():
            return math.inf
        forward = np.array([math.cos(state.yaw_rad), math.sin(state.yaw_rad)])
        closing = np.maximum(0.0, speed_mps - seen.velocity_mps[is_ahead] @ forward)
        needed = min(stop_in(float(c), float(g)) for c, g in zip(closing, gap[is_ahead], strict=True))
        return -spec.max_deceleration_mps2 if needed < -BRAKE_AT_MPS2 else math.inf


def hinted_paths(hints: PathHints, world_SE3_ego: F64, *, must_move: bool = False) -> list[Path]:
    """The most confident mode as a path in the world, nothing where it hardly leaves the spot.

    must_move: all modes that do, the most confident first; straight on where none does.
    """
    if len(hints.confidence) == 0:
        return []
    lines = [_line(mode) for mode in hints.waypoints_m.astype(np.float64)[np.argsort(-hints.confidence)]]
    moving = [line for line in lines if np.linalg.norm(np.diff(line, axis=0), axis=1).sum() >= 4 * STEP_M]
    chosen = (moving or [STRAIGHT_ON_M]) if must_move else [line for line in moving[:1] if line is lines[0]]
    flat = [np.pad(_onward(line), ((0, 0), (0, 1))) for line in chosen]  # z = 0
    return [Path.along(transform_points(world_SE3_ego, line), 0.0) for line in flat]


def detected(heard: Heard, age_s: float) -> Obstacles:
    """Those that were detected, moved on to now, in the world."""
    detections, world_SE3_ego = heard.result.detections, heard.world_SE3_ego
    keep = detections.score >= MIN_SCORE
    velocity = np.nan_to_num(detections.velocity_mps[keep].astype(np.float64)) @ world_SE3_ego[:2, :2].T
    velocity[np.linalg.norm(velocity, axis=1) < SURELY_MOVES_MPS] = 0.0
    center = transform_points(world_SE3_ego, detections.center_m[keep].astype(np.float64))[:, :2] + velocity * age_s
    return Obstacles(
        actor_id=np.arange(len(center)),
        center_m=center,
        yaw_rad=detections.yaw_rad[keep].astype(np.float64) + float(yaw_of(world_SE3_ego[:3, :3])),
        half_m=detections.size_m[keep, :2].astype(np.float64) / 2,
        velocity_mps=velocity,
        yaw_rate_radps=np.zeros(len(center)),
        is_on_foot=np.isin(detections.class_index[keep], ON_FOOT),
    )


def _onward(line: F64) -> F64:
    """A line and its straight continuation: who stands just beyond the end of a short way is in it."""
    away = line[-1] - line  # (W, 2)
    far = np.flatnonzero(np.linalg.norm(away, axis=1) > STEP_M)
    ahead = away[far[-1] if len(far) else 0]
    return np.concatenate([line, line[-1:] + ONWARD_M * ahead / max(float(np.linalg.norm(ahead)), 1e-6)])


def _line(mode: F64) -> F64:
    """From the ego along the waypoints (W, 2) that are numbers."""
    return np.concatenate([np.zeros((1, 2)), mode[np.all(np.isfinite(mode), axis=1)]])


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
