"""What passes between the world and the process that runs SUMO."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.actors.body import Actor
from sim.actors.pool import Pool
from sim.maps.net import RoadMap

F64 = NDArray[np.float64]

EGO = "ego"

_CLASS_OF_KIND: Mapping[str, str] = {
    "hatchback": "passenger", "saloon": "passenger", "suv": "passenger", "van": "passenger", "pickup": "passenger",
    "lorry": "truck", "tractor": "trailer", "bus": "bus", "motorcycle": "motorcycle", "bicycle": "bicycle",
    "adult": "pedestrian", "child": "pedestrian", "worker": "pedestrian",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetType:
    """A type that SUMO moves: a model, with a trailer behind it or not. Lengths in metres as SUMO sees them."""

    name: str
    kind: str
    vehicle_class: str
    model: str
    trailer: str | None
    length_m: float
    width_m: float
    height_m: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrafficPlan:
    """Everything the process needs to begin. ego_edges: its route; it starts at `ego_start_m` on lane `ego_lane`.

    counts: how many of each vehicle class are on the road. first_id: actors are numbered from there. hidden_m:
    newcomers appear at least so far from the ego.
    """

    net: RoadMap
    seed: int
    step_s: float
    warmup_s: float
    fleet: tuple[FleetType, ...]
    counts: Mapping[str, int]
    first_id: int
    ego_edges: tuple[str, ...]
    ego_lane: int
    ego_start_m: float
    ego_length_m: float
    ego_width_m: float
    hidden_m: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrafficFrame:
    """One step. Rows by rising id: actor_id (K,) int64 (an articulated lorry owns id and id + 1), fleet (K,) int64 into
    the plan's fleet, front_m (K, 2) of the front bumper, yaw_rad (K,), is_raised (K,) True on pavements.

    ego: (4,) x, y of its front bumper, yaw, speed. signals: SUMO's state string by traffic light.
    """

    actor_id: NDArray[np.int64]
    fleet: NDArray[np.int64]
    front_m: F64
    yaw_rad: F64
    is_raised: NDArray[np.bool_]
    ego: F64
    signals: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """Ask for one step. ego: x, y of the front bumper, yaw and speed where the ego is driven from outside."""

    ego: tuple[float, float, float, float] | None


def fleet_of(pool: Pool) -> tuple[FleetType, ...]:
    """A type for each model that can move; tractors take the pool's trailers in turn."""
    trailers = pool.of("trailer")
    types: list[FleetType] = []
    for actor in pool.actors.values():
        if actor.kind in _CLASS_OF_KIND:
            behind: tuple[Actor | None, ...] = trailers if actor.kind == "tractor" else (None,)
            types.extend(_type(actor, trailer) for trailer in behind)
    return tuple(types)


def _type(actor: Actor, trailer: Actor | None) -> FleetType:
    length = actor.length_m
    name = actor.model.name
    if trailer is not None and trailer.kingpin_m is not None and actor.hitch_m is not None:
        length = actor.length_m / 2 - actor.hitch_m + trailer.kingpin_m + trailer.length_m / 2
        name = f"{name}-{trailer.model.name}"
    return FleetType(
        name=name,
        kind=actor.kind,
        vehicle_class=_CLASS_OF_KIND[actor.kind],
        model=actor.model.name,
        trailer=None if trailer is None else trailer.model.name,
        length_m=length,
        width_m=actor.width_m,
        height_m=float(actor.model.box_size_m[2]),
    )
