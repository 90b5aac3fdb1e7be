"""The ego in the closed loop: a driver asked at a steady rate, a vehicle that does what it can, a world told of it."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import Signal
from perception.core.results import PerceptionResult
from sim.control import STANDSTILL_GAP_M
from sim.ego import VehicleSpec, VehicleState, drive, footprint, state_from_pose
from sim.obstacles import Obstacles
from sim.path import Path, speed_profile
from sim.right_of_way import junctions_on
from sim.scenario import StartConfig
from sim.situation import Ahead, Driver, Heard, Situation
from sim.world import World

TICK_NS = 50_000_000
LATERAL_MPS2 = 2.2
PLANNED_BRAKING_MPS2 = 1.8
ROUTE_SMOOTHING_M = 1.0
START_SIGHT_M, START_SHARE = 80.0, 0.9
LOOK_AHEAD_M = 120.0
"""Lights further than this are not looked at."""
GOAL_M = 15.0
"""A route counts as driven where the ego is this close to its end."""
LOST_M = 30.0
"""An ego this far from its route is lost: it is not expected back."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pending:
    """A result on its way to the driver."""

    effective_ns: int
    heard: Heard


class EgoLoop:
    """Moves the ego of a world. `watch` is shown every situation in which the driver is asked."""

    def __init__(
        self,
        world: World,
        driver: Driver,
        start: StartConfig,
        watch: Callable[[Situation], None] | None = None,
    ) -> None:
        self._world, self._driver, self._watch = world, driver, watch
        self.spec = VehicleSpec.of(world.settings.ego)
        route = world.route
        self.path = Path.along(route.points_m, route.speed_limit_mps, ROUTE_SMOOTHING_M)
        self._profile = speed_profile(self.path, LATERAL_MPS2, PLANNED_BRAKING_MPS2, ends_standing=True)
        self._junctions = junctions_on(world.net, route)
        first = state_from_pose(world.ego_at(0))
        self._s = float(self.path.project(np.array([[first.x_m, first.y_m]]), route.start_m)[0][0])
        self._pending: deque[_Pending] = deque()
        self._heard: Heard | None = None
        self.state = self._start = _beside(first, self.path, self._s, start)
        if start.speed_mps is None:
            self.state = self._start = replace(self.state, speed_mps=self._rolling_speed())
        world.set_ego(self.state.pose(self.spec))

    @property
    def s_m(self) -> float:
        """Arc length of the rear axle along the route."""
        return self._s

    @property
    def goal_m(self) -> float:
        """Arc length at which the route counts as driven."""
        return self.path.length_m - GOAL_M

    @property
    def is_finished(self) -> bool:
        return self._s >= self.goal_m

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come: the route is driven, or the ego is lost."""
        point = self.path.at(np.array([self._s]))[0][0]
        return self.is_finished or math.dist(point, (self.state.x_m, self.state.y_m)) > LOST_M

    def hear(self, result: PerceptionResult, effective_ns: int) -> None:
        """Let the driver know a result from `effective_ns` on."""
        heard = Heard(result=result, world_SE3_ego=self._world.ego_at(result.reference_ns).world_SE3_ego)
        self._pending.append(_Pending(effective_ns=effective_ns, heard=heard))

    def advance_to(self, time_ns: int) -> None:
        """Drive on until the world knows the ego at `time_ns`."""
        while self.state.time_ns < time_ns:
            self._world.advance_to(self.state.time_ns)
            situation = self.situation()
            if self._watch is not None:
                self._watch(situation)
            target = self._driver.act(situation)
            self.state = drive(self.state, target, self.state.time_ns + TICK_NS, self.spec)
            self._world.set_ego(self.state.pose(self.spec))
        self._world.advance_to(time_ns)

    def situation(self) -> Situation:
        """What there is to know now."""
        now, world = self.state.time_ns, self._world
        while self._pending and self._pending[0].effective_ns <= now:
            self._heard = self._pending.popleft().heard
        s, offset = self.path.project(np.array([[self.state.x_m, self.state.y_m]]), self._s)
        self._s = float(s[0])
        return Situation(
            state=self.state,
            start=self._start,
            spec=self.spec,
            path=self.path,
            profile_mps=self._profile,
            s_m=self._s,
            offset_m=float(offset[0]),
            obstacles=Obstacles.of(world.actors_at(now), world.models, float(world.ego_at(now).world_SE3_ego[2, 3])),
            ahead=self._ahead(now),
            heard=self._heard,
        )

    def _rolling_speed(self) -> float:
        """What traffic might drive here at time zero: an ego that stands on the road is run into."""
        world, stations = self._world, np.arange(self.spec.front_m, START_SIGHT_M, 1.0)
        line, _, _ = self.path.at(self._s + stations)
        others = Obstacles.of(world.actors_at(0), world.models, float(world.ego_at(0).world_SE3_ego[2, 3]))
        taken = others.occupied(line, self.spec.width_m / 2, np.zeros(1))[:, 0].any(axis=0)
        gap = float(stations[np.argmax(taken)] if taken.any() else START_SIGHT_M) - self.spec.front_m - STANDSTILL_GAP_M
        limit = float(self.path.sample(self._profile, np.array([self._s]))[0])
        return min(START_SHARE * limit, math.sqrt(2 * PLANNED_BRAKING_MPS2 * max(gap, 0.0)))

    def _ahead(self, time_ns: int) -> Ahead:
        front = self._s + self.spec.front_m
        # Inside a junction its right of way still holds, until the ego is through.
        near = next((j for j in self._junctions if j.end_m + self.spec.rear_overhang_m > self._s), None)
        stop = next((line for line in self._world.route.stop_lines if line.arc_m > front - 1.0), None)
        is_seen = stop is not None and stop.arc_m - front < LOOK_AHEAD_M
        return Ahead(
            signal=self._world.signal_at(stop, time_ns) if stop is not None and is_seen else Signal.UNKNOWN,
            line_m=stop.arc_m - self._s if stop is not None and is_seen else math.inf,
            has_priority=near is None or near.has_priority,
            enter_m=near.arc_m - self._s if near is not None else math.inf,
            leave_m=near.end_m - self._s if near is not None else math.inf,
        )


def is_off_road(situation: Situation, is_drivable: Callable[[NDArray[np.float64]], NDArray[np.bool_]]) -> bool:
    """Whether a wheel is where none may drive."""
    state, spec = situation.state, situation.spec
    wheels = footprint(np.array([state.x_m, state.y_m]), state.yaw_rad, (spec.wheelbase_m, 0.0, 0.45 * spec.width_m))
    return not bool(np.all(is_drivable(wheels)))


def _beside(first: VehicleState, path: Path, s_m: float, start: StartConfig) -> VehicleState:
    """The start that a scenario asks for, off the path or on it."""
    point, heading, _ = path.at(np.array([s_m]))
    normal = np.array([-np.sin(heading[0]), np.cos(heading[0])])
    x, y = point[0] + start.offset_m * normal
    yaw = float(heading[0]) + start.heading_rad
    return replace(first, x_m=float(x), y_m=float(y), yaw_rad=yaw, speed_mps=start.speed_mps or 0.0)
