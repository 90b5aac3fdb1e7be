"""The account of a run: what became of every message that came in, and of every bundle that was made."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from perception.core.bundle import DropCause, SensorBundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Each message that came in was used or dropped for one cause; each bundle was published or dropped for one.

    messages, used: by sensor; a message is used once a result was published that rests on it. dropped: by sensor,
    then by cause. bundles: how many were made. published: results, `degraded` of them made of earlier results (their
    messages are dropped by `deadline`, since the tracker alone had them). bundles_dropped: by cause.
    """

    messages: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    bundles: int = 0
    published: int = 0
    degraded: int = 0
    bundles_dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        """Whether nothing is missing and nothing counted twice."""
        is_whole = all(
            count == self.used.get(sensor, 0) + sum(self.dropped.get(sensor, {}).values())
            for sensor, count in self.messages.items()
        )
        sensors = set(self.used) | set(self.dropped)
        bundles = self.published + sum(self.bundles_dropped.values())
        return is_whole and sensors <= set(self.messages) and self.bundles == bundles

    def dropped_by_cause(self) -> dict[str, int]:
        """Messages of all sensors, by cause."""
        causes: Counter[str] = Counter()
        for counts in self.dropped.values():
            causes.update(counts)
        return dict(sorted(causes.items()))


@dataclass(slots=True)
class _Message:
    """One that is not settled yet. open: bundles with it whose outcome is not known. cause: why the last of them, by
    sequence, did not use it."""

    sensor: str
    open: int = 0
    is_released: bool = False
    is_used: bool = False
    cause: DropCause | None = None
    last_bundle: int = -1


class Ledger:
    """Keeps the account while a run goes on; it remembers only messages that are not settled. From several threads.

    A message is settled once the synchronizer has let go of it and every bundle with it is settled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, _Message] = {}
        self._messages: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._dropped: dict[str, Counter[str]] = {}
        self._bundles = self._published = self._degraded = 0
        self._bundles_dropped: Counter[str] = Counter()

    @property
    def unsettled(self) -> int:
        """How many messages are remembered."""
        with self._lock:
            return len(self._open)

    def took(self, index: int, sensor: str) -> None:
        """A message went to the synchronizer."""
        with self._lock:
            self._messages[sensor] += 1
            self._open[index] = _Message(sensor)

    def used(self, sensor: str) -> None:
        """A message that no bundle takes (an ego state, a route) was used."""
        with self._lock:
            self._messages[sensor] += 1
            self._used[sensor] += 1

    def lost(self, sensor: str, cause: DropCause) -> None:
        """A message came that went nowhere."""
        with self._lock:
            self._messages[sensor] += 1
            self._drop(sensor, cause)

    def dropped(self, drops: Iterable[tuple[int, DropCause]]) -> None:
        """The synchronizer dropped these."""
        with self._lock:
            for index, cause in drops:
                self._open[index].cause = cause

    def released(self, indices: Iterable[int]) -> None:
        """No further bundle can take these."""
        with self._lock:
            for index in indices:
                self._open[index].is_released = True
                self._settle(index)

    def made(self, bundle: SensorBundle) -> None:
        """A bundle closed. Before its messages are `released`."""
        with self._lock:
            self._bundles += 1
            for stamp in bundle.hits.values():
                self._open[stamp.index].open += 1

    def published(self, bundle: SensorBundle, unused: Mapping[str, DropCause]) -> None:
        """A result of a bundle went out. unused: by sensor, whose message did not go into it and why."""
        with self._lock:
            self._published += 1
            self._close(bundle, unused)

    def degraded(self, bundle: SensorBundle) -> None:
        """A result went out in place of the one that rests on the bundle."""
        with self._lock:
            self._published += 1
            self._degraded += 1
            self._close(bundle, dict.fromkeys(bundle.hits, DropCause.DEADLINE))

    def discarded(self, bundle: SensorBundle, cause: DropCause) -> None:
        """No result of a bundle goes out."""
        with self._lock:
            self._bundles_dropped[cause.value] += 1
            self._close(bundle, dict.fromkeys(bundle.hits, cause))

    def account(self) -> Account:
        with self._lock:
            return Account(
                messages=dict(sorted(self._messages.items())),
                used=dict(sorted(self._used.items())),
                dropped={sensor: dict(sorted(causes.items())) for sensor, causes in sorted(self._dropped.items())},
                bundles=self._bundles,
                published=self._published,
                degraded=self._degraded,
                bundles_dropped=dict(sorted(self._bundles_dropped.items())),
            )

    def _close(self, bundle: SensorBundle, unused: Mapping[str, DropCause]) -> None:
        for sensor, stamp in bundle.hits.items():
            message = self._open[stamp.index]
            message.open -= 1
            if sensor in unused:
                # By sequence: bundles that are dropped overtake those that are still under way.
                if bundle.sequence > message.last_bundle:
                    message.cause, message.last_bundle = unused[sensor], bundle.sequence
            else:
                message.is_used = True
            self._settle(stamp.index)

    def _settle(self, index: int) -> None:
        message = self._open[index]
        if message.open or not message.is_released:
            return
        del self._open[index]
        if message.is_used:
            self._used[message.sensor] += 1
        else:
            assert message.cause is not None
            self._drop(message.sensor, message.cause)

    def _drop(self, sensor: str, cause: DropCause) -> None:
        self._dropped.setdefault(sensor, Counter())[cause.value] += 1
