"""The simulated world: a map with scenery, traffic that flows through it, and the ego in its midst."""

from collections import deque
from collections.abc import Mapping
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import integrate_twist, rotation_from_yaw, wrap_angle, yaw_of
from perception.core.messages import Signal
from sim.actors.pool import Pool, build_pool
from sim.actors_now import FIRST_MOVING_ID, ModelTable, StandingActors, actor_states
from sim.ego_track import EgoKnot, EgoTrack
from sim.footing import footed
from sim.maps.area import drivable_grid, drivable_polygons
from sim.maps.catalog import load_map
from sim.maps.net import RoadMap
from sim.maps.relief import relief_of
from sim.route import EgoRoute, StopLine, plan_route
from sim.scene import ActorModel, ActorStates, EgoPose, Mesh
from sim.scenery.grow import grow
from sim.scenery.roads import PAVEMENT_M
from sim.settings import WorldSettings
from sim.traffic import EgoFront, Traffic
from sim.traffic_demand import counts_of
from sim.traffic_motion import Dragged, Dragger, Knot, Stretch, signal_color, stretch
from sim.traffic_types import TrafficFrame, TrafficPlan, fleet_of

F64 = NDArray[np.float64]

EGO_ID = np.zeros(1, dtype=np.int64)
LEAD_STEPS = 5
"""Steps before time zero, so that a sweep that ends at zero has seen something."""
_SIGNALS = {"lamp_red": Signal.RED, "lamp_yellow": Signal.YELLOW, "lamp_green": Signal.GREEN}


