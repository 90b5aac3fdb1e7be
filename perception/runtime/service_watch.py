"""What happens in the service, told to whoever keeps an account of it: metrics, logs, traces."""

from collections.abc import Sequence
from enum import StrEnum

from perception.core.messages import AnyMessage
from perception.core.ports import Source
from perception.core.results import PerceptionResult
from perception.core.stages import FuseRequest, FusionOutput, ModelInfo
from perception.pipeline.replay import RunSummary
from perception.runtime.service_tiers import Tier


class VehicleState(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    """Source and queue are being opened."""
    RUNNING = "running"
    DRAINING = "draining"
    """No more messages are taken; what is under way is published."""
    WAITING = "waiting"
    """It failed, or its source ended; it begins again after a pause."""
    FINISHED = "finished"
    """The drive has come to its end."""


class Watcher:
    """Hears everything and does nothing; each watcher overrides what it wants to hear.

    Called from the vehicles' own threads, in order for one vehicle; it must be quick and must not raise.
    """

    def state(self, vehicle: str, state: VehicleState) -> None: ...

    def opened(self, vehicle: str, source: Source) -> None: ...

    def message(self, vehicle: str, message: AnyMessage) -> None: ...

    def fused(self, vehicle: str, request: FuseRequest, output: FusionOutput, asked_ns: int) -> None:
        """asked_ns: monotonic time at which fusion was asked for."""

    def result(self, vehicle: str, result: PerceptionResult) -> None:
        """It was handed to the queue."""

    def ended(self, vehicle: str, summary: RunSummary) -> None:
        """A run ended in order."""

    def failed(self, vehicle: str, error: Exception, pause_s: float) -> None:
        """A run broke; the vehicle begins again after `pause_s`."""

    def model(self, info: ModelInfo, placement: str, tier: Tier) -> None:
        """This model runs from now on."""

    def close(self) -> None: ...


class Watchers(Watcher):
    """Tells several watchers."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = tuple(watchers)

    def state(self, vehicle: str, state: VehicleState) -> None:
        for watcher in self._watchers:
            watcher.state(vehicle, state)

    def opened(self, vehicle: str, source: Source) -> None:
        for watcher in self._watchers:
            watcher.opened(vehicle, source)

    def message(self, vehicle: str, message: AnyMessage) -> None:
        for watcher in self._watchers:
            watcher.message(vehicle, message)

    def fused(self, vehicle: str, request: FuseRequest, output: FusionOutput, asked_ns: int) -> None:
        for watcher in self._watchers:
            watcher.fused(vehicle, request, output, asked_ns)

    def result(self, vehicle: str, result: PerceptionResult) -> None:
        for watcher in self._watchers:
            watcher.result(vehicle, result)

    def ended(self, vehicle: str, summary: RunSummary) -> None:
        for watcher in self._watchers:
            watcher.ended(vehicle, summary)

    def failed(self, vehicle: str, error: Exception, pause_s: float) -> None:
        for watcher in self._watchers:
            watcher.failed(vehicle, error, pause_s)

    def model(self, info: ModelInfo, placement: str, tier: Tier) -> None:
        for watcher in self._watchers:
            watcher.model(info, placement, tier)

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()
