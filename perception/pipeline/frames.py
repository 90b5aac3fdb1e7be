"""A bundle on its way to a result: as it closed, and as it was given to the engine."""

from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, replace

from perception.core.bundle import SensorBundle
from perception.core.messages import RouteCommand
from perception.core.motion import EgoMotion
from perception.core.results import SensorStatus
from perception.core.stages import FusionOutput, ModelInfo
from perception.pipeline.ladder import Rung


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """A bundle that has closed, with all that was known then: what becomes of it does not depend on when it is fused.

    masked: sensors that are left out for a fault. received_ns: monotonic time when its last message came in.
    """

    bundle: SensorBundle
    masked: tuple[str, ...]
    motion: EgoMotion
    status: tuple[SensorStatus, ...]
    route: RouteCommand | None
    received_ns: int

    @property
    def usable(self) -> SensorBundle:
        """The bundle as if masked sensors had not been there."""
        if not self.masked:
            return self.bundle
        hits = {name: stamp for name, stamp in self.bundle.hits.items() if name not in self.masked}
        return replace(self.bundle, hits=hits, misses=(*self.bundle.misses, *self.masked))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """A draft on its way through the engine.

    status: with what the rung leaves out marked as absent; left_out: those sensors. model: which makes it. turn: its
    place in the order in which drafts were dispatched or discarded. at_message:
    how many messages had been taken when its turn came. dropped: lost since the frame before. change: why the rung is
    another one than the frame's before.
    """

    draft: Draft
    future: Future[FusionOutput]
    status: tuple[SensorStatus, ...]
    left_out: frozenset[str]
    rung: Rung
    change: str
    model: ModelInfo
    turn: int
    at_message: int
    dropped: Counter[str]

    @property
    def bundle(self) -> SensorBundle:
        return self.draft.bundle

    @property
    def motion(self) -> EgoMotion:
        return self.draft.motion


def absent(status: SensorStatus) -> SensorStatus:
    """The state of a sensor whose message did not go into the result."""
    return replace(status, present=False, age_ns=None)
