"""A drive held in lists: what tests and programs that make their own messages replay."""

from collections.abc import Iterable, Iterator, Mapping

from perception.core.labels import Labels
from perception.core.messages import AnyMessage
from perception.core.rig import SensorRig


class MemorySource:
    """Replays `messages` in order of arrival (those that arrive together keep their order).

    labels: ground truth by the capture time of the reference sensor. Raises ValueError where a label's key is not its
    reference time.
    """

    def __init__(
        self,
        rig: SensorRig,
        messages: Iterable[AnyMessage],
        labels: Mapping[int, Labels] | None = None,
        *,
        drive_id: str = "memory/drive",
        notes: tuple[str, ...] = (),
    ) -> None:
        self._rig = rig
        self._messages = sorted(messages, key=lambda message: message.arrival_ns)
        self._labels = dict(labels or {})
        self._drive_id = drive_id
        self._notes = notes
        for time_ns, truth in self._labels.items():
            if truth.reference_ns != time_ns:
                raise ValueError(f"labels for {time_ns} refer to {truth.reference_ns}")

    @property
    def drive_id(self) -> str:
        return self._drive_id

    @property
    def rig(self) -> SensorRig:
        return self._rig

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Arrival of the first and the last message; None without any."""
        return (self._messages[0].arrival_ns, self._messages[-1].arrival_ns) if self._messages else None

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        return tuple(sorted(self._labels))

    def messages(self) -> Iterator[AnyMessage]:
        yield from self._messages

    def labels(self, reference_ns: int) -> Labels | None:
        return self._labels.get(reference_ns)

    def close(self) -> None:
        """Nothing is held open."""
