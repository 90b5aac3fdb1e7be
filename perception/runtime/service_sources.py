"""Opens a vehicle's source, and counts what comes out of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from perception.config.schema import ServiceConfig
from perception.config.serving import VehicleConfig
from perception.core.labels import Labels
from perception.core.messages import AnyMessage
from perception.core.ports import LiveSource, LossySource, Seekable, Source, Steerable
from perception.core.results import PerceptionResult
from perception.core.rig import SensorRig
from perception.queues.sensor_stream import SensorStreamSource
from perception.sources.mcap_tail import McapTail
from perception.sources.open import open_drive

Tap = Callable[[AnyMessage], None]

TAIL: Final = "tail"
SENSORS: Final = "sensors"
ROS2: Final = "ros2"


def open_source(vehicle: VehicleConfig, settings: ServiceConfig) -> Source:
    """A live source by its prefix, else a drive. Raises what opening it raises: DriveError, UsageError, ConfigError."""
    prefix, colon, rest = vehicle.source.partition(":")
    if colon and prefix == TAIL:
        return McapTail(Path(rest))
    if colon and prefix == SENSORS:
        return SensorStreamSource(rest, config=settings.queue)
    if colon and prefix == ROS2:
        from perception.sources.ros2 import Ros2Source  # here, as it takes a while

        return Ros2Source(rest)
    return open_drive(vehicle.source, format=vehicle.format, scene=vehicle.scene, latency=settings.latency)


def watched(source: Source, tap: Tap) -> "WatchedSource":
    """`source`, whose every message goes past `tap` first."""
    if isinstance(source, Steerable):
        return _WatchedSteerable(source, tap)
    return _WatchedSeekable(source, tap) if isinstance(source, Seekable) else WatchedSource(source, tap)


class WatchedSource:
    """A source as it is, with a tap on its messages."""

    def __init__(self, source: Source, tap: Tap) -> None:
        self._source = source
        self._tap = tap
        self._live = source if isinstance(source, LiveSource) else None
        self._lossy = source if isinstance(source, LossySource) else None

    @property
    def drive_id(self) -> str:
        return self._source.drive_id

    @property
    def rig(self) -> SensorRig:
        return self._source.rig

    @property
    def notes(self) -> tuple[str, ...]:
        return self._source.notes

    @property
    def span_ns(self) -> tuple[int, int] | None:
        return self._source.span_ns

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        return self._source.label_times_ns

    @property
    def is_live(self) -> bool:
        """Whether its messages come by themselves."""
        return self._live is not None

    @property
    def lost(self) -> int:
        return 0 if self._lossy is None else self._lossy.lost

    def messages(self) -> Iterator[AnyMessage]:
        return self._watch(self._source.messages())

    def labels(self, reference_ns: int) -> Labels | None:
        return self._source.labels(reference_ns)

    def interrupt(self) -> None:
        """End the messages of a live source soon; a drive is ended by whoever plays it."""
        if self._live is not None:
            self._live.interrupt()

    def close(self) -> None:
        self._source.close()

    def _watch(self, messages: Iterator[AnyMessage]) -> Iterator[AnyMessage]:
        for message in messages:
            self._tap(message)
            yield message


class _WatchedSteerable(WatchedSource):
    def apply(self, result: PerceptionResult) -> None:
        assert isinstance(self._source, Steerable)
        self._source.apply(result)


class _WatchedSeekable(WatchedSource):
    def messages_from(self, arrival_ns: int) -> Iterator[AnyMessage]:
        assert isinstance(self._source, Seekable)
        return self._watch(self._source.messages_from(arrival_ns))
