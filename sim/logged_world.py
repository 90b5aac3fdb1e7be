"""A world read back from its log: the same drive, to be seen by other sensors, in other weather, on another machine."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from perception.core.errors import DriveError
from perception.core.geometry import rotation_exp, rotation_from_yaw, rotation_log
from perception.core.messages import Signal
from sim.actors.pool import build_pool
from sim.ego_track import EgoKnot, EgoTrack
from sim.footing import footed
from sim.maps.area import drivable_grid
from sim.maps.catalog import load_map
from sim.maps.relief import relief_of
from sim.route import EgoRoute, plan_route
from sim.scenario import ScenarioConfig
from sim.scene import ActorModel, ActorStates, EgoPose, Mesh
from sim.scenery.grow import grow
from sim.world_log import LoggedStep, read_header, read_steps

F64 = NDArray[np.float64]

ROUTE_STREAM = 3


def read_scenario(path: Path) -> ScenarioConfig:
    """The scenario of a world log. Raises DriveError where the file is none, or of another version of the settings."""
    try:
        return ScenarioConfig.model_validate(read_header(path).scenario)
    except ValidationError as error:
        raise DriveError(f"{path}: the world log is of another version: {error.errors()[0]['msg']}") from error


class LoggedWorld:
    """A `SceneView` over all steps of a log; nobody simulates. Scenery and models grow again from the log's scenario.

    Between steps actors move on cubics through the logged positions and velocities: within a millimetre of the world
    that was logged, except that gaits change with the steps. Raises DriveError where the log cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._settings = read_scenario(path).world
        self._steps: list[LoggedStep] = list(read_steps(path))
        if len(self._steps) < 2:
            raise DriveError(f"{path}: the world log holds {len(self._steps)} steps, at least two are needed")
        self._times = np.array([step.actors.time_ns for step in self._steps], dtype=np.int64)
        net = load_map(self._settings.map)
        rng = np.random.default_rng([self._settings.seed, ROUTE_STREAM])
        self.route: EgoRoute = plan_route(net, self._settings.route_length_m, rng)
        pool = build_pool(self._settings.seed)
        self._relief = relief_of(net)
        self.scenery: Mesh = grow(net, self._relief, pool, self._settings).mesh
        self.models: Mapping[str, ActorModel] = pool.models()
        self._drivable = drivable_grid(net)
        knots = [knot for step in self._steps for knot in step.ego]
        self._ego = EgoTrack(knots[-1].time_ns - knots[0].time_ns + 1)
        for knot in _unwrapped(knots):
            self._ego.add(knot)
        places = np.array([self._ego.at(int(time))[0][:2] for time in self._times])
        self._way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])

    @property
    def horizon_ns(self) -> int:
        return int(self._times[-1])

    def advance_to(self, time_ns: int) -> None:
        """Everything is known already. Raises DriveError beyond the end of the log."""
        if time_ns > self.horizon_ns:
            raise DriveError(f"{self._path}: the log ends at {self.horizon_ns} ns, {time_ns} ns was asked for")

    def actors_at(self, time_ns: int) -> ActorStates:
        step = self._step(time_ns)
        here, there = self._steps[step].actors, self._steps[min(step + 1, len(self._steps) - 1)].actors
        if time_ns == here.time_ns:
            return here
        return _between(here, there, time_ns)

    def ego_at(self, time_ns: int) -> EgoPose:
        state, rate = self._ego.at(time_ns)
        body = self._settings.ego
        half = body.wheelbase_m / 2
        middle = (state[:2] + half * np.array([np.cos(state[2]), np.sin(state[2])]))[None]
        pose = footed(self._relief, middle, state[2:3], np.zeros(1), np.array([[half, body.width_m / 2]]))[0]
        pose[:3, 3] -= half * pose[:3, 0]
        velocity = rotation_from_yaw(float(state[2]))[:2, :2].T @ rate[:2]
        return EgoPose(time_ns=time_ns, world_SE3_ego=pose, velocity_mps=velocity, yaw_rate_radps=float(rate[2]))

    def signal_lamps_at(self, time_ns: int) -> Mapping[int, str]:
        return self._steps[self._step(time_ns)].lamps

    def ego_arc_m(self, time_ns: int) -> float:
        state, _ = self._ego.at(time_ns)
        # Along a route that crosses itself the way driven so far tells the place.
        driven = self.route.start_m + float(np.interp(time_ns, self._times, self._way))
        return self.route.project(state[:2], driven)[0]

    def next_signal(self, time_ns: int) -> tuple[Signal, float | None]:
        front = self.ego_arc_m(time_ns) + self._settings.ego.front_m
        line = next((stop for stop in self.route.stop_lines if stop.arc_m >= front - 0.5), None)
        if line is None:
            return Signal.UNKNOWN, None
        return self._steps[self._step(time_ns)].signal, float(line.arc_m - front)

    def drivable_at(self, points_m: NDArray[np.floating]) -> NDArray[np.bool_]:
        return self._drivable.contains(points_m)

    def close(self) -> None:
        """Nothing is held open."""

    def _step(self, time_ns: int) -> int:
        if not self._times[0] <= time_ns <= self._times[-1]:
            raise ValueError(f"no states at {time_ns} ns: the log knows {self._times[0]} to {self._times[-1]} ns")
        return int(np.searchsorted(self._times, time_ns, side="right")) - 1


