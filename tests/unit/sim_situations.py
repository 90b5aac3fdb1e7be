"""Situations and small worlds that the tests of the simulated drivers share: a straight road, a bend, a few actors."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import se3_from_yaw
from perception.core.taxonomy import CLASS_INDEX
from sim.ego import VehicleSpec, VehicleState, drive
from sim.obstacles import Obstacles
from sim.path import Path, speed_profile
from sim.scene import ActorModel, ActorStates, EgoPose, Mesh
from sim.situation import Ahead, Driver, Situation

F64 = NDArray[np.float64]

SPEC = VehicleSpec()
LIMIT_MPS = 13.9
TICK_S = 0.05
OPEN_ROAD = Ahead()

_EMPTY = Mesh(
    vertices_m=np.zeros((0, 3), dtype=np.float32),
    triangles=np.zeros((0, 3), dtype=np.uint32),
    material=np.zeros(0, dtype=np.uint8),
    color_rgb=np.zeros((0, 3), dtype=np.uint8),
)


def actor_model(name: str, size_m: tuple[float, float, float]) -> ActorModel:
    return ActorModel(
        name=name,
        category=f"test.{name}",
        class_index=CLASS_INDEX[name],
        phases=(_EMPTY,),
        box_center_m=np.array([0.0, 0.0, size_m[2] / 2]),
        box_size_m=np.array(size_m),
        radar_cross_section_dbsm=10.0,
    )


MODELS = {"car": actor_model("car", (4.5, 1.8, 1.5)), "pedestrian": actor_model("pedestrian", (0.6, 0.6, 1.75))}

Actor = tuple[int, str, float, float, float, float]
"""Id, model, x, y, heading, speed along it."""


def actor_states(actors: Sequence[Actor], time_ns: int = 0) -> ActorStates:
    yaw = np.array([actor[4] for actor in actors])
    speed = np.array([actor[5] for actor in actors])
    return ActorStates(
        time_ns=time_ns,
        actor_id=np.array([actor[0] for actor in actors], dtype=np.int64),
        model=tuple(actor[1] for actor in actors),
        phase=np.zeros(len(actors), dtype=np.int64),
        world_SE3_actor=np.array([se3_from_yaw(a[4], (a[2], a[3], 0.0)) for a in actors]).reshape(-1, 4, 4),
        velocity_mps=np.stack([speed * np.cos(yaw), speed * np.sin(yaw), 0 * yaw], axis=1).reshape(-1, 3),
        yaw_rate_radps=np.zeros(len(actors)),
        attribute_index=np.full(len(actors), -1, dtype=np.int64),
    )


def moved(actors: Sequence[Actor], seconds: float) -> list[Actor]:
    """The actors after some time at constant velocity."""
    return [
        (i, model, x + v * math.cos(yaw) * seconds, y + v * math.sin(yaw) * seconds, yaw, v)
        for i, model, x, y, yaw, v in actors
    ]


def straight(length_m: float = 400.0) -> Path:
    return Path.along(np.array([[0.0, 0.0], [length_m, 0.0]]), LIMIT_MPS)


def bend(radius_m: float = 12.0) -> Path:
    """60 m straight, a quarter turn to the left, 60 m straight, as a network draws it: a chain of chords."""
    angle = np.linspace(0.0, np.pi / 2, 7)
    arc = np.stack([60.0 + radius_m * np.sin(angle), radius_m - radius_m * np.cos(angle)], axis=1)
    return Path.along(np.concatenate([[[0.0, 0.0]], arc, [[60.0 + radius_m, radius_m + 60.0]]]), LIMIT_MPS)


def ego(speed: float = 10.0, x: float = 0.0, y: float = 0.0, yaw: float = 0.0, time_ns: int = 0) -> VehicleState:
    return VehicleState(time_ns=time_ns, x_m=x, y_m=y, yaw_rad=yaw, speed_mps=speed)


def situation(
    state: VehicleState,
    path: Path,
    actors: Sequence[Actor] = (),
    ahead: Ahead = OPEN_ROAD,
    start: VehicleState | None = None,
    profile: F64 | None = None,
) -> Situation:
    s, offset = path.project(_at(state))
    return Situation(
        state=state,
        start=start or state,
        spec=SPEC,
        path=path,
        profile_mps=profile if profile is not None else speed_profile(path, 2.0, 2.0, ends_standing=False),
        s_m=float(s[0]),
        offset_m=float(offset[0]),
        obstacles=Obstacles.of(actor_states(actors), MODELS),
        ahead=ahead,
    )


def run(
    driver: Driver,
    path: Path,
    state: VehicleState,
    seconds: float,
    actors: Sequence[Actor] = (),
    line_m: float = math.inf,
    ahead: Ahead = OPEN_ROAD,
) -> list[Situation]:
    """Drive along a path beside actors of constant velocity; `line_m` is the arc length of a stop line."""
    seen: list[Situation] = []
    start, profile = state, speed_profile(path, 2.0, 2.0, ends_standing=False)
    for i in range(round(seconds / TICK_S)):
        rest = line_m - (seen[-1].s_m + state.speed_mps * TICK_S if seen else path.project(_at(state))[0][0])
        light = Ahead(signal=ahead.signal, line_m=rest if rest > 0 else math.inf, has_priority=ahead.has_priority)
        now = situation(state, path, moved(actors, i * TICK_S), light, start, profile)
        seen.append(now)
        state = drive(state, driver.act(now), round((i + 1) * TICK_S * 1e9), SPEC)
    return seen


def _at(state: VehicleState) -> F64:
    return np.array([[state.x_m, state.y_m]])


class StraightWorld:
    """A scene whose ego drives along x at 10 m/s while turning at `yaw_rate`; actors move at constant velocity."""

    def __init__(self, actors: Sequence[Actor], yaw_rate: float = 0.0) -> None:
        self._actors, self._yaw_rate = list(actors), yaw_rate
        self.scenery = _EMPTY
        self.models = MODELS
        self.horizon_ns = 60_000_000_000

    def actors_at(self, time_ns: int) -> ActorStates:
        return actor_states(moved(self._actors, time_ns / 1e9), time_ns)

    def ego_at(self, time_ns: int) -> EgoPose:
        t = time_ns / 1e9
        return EgoPose(
            time_ns=time_ns,
            world_SE3_ego=se3_from_yaw(self._yaw_rate * t, (10.0 * t, 0.0, 0.0)),
            velocity_mps=np.array([10.0 * math.cos(self._yaw_rate * t), -10.0 * math.sin(self._yaw_rate * t)]),
            yaw_rate_radps=self._yaw_rate,
        )

    def signal_lamps_at(self, time_ns: int) -> dict[int, str]:
        return {}
