"""The consumer's end that all queues share: decodes payloads, filters by run, counts what is lost or malformed."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from perception.core.errors import QueueError, UsageError
from perception.core.ports import QueueItem, Start
from perception.queues.codec import decode
from perception.queues.runs import RunTracker

TICK_S = 0.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a consumer wants to read.

    start: `earliest` (the whole history, then what follows), `latest` (only what is published once attached) or the
    sequence to begin with. follow: go on with the next run instead of ending with the first. timeout_s: raise
    QueueError if nothing comes for so long; None waits for ever. Raises UsageError for another start.
    """

    start: Start = "earliest"
    follow: bool = False
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        is_number = isinstance(self.start, int) and not isinstance(self.start, bool) and self.start >= 0
        if not is_number and self.start not in ("earliest", "latest"):
            raise UsageError(f"start must be 'earliest', 'latest' or a sequence from 0 on, got {self.start!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A payload as it came, and which producer sent it (its name means nothing beyond being different)."""

    producer: str
    payload: bytes


class Feed(Protocol):
    """What a kind of queue must offer a consumer: payloads of each producer in order, each at most once."""

    def receive(self, timeout_s: float) -> Delivery | None:
        """The next payload, or None if none came in time or the feed was closed."""
        ...

    def keep_to(self, producer: str) -> None:
        """The consumer will not need what other producers send."""
        ...

    def is_gone(self, producer: str) -> bool:
        """Whether nothing more can come from `producer`: it has left, and all that it sent was received."""
        ...

    def close(self) -> None: ...


class ResultSubscription:
    """Iterates the items of one run, `EndOfRun` last; with `follow`, of every run, without end.

    Leaving the loop early closes the subscription. Raises QueueError from the loop when nothing came for
    `reading.timeout_s`, or when the producer went away without ending its run.
    gaps: results known to be lost so far. malformed: payloads that were skipped because they could not be read.
    """

    def __init__(self, feed: Feed, reading: Reading) -> None:
        self.malformed = 0
        self._feed = feed
        self._reading = reading
        self._tracker = RunTracker(reading.start, reading.follow)
        self._producer: str | None = None
        self._closed = False

    @property
    def gaps(self) -> int:
        return self._tracker.gaps

    def __iter__(self) -> Iterator[QueueItem]:
        try:
            while not self._closed:
                item = self._next()
                if item is None:
                    return
                if self._tracker.finished:
                    # Before the item is handed out: the producer is waiting for us to leave.
                    self.close()
                yield item
        finally:
            self.close()

    def close(self) -> None:
        """Detach; may be called again, and from another thread to end a loop that waits."""
        if not self._closed:
            self._closed = True
            self._feed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> QueueItem | None:
        waiting_since = time.monotonic()
        while not self._closed:
            delivery = self._feed.receive(TICK_S)
            if delivery is None:
                self._check_patience(waiting_since)
                continue
            item = self._decode(delivery)
            if item is not None and self._tracker.accept(item):
                self._bind(delivery.producer)
                return item
        return None

    def _decode(self, delivery: Delivery) -> QueueItem | None:
        try:
            return decode(delivery.payload)
        except QueueError as error:
            self.malformed += 1
            logger.warning("skipped what is not a result (%d so far): %s", self.malformed, error)
            return None

    def _bind(self, producer: str) -> None:
        if self._producer is None and not self._reading.follow:
            self._producer = producer
            self._feed.keep_to(producer)

    def _check_patience(self, waiting_since: float) -> None:
        if self._closed:
            return
        if self._producer is not None and self._feed.is_gone(self._producer):
            raise QueueError("the producer went away before the end of its run; what it had sent was delivered")
        timeout_s = self._reading.timeout_s
        if timeout_s is not None and time.monotonic() - waiting_since > timeout_s:
            raise QueueError(f"nothing came for {timeout_s:g} s; is a producer running on this queue?")
