"""Actors at one time: what moves from the traffic, what stands from the scenery, as the sensors want them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.taxonomy import ATTRIBUTE_INDEX, CLASS_INDEX
from sim.actors.cycles import PEDAL_PHASES
from sim.actors.people import GAIT_PHASES, STRIDE_PER_HEIGHT
from sim.actors.pool import Pool
from sim.footing import footed
from sim.maps.relief import Relief
from sim.scene import ActorStates
from sim.scenery.standing import Standing
from sim.traffic_motion import Stretch

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

STANDING_MPS = 0.3
CRANK_TURN_M = 4.6
"""Way of a bicycle in one turn of its cranks."""
FIRST_STANDING_ID = 1
FIRST_MOVING_ID = 100_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelTable:
    """What is needed of each model of the pool, by its index."""

    names: tuple[str, ...]
    class_index: I64
    cycle_m: F64
    """Way in one cycle of phases; infinite for models of one phase."""
    phase_count: I64
    has_rest: NDArray[np.bool_]
    """True for those whose last phase stands."""
    reach_m: F64

    @classmethod
    def of(cls, pool: Pool) -> "ModelTable":
        actors = list(pool.actors.values())
        is_person = np.array([actor.kind in ("adult", "child", "worker") for actor in actors])
        is_bicycle = np.array([actor.kind == "bicycle" for actor in actors])
        size = np.array([actor.model.box_size_m for actor in actors])
        cycle = np.where(is_person, size[:, 2] * STRIDE_PER_HEIGHT, np.where(is_bicycle, CRANK_TURN_M, np.inf))
        return cls(
            names=tuple(pool.actors),
            class_index=np.array([actor.model.class_index for actor in actors]),
            cycle_m=cycle,
            phase_count=np.where(is_person, GAIT_PHASES, np.where(is_bicycle, PEDAL_PHASES, 1)),
            has_rest=is_person,
            reach_m=np.maximum(size[:, :2] * (0.3, 0.4), 0.1),
        )

    def attributes(self, model: I64, speed_mps: F64) -> I64:
        """Attribute (K,) by class and speed; -1 where the class has none."""
        kind, moves = self.class_index[model], speed_mps > STANDING_MPS
        is_cycle = (kind == CLASS_INDEX["motorcycle"]) | (kind == CLASS_INDEX["bicycle"])
        person = np.where(moves, ATTRIBUTE_INDEX["pedestrian.moving"], ATTRIBUTE_INDEX["pedestrian.standing"])
        vehicle = np.where(moves, ATTRIBUTE_INDEX["vehicle.moving"], ATTRIBUTE_INDEX["vehicle.stopped"])
        found = np.where(is_cycle, ATTRIBUTE_INDEX["cycle.with_rider"], vehicle)
        return np.where(kind == CLASS_INDEX["pedestrian"], person, found)

    def phases(self, model: I64, way_m: F64, speed_mps: F64) -> I64:
        """Phase (K,) of the gait after `way_m`."""
        count = self.phase_count[model]
        phase = np.floor(way_m / self.cycle_m[model] * count).astype(np.int64) % count
        return np.where(self.has_rest[model] & (speed_mps < STANDING_MPS), count, phase)


class StandingActors:
    """Rows of the actors that stand still, posed once."""

    def __init__(self, standing: Sequence[Standing], table: ModelTable, relief: Relief) -> None:
        index = {name: k for k, name in enumerate(table.names)}
        self.ids = FIRST_STANDING_ID + np.arange(len(standing), dtype=np.int64)
        self.model = np.array([index[item.model] for item in standing], dtype=np.int64)
        self.phase = np.array([item.phase for item in standing], dtype=np.int64)
        self.attribute = np.array([item.attribute for item in standing], dtype=np.int64)
        foot = np.array([item.foot_m for item in standing]).reshape(-1, 3)
        yaw = np.array([item.yaw_rad for item in standing])
        self.pose = footed(relief, foot[:, :2], yaw, foot[:, 2], table.reach_m[self.model])
        # A signal head hangs straight whatever the slope below it.
        hangs = np.array([item.signal is not None for item in standing], dtype=bool)
        if np.any(hangs):
            self.pose[hangs, :3, :3] = footed(
                Relief(origin_m=np.zeros(2), height_m=None),
                foot[hangs, :2],
                yaw[hangs],
                foot[hangs, 2],
                foot[hangs, :2],
            )[:, :3, :3]

    def near(self, point_m: F64, radius_m: float) -> I64:
        """Rows within a radius."""
        gaps = self.pose[:, :2, 3] - point_m
        return np.flatnonzero(np.einsum("ij,ij->i", gaps, gaps) < radius_m**2)


def actor_states(
    time_ns: int,
    moving: Stretch,
    standing: StandingActors,
    near_m: F64,
    radius_m: float,
    table: ModelTable,
    relief: Relief,
) -> ActorStates:
    """All actors within a radius of a point: those that move first, each group by rising id."""
    state, rate = moving.at(time_ns)
    gaps = state[:, :2] - near_m
    rows = np.flatnonzero(np.einsum("ij,ij->i", gaps, gaps) < radius_m**2)
    state, rate, model = state[rows], rate[rows], moving.model[rows]
    still = standing.near(near_m, radius_m)
    pose = footed(relief, state[:, :2], state[:, 2], state[:, 4], table.reach_m[model])
    speed = np.hypot(rate[:, 0], rate[:, 1])
    velocity = np.zeros((len(rows) + len(still), 3))
    velocity[: len(rows), :2] = rate[:, :2]
    # On a slope the body moves along its own x axis: the climb follows from the pitch.
    run = np.hypot(pose[:, 0, 0], pose[:, 1, 0])
    velocity[: len(rows), 2] = speed * pose[:, 2, 0] / np.maximum(run, 1e-6)
    models = np.concatenate([model, standing.model[still]])
    return ActorStates(
        time_ns=time_ns,
        actor_id=np.concatenate([moving.actor_id[rows], standing.ids[still]]),
        model=tuple(table.names[k] for k in models.tolist()),
        phase=np.concatenate([table.phases(model, state[:, 3], speed), standing.phase[still]]),
        world_SE3_actor=np.concatenate([pose, standing.pose[still]]),
        velocity_mps=velocity,
        yaw_rate_radps=np.concatenate([rate[:, 2], np.zeros(len(still))]),
        attribute_index=np.concatenate([table.attributes(model, speed), standing.attribute[still]]),
    )
