"""What a driver is told at one moment."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import Signal
from perception.core.results import PerceptionResult
from sim.ego import DriveTarget, VehicleSpec, VehicleState
from sim.obstacles import Obstacles
from sim.path import Path

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """The next light and the next junction on the route, as ways from the rear axle, infinite where there is none.

    line_m: to the light's stop line. enter_m, leave_m: to the begin and the end of the junction that the ego is in or
    comes to next. has_priority: everybody else at that junction must give way to the ego.
    """

    signal: Signal = Signal.UNKNOWN
    line_m: float = float("inf")
    has_priority: bool = True
    enter_m: float = float("inf")
    leave_m: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heard:
    """The newest result in effect, and where the ego was at its reference time. world_SE3_ego: (4, 4)."""

    result: PerceptionResult
    world_SE3_ego: F64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Situation:
    """Truth for the oracle, `heard` for who drives by perception.

    path, profile_mps: the route and its highest speed (N,). s_m, offset_m: the ego's place along and beside it.
    start: where the ego began.
    """

    state: VehicleState
    start: VehicleState
    spec: VehicleSpec
    path: Path
    profile_mps: F64
    s_m: float
    offset_m: float
    obstacles: Obstacles
    ahead: Ahead = field(default_factory=Ahead)
    heard: Heard | None = None


class Driver(Protocol):
    def act(self, situation: Situation) -> DriveTarget:
        """Steering and acceleration from now on, until asked again."""
        ...