class World:
    """A `SceneView` that advances. Time zero is when traffic has warmed up; equal settings give equal states.

    Open loop: SUMO drives the ego along `route`. Closed loop, from the first `set_ego` on: the caller does, calling
    `set_ego` for a time and then `advance_to` it. Raises ConfigError for an unusable map or a missing libsumo,
    DriveError where SUMO fails.
    """

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        self.net = load_map(settings.map)
        self.route: EgoRoute = plan_route(self.net, settings.route_length_m, np.random.default_rng([settings.seed, 3]))
        pool = build_pool(settings.seed)
        # First of all: SUMO warms up while the scenery grows.
        self._traffic = Traffic(_plan(settings, self.net, self.route, pool))
        self._relief = relief_of(self.net)
        grown = grow(self.net, self._relief, pool, settings)
        self._scenery, self._models = grown.mesh, pool.models()
        self._table = ModelTable.of(pool)
        self._standing = StandingActors(grown.standing, self._table, self._relief)
        self._lamps = tuple(
            (int(actor_id), item.signal, item.link)
            for actor_id, item in zip(self._standing.ids, grown.standing, strict=True)
            if item.signal is not None
        )
        self._drivable = drivable_grid(self.net)
        self._step_ns = round(settings.traffic.step_s * 1e9)
        history = round(settings.history_s * 1e9 / self._step_ns) + 4
        self._knots: deque[tuple[int, Knot, Mapping[str, str]]] = deque(maxlen=history)
        self._stretches: deque[Stretch] = deque(maxlen=history)
        self._ego = EgoTrack(round(settings.history_s * 1e9))
        self._ego_drag = Dragged.nothing()
        self._ego_frames: deque[tuple[int, F64]] = deque(maxlen=3)
        self._arc_m = self.route.start_m
        self._is_closed_loop = False
        self._dragger = Dragger(fleet_of(pool), pool, PAVEMENT_M, settings.traffic.step_s)
        self._next_step = -LEAD_STEPS
        self.advance_to(0)

    @property
    def scenery(self) -> Mesh:
        return self._scenery

    @property
    def models(self) -> Mapping[str, ActorModel]:
        return self._models

    @property
    def horizon_ns(self) -> int:
        """The latest time that may be asked for."""
        return min(self._stretches[-1].start_ns + self._step_ns, self._ego.last_ns)

    @property
    def earliest_ns(self) -> int:
        """The earliest time that is still remembered."""
        return self._stretches[0].start_ns

    @property
    def drivable_polygons(self) -> tuple[F64, ...]:
        """Outlines (N, 2) of lanes and junctions, overlapping. Junctions hold pavements, which `drivable_at` omits."""
        return drivable_polygons(self.net)

    def advance_to(self, time_ns: int) -> None:
        """Simulate until `time_ns` may be asked for. Going back does nothing."""
        while not self._stretches or self._stretches[-1].start_ns + self._step_ns < time_ns:
            if not self._traffic.is_asked:
                self._ask()
            frame = self._traffic.take()
            # Ask at once: SUMO works on the next step while the caller works on this one.
            self._take(frame)
            self._ask()

    def set_ego(self, pose: EgoPose) -> None:
        """Drive the ego from outside: where it is at `pose.time_ns`, which must not go back."""
        self._is_closed_loop = True
        rotation = pose.world_SE3_ego[:3, :3]
        yaw = float(yaw_of(rotation))
        before = self._ego.last.state[2]
        velocity = rotation[:2, :2] @ pose.velocity_mps
        self._ego.add(
            EgoKnot(
                time_ns=pose.time_ns,
                state=np.array([*pose.world_SE3_ego[:2, 3], before + float(wrap_angle(np.array(yaw - before)))]),
                rate=np.array([*velocity, pose.yaw_rate_radps]),
            )
        )
        self._follow_route(pose.world_SE3_ego[:2, 3])

    def actors_at(self, time_ns: int) -> ActorStates:
        """Actors within `actor_radius_m` of the ego, interpolated. Raises ValueError outside what is remembered.

        Signal heads are among them, class -1 and no label; `signal_lamps_at` says which of their lamps shines.
        """
        moving = self._stretch_at(time_ns)
        state, _ = self._ego.at(time_ns)
        radius = self.settings.actor_radius_m
        return actor_states(time_ns, moving, self._standing, state[:2], radius, self._table, self._relief)

    def ego_at(self, time_ns: int) -> EgoPose:
        """The ego, interpolated. Raises ValueError outside what is remembered."""
        state, rate = self._ego.at(time_ns)
        half = self.settings.ego.wheelbase_m / 2
        heading = np.array([np.cos(state[2]), np.sin(state[2])])
        middle = (state[:2] + half * heading)[None]
        reach = np.array([[half, self.settings.ego.width_m / 2]])
        pose = footed(self._relief, middle, state[2:3], np.zeros(1), reach)[0]
        pose[:3, 3] -= half * pose[:3, 0]
        velocity = rotation_from_yaw(float(state[2]))[:2, :2].T @ rate[:2]
        return EgoPose(time_ns=time_ns, world_SE3_ego=pose, velocity_mps=velocity, yaw_rate_radps=float(rate[2]))

    def signal_lamps_at(self, time_ns: int) -> Mapping[int, str]:
        """The material that shines (`lamp_red`...) of each signal head by its actor id."""
        state = self._signals_at(time_ns)
        return {actor: signal_color(state, signal, link) for actor, signal, link in self._lamps if signal in state}

    def drivable_at(self, points_m: NDArray[np.floating]) -> NDArray[np.bool_]:
        """True (...) where points (..., 2 or more) of the world lie on road, parking strips included."""
        return self._drivable.contains(points_m)

    def ego_arc_m(self, time_ns: int) -> float:
        """How far along `route` the ego is."""
        state, _ = self._ego.at(time_ns)
        return self.route.project(state[:2], self._arc_m)[0]

    def next_signal(self, time_ns: int) -> tuple[Signal, float | None]:
        """State of the next light on the route and the way to its stop line; (UNKNOWN, None) if none is left."""
        arc = self.ego_arc_m(time_ns)
        line = self._next_stop_line(arc + self.settings.ego.front_m)
        if line is None:
            return Signal.UNKNOWN, None
        return self.signal_at(line, time_ns), float(line.arc_m - arc - self.settings.ego.front_m)

    def signal_at(self, line: StopLine, time_ns: int) -> Signal:
        """State of the light at a stop line of the route."""
        return _SIGNALS[signal_color(self._signals_at(time_ns), line.signal, line.link)]

    def close(self) -> None:
        self._traffic.close()

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next_stop_line(self, arc_m: float) -> StopLine | None:
        return next((line for line in self.route.stop_lines if line.arc_m >= arc_m - 0.5), None)

    def _ask(self) -> None:
        self._traffic.ask(self._ego_front() if self._is_closed_loop else None)

    def _ego_front(self) -> EgoFront:
        """Where the ego's front bumper will be when the step asked for ends, at constant motion."""
        knot = self._ego.last
        ahead = (self._next_step * self._step_ns - knot.time_ns) / 1e9
        yaw = float(knot.state[2])
        velocity = rotation_from_yaw(yaw)[:2, :2].T @ knot.rate[:2]
        moved = integrate_twist(velocity, float(knot.rate[2]), ahead)
        front = knot.state[:2] + rotation_from_yaw(yaw)[:2, :2] @ (
            moved[:2, :2] @ [self.settings.ego.front_m, 0] + moved[:2, 3]
        )
        return float(front[0]), float(front[1]), yaw + float(knot.rate[2]) * ahead, float(np.hypot(*velocity))

    def _take(self, frame: TrafficFrame) -> None:
        time_ns = self._next_step * self._step_ns
        self._next_step += 1
        self._knots.append((time_ns, self._dragger.knot(frame), frame.signals))
        if not self._is_closed_loop:
            self._follow_sumo(time_ns, frame.ego)
        if len(self._knots) >= 4:
            four = (self._knots[-4][1], self._knots[-3][1], self._knots[-2][1], self._knots[-1][1])
            self._stretches.append(stretch(self._knots[-3][0], self._step_ns / 1e9, four))

    def _follow_sumo(self, time_ns: int, ego: F64) -> None:
        """Drag the ego by its front bumper like everybody else; its knot follows one step later, with its rate."""
        reach = self.settings.ego.front_m
        self._ego_drag = self._ego_drag.pulled(EGO_ID, ego[None, :2], ego[2:3], np.array([reach]))
        yaw = float(self._ego_drag.yaw_rad[0])
        state = np.array([ego[0] - reach * np.cos(yaw), ego[1] - reach * np.sin(yaw), yaw])
        self._ego_frames.append((time_ns, state))
        if len(self._ego_frames) == 3:
            (_, before), (at_ns, state), (_, after) = self._ego_frames
            rate = (after - before) / (2 * self._step_ns / 1e9)
            self._ego.add(EgoKnot(time_ns=at_ns, state=state, rate=rate))
            self._follow_route(state[:2])

    def _follow_route(self, point_m: F64) -> None:
        self._arc_m = self.route.project(point_m, self._arc_m)[0]

    def _stretch_at(self, time_ns: int) -> Stretch:
        index = (time_ns - self._stretches[0].start_ns) // self._step_ns
        if time_ns == self._stretches[-1].start_ns + self._step_ns:
            index -= 1
        if not 0 <= index < len(self._stretches):
            span = f"{self._stretches[0].start_ns} to {self._stretches[-1].start_ns + self._step_ns} ns"
            raise ValueError(f"no traffic at {time_ns} ns: the world remembers {span}")
        return self._stretches[index]

    def _signals_at(self, time_ns: int) -> Mapping[str, str]:
        """States in force at a time: those of the last step before it."""
        found = [signals for at_ns, _, signals in self._knots if at_ns <= time_ns]
        return found[-1] if found else self._knots[0][2]


def _plan(settings: WorldSettings, net: RoadMap, route: EgoRoute, pool: Pool) -> TrafficPlan:
    return TrafficPlan(
        net=net,
        seed=settings.seed,
        step_s=settings.traffic.step_s,
        warmup_s=settings.traffic.warmup_s,
        fleet=fleet_of(pool),
        counts=counts_of(net, settings.traffic),
        first_id=FIRST_MOVING_ID,
        ego_edges=route.edges,
        ego_lane=route.start_lane,
        ego_start_m=route.start_m,
        ego_length_m=settings.ego.length_m,
        ego_width_m=settings.ego.width_m,
        hidden_m=settings.actor_radius_m,
    )
