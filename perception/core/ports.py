"""The ports: what a source, an engine, a queue, a recorder and a clock must do. The whole contract is in this file."""

from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from perception.core.labels import Labels
from perception.core.messages import AnyMessage
from perception.core.results import EndOfRun, PerceptionResult
from perception.core.rig import SensorRig
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.core.supervision import SupervisionState

Start = Literal["earliest", "latest"] | int
QueueItem = PerceptionResult | EndOfRun
Recorded = AnyMessage | Labels | QueueItem


@runtime_checkable
class Source(Protocol):
    """A drive or a simulator. Constructing one reads what is needed to know that it can be read; nothing more."""

    @property
    def drive_id(self) -> str:
        """Names the drive; the same drive gives the same name."""
        ...

    @property
    def rig(self) -> SensorRig: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about these data (assumed times, missing sensors), a line each; may be empty."""
        ...

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Arrival of the first and the last message where that is known beforehand (a recorded drive), else None."""
        ...

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        """Reference times that have labels, rising; empty without labels or where they are not known beforehand."""
        ...

    def messages(self) -> Iterator[AnyMessage]:
        """All messages in arrival order; may be called again for another lap.

        A message whose payload cannot be read comes as `Unreadable`. Raises DriveError where the drive itself breaks.
        """
        ...

    def labels(self, reference_ns: int) -> Labels | None:
        """Ground truth at exactly `reference_ns` (a capture time of the reference lidar), None where there is none."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Seekable(Source, Protocol):
    """A source that can begin anywhere without reading what lies before."""

    def messages_from(self, arrival_ns: int) -> Iterator[AnyMessage]:
        """As `messages`, from the first one that arrives at `arrival_ns` or later."""
        ...


@runtime_checkable
class LiveSource(Source, Protocol):
    """A source whose messages come when they come; nobody has to pace it."""

    def interrupt(self) -> None:
        """End `messages` soon, also where it waits; from any thread, and for good."""
        ...


@runtime_checkable
class LossySource(Source, Protocol):
    """A live source whose messages may get lost before it can give them."""

    @property
    def lost(self) -> int:
        """Messages that were published and will not be given, so far."""
        ...


@runtime_checkable
class Steerable(Source, Protocol):
    """A source that reacts: the closed loop of a simulator."""

    def apply(self, result: PerceptionResult) -> None:
        """Let the ego act on a result. Called in the order of results, from the thread that iterates `messages`."""
        ...


@runtime_checkable
class TruthSource(Source, Protocol):
    """A source that also knows where the road is and where the ego went: a simulator, a recorded drive with a map.

    After `messages` was begun.
    """

    def drivable(self, reference_ns: int, half_m: float, cell_m: float) -> NDArray[np.bool_]:
        """(H, W), True where one may drive, of a square of side 2 `half_m` around the ego at `reference_ns`.

        Row 0 is furthest back, column 0 furthest right; H = W = 2 `half_m` / `cell_m`.
        """
        ...

    def future_path(self, reference_ns: int, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """(W, 2) where the ego is `times_s` (W,) after the reference, in the ego frame at the reference.

        Raises ValueError before the ego went there, or when it was so long ago that it is forgotten.
        """
        ...


class FeatureHandle(Protocol):
    """Features in an engine's keeping; only that engine knows what is inside."""

    @property
    def key(self) -> str: ...


class Engine(Protocol):
    """Encodes and fuses. Calls return at once where the engine can work beside the caller."""

    @property
    def placement(self) -> str: ...

    @property
    def model(self) -> ModelInfo: ...

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        """Start to encode. A payload that cannot be decoded is not an error here: `fuse` reports it as a failure."""
        ...

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        """Fuse features (cameras in the order of `request.cameras`, then lidars, then radar).

        The future raises the engine's own error as itself (the traceback of another process as a note), EngineError
        where a process died.
        """
        ...

    def release(self, features: Sequence[FeatureHandle]) -> None:
        """The session will not use these features again."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Supervised(Engine, Protocol):
    """An engine that replaces its own processes when they die or hang, and does again what they owed."""

    def supervision(self) -> SupervisionState: ...


@runtime_checkable
class TieredEngine(Engine, Protocol):
    """An engine with quicker, less exact ones beside it, for when it cannot keep up."""

    @property
    def tiers(self) -> tuple[Engine, ...]:
        """The engine itself first, the quickest last."""
        ...


class ResultQueue(Protocol):
    """Carries results from one producer to any number of consumers. Each implementation states what it promises."""

    def publish(self, item: QueueItem) -> None:
        """Send one item. Raises QueueError where the queue cannot take it."""
        ...

    def has_consumer(self) -> bool:
        """Whether anybody is subscribed now."""
        ...

    def take_losses(self) -> int:
        """Items dropped since the last call because the queue could not take them; 0 where it always can."""
        ...

    def close(self) -> None:
        """Flush, linger as configured, and go."""
        ...


class Subscription(Protocol):
    """A consumer's end of a queue: iterates items in order and ends after `EndOfRun` (which it yields).

    An item counts as dealt with (is acknowledged, where the queue remembers that) once the next one is asked for.
    """

    def acknowledge(self) -> None:
        """The last item was dealt with; for whoever leaves the loop there, before leaving it."""
        ...

    @property
    def gaps(self) -> int:
        """Results known to be lost (overrun of the history) so far."""
        ...

    @property
    def stale(self) -> int:
        """Results skipped so far because they were older than the consumer wants them."""
        ...

    def __iter__(self) -> Iterator[QueueItem]: ...

    def __aiter__(self) -> AsyncIterator[QueueItem]: ...

    def close(self) -> None: ...


class Recorder(Protocol):
    """Writes a drive and its results to a file or folder."""

    def write(self, item: Recorded) -> None: ...

    def close(self) -> None:
        """Finish the file so that it can be read; also called after an error."""
        ...


class Clock(Protocol):
    def now_ns(self) -> int: ...

    def sleep_until(self, time_ns: int) -> None: ...
