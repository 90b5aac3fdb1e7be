"""The scenes of a drive one after the other, with or without results, at the memory of a few."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from perception.core.errors import UsageError
from perception.core.messages import AnyMessage, SensorMessage
from perception.core.ports import Source
from perception.core.results import PerceptionResult
from perception.core.rig import Modality, SensorRig
from perception.viewer.scenes import Scene, SceneComposer

SETTLE_NS = 300_000_000
"""Messages that belong to a reference time have arrived so long after it."""
REFERENCE_ORDER = (Modality.LIDAR, Modality.CAMERA, Modality.RADAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part of a drive: every `stride`-th reference time from `start_s` on (after the first arrival)."""

    stride: int = 1
    start_s: float = 0.0
    duration_s: float | None = None

    def ends_ns(self, first_ns: int) -> int | None:
        """The first time that is behind this part of a drive that begins at `first_ns`."""
        return None if self.duration_s is None else first_ns + round((self.start_s + self.duration_s) * 1e9)

    def holds(self, time_ns: int, first_ns: int) -> bool:
        end_ns = self.ends_ns(first_ns)
        # A sensor may have captured before the drive's first arrival.
        begins_ns = first_ns + round(self.start_s * 1e9) if self.start_s else time_ns
        return begins_ns <= time_ns and (end_ns is None or time_ns < end_ns)


def drive_scenes(source: Source, part: Part, results: Iterable[PerceptionResult] | None = None) -> Iterator[Scene]:
    """The scenes at the captures of the first lidar (else camera, else radar), or at those of `results`, in order.

    Raises UsageError where the results are of another drive, and whatever source and results raise.
    """
    composer, waiting = SceneComposer(source), deque[_Moment]()
    moments = _Captures(source.rig, part) if results is None else _Results(source, part, results)
    first_ns: int | None = None
    for message in source.messages():
        first_ns = message.arrival_ns if first_ns is None else first_ns
        end_ns = part.ends_ns(first_ns)
        if end_ns is not None and message.arrival_ns >= end_ns + SETTLE_NS:
            break
        composer.observe(message)
        waiting.extend(moments.reached(message, first_ns))
        while waiting and waiting[0].reference_ns + SETTLE_NS <= message.arrival_ns:
            yield waiting.popleft().scene(composer)
    for moment in waiting:
        yield moment.scene(composer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    reference_ns: int
    sequence: int
    result: PerceptionResult | None = None

    def scene(self, composer: SceneComposer) -> Scene:
        if self.result is not None:
            return composer.compose(self.result)
        return composer.compose_at(self.reference_ns, self.sequence)


class _Captures:
    """Reference times without results: the captures of the reference sensor."""

    def __init__(self, rig: SensorRig, part: Part) -> None:
        self._reference = next(s.name for modality in REFERENCE_ORDER for s in rig.of(modality))
        self._part = part
        self._count = 0

    def reached(self, message: AnyMessage, first_ns: int) -> Iterator[_Moment]:
        """The moments that are known now that `message` has come."""
        if message.sensor != self._reference or not isinstance(message, SensorMessage):
            return
        if self._part.holds(message.capture_ns, first_ns):
            if self._count % self._part.stride == 0:
                yield _Moment(reference_ns=message.capture_ns, sequence=self._count)
            self._count += 1


class _Results:
    """Reference times of results, each once the drive has come there."""

    def __init__(self, source: Source, part: Part, results: Iterable[PerceptionResult]) -> None:
        self._drive_id = source.drive_id
        self._part = part
        self._coming = iter(results)
        self._next = next(self._coming, None)

    def reached(self, message: AnyMessage, first_ns: int) -> Iterator[_Moment]:
        """The moments that are known now that `message` has come."""
        while (result := self._next) is not None and result.reference_ns <= message.arrival_ns:
            if result.drive_id != self._drive_id:
                raise UsageError(f"the results are of drive {result.drive_id!r}; this is {self._drive_id!r}")
            if result.sequence % self._part.stride == 0 and self._part.holds(result.reference_ns, first_ns):
                yield _Moment(reference_ns=result.reference_ns, sequence=result.sequence, result=result)
            self._next = next(self._coming, None)
