"""What the sensors' schedule and the navigation need of a world, simulated or read from a log."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import Signal
from sim.route import EgoRoute
from sim.scene import SceneView


class DrivenWorld(SceneView, Protocol):
    """A scene whose ego drives along a route."""

    @property
    def route(self) -> EgoRoute: ...

    def advance_to(self, time_ns: int) -> None:
        """Make everything up to `time_ns` known."""
        ...

    def ego_arc_m(self, time_ns: int) -> float:
        """How far along the route the ego is."""
        ...

    def next_signal(self, time_ns: int) -> tuple[Signal, float | None]:
        """State of the next light on the route and the way to its stop line; (UNKNOWN, None) if none is left."""
        ...

    def drivable_at(self, points_m: NDArray[np.floating]) -> NDArray[np.bool_]:
        """True (...) where points (..., 2 or more) of the world lie on road."""
        ...

    def close(self) -> None: ...