def _unwrapped(knots: list[EgoKnot]) -> list[EgoKnot]:
    yaw = np.unwrap([knot.state[2] for knot in knots])
    return [
        EgoKnot(time_ns=knot.time_ns, state=np.array([*knot.state[:2], turned]), rate=knot.rate)
        for knot, turned in zip(knots, yaw, strict=True)
    ]


def _between(here: ActorStates, there: ActorStates, time_ns: int) -> ActorStates:
    """Actors of the step before, moved towards where the step after has them; who is gone by then goes straight on."""
    span = (there.time_ns - here.time_ns) / 1e9
    u = (time_ns - here.time_ns) / 1e9 / span
    row = {int(actor): i for i, actor in enumerate(there.actor_id)}
    index = np.array([row.get(int(actor), -1) for actor in here.actor_id], dtype=np.int64)
    stays = index >= 0
    p0, m0 = here.world_SE3_actor[:, :3, 3], here.velocity_mps * span
    p1, m1 = p0 + m0, m0.copy()
    p1[stays] = there.world_SE3_actor[index[stays], :3, 3]
    m1[stays] = there.velocity_mps[index[stays]] * span
    c, d = 3 * (p1 - p0) - 2 * m0 - m1, 2 * (p0 - p1) + m0 + m1
    pose = here.world_SE3_actor.copy()
    pose[:, :3, 3] = p0 + u * (m0 + u * (c + u * d))
    turn = np.zeros((len(here), 3))
    start = here.world_SE3_actor[stays, :3, :3]
    end = there.world_SE3_actor[index[stays], :3, :3]
    turn[stays] = rotation_log(np.swapaxes(start, 1, 2) @ end)
    # Heading goes on a cubic as well; pitch and roll are small and go straight.
    w0 = here.yaw_rate_radps * span
    w1 = np.where(stays, there.yaw_rate_radps[index] * span, w0) if len(there) else w0
    yaw = np.where(stays, turn[:, 2], w0)
    turn *= u
    turn[:, 2] = u * (w0 + u * (3 * yaw - 2 * w0 - w1 + u * (w0 + w1 - 2 * yaw)))
    pose[:, :3, :3] = pose[:, :3, :3] @ rotation_exp(turn)
    return ActorStates(
        time_ns=time_ns,
        actor_id=here.actor_id,
        model=here.model,
        phase=here.phase,
        world_SE3_actor=pose,
        velocity_mps=(m0 + u * (2 * c + 3 * u * d)) / span,
        yaw_rate_radps=here.yaw_rate_radps,
        attribute_index=here.attribute_index,
    )
