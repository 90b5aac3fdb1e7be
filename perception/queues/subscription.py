"""The consumer's end that all queues share: decodes payloads, filters by run, counts what is lost or malformed."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from perception.core.errors import QueueError, UsageError
from perception.core.ports import QueueItem, Start
from perception.core.results import EndOfRun
from perception.queues.codec import decode
from perception.queues.runs import GroupTracker, RunTracker, Tracker

TICK_S = 0.2
GROUP_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a consumer wants to read.

    start: `earliest` (the whole history, then what follows), `latest` (only what is published once attached) or the
    sequence to begin with. follow: go on with the next run instead of ending with the first. timeout_s: raise
    QueueError if nothing comes for so long; None waits for ever. group: the name under which a durable queue remembers
    what was acknowledged; `start`, here `earliest` or `latest`, counts where the name is new. max_age_s: results
    published longer ago are skipped. Raises UsageError for a start, name or age that is none.
    """

    start: Start = "earliest"
    follow: bool = False
    timeout_s: float | None = None
    group: str | None = None
    max_age_s: float | None = None

    def __post_init__(self) -> None:
        is_number = isinstance(self.start, int) and not isinstance(self.start, bool) and self.start >= 0
        if not is_number and self.start not in ("earliest", "latest"):
            raise UsageError(f"start must be 'earliest', 'latest' or a sequence from 0 on, got {self.start!r}")
        if self.group is not None and GROUP_NAME.fullmatch(self.group) is None:
            raise UsageError(f"a group's name is made of letters, digits, - and _, got {self.group!r}")
        if self.group is not None and is_number:
            raise UsageError(f"a group goes on where it was; it begins at earliest or latest, not at {self.start}")
        if self.max_age_s is not None and not self.max_age_s > 0:
            raise UsageError(f"max_age must be above 0 s, got {self.max_age_s}")

    def refuse_group(self, scheme: str) -> None:
        """For queues that remember nothing of their consumers. Raises UsageError where a group was asked for."""
        if self.group is not None:
            raise UsageError(
                f"{scheme}: remembers no consumers, so it has no groups; use nats: or redis:, or begin at a sequence"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A payload as it came, and which producer sent it (its name means nothing beyond being different).

    place: what the feed needs to acknowledge it, if it acknowledges.
    """

    producer: str
    payload: bytes
    place: str = ""


class Feed(Protocol):
    """What a kind of queue must offer a consumer: payloads of each producer in order, each at most once.

    With a group: each at least once, and those that come twice or late are no concern of the feed.
    """

    def receive(self, timeout_s: float) -> Delivery | None:
        """The next payload, or None if none came in time or the feed was closed. Raises QueueError if refused."""
        ...

    def acknowledge(self, delivery: Delivery) -> None:
        """The consumer is done with this delivery and need not get it again."""
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
    `reading.timeout_s`, when the producer went away without ending its run, or when a broker refuses us.
    With a group it iterates what this member is handed out, of whatever runs, up to the first end of one.
    gaps: results known to be lost so far. stale: results skipped because of their age. malformed: payloads that were
    skipped because they could not be read. What is skipped is acknowledged at once, a result when the next item is
    asked for, and the end of the run as it is handed out.
    """

    def __init__(self, feed: Feed, reading: Reading) -> None:
        self.malformed = 0
        self.stale = 0
        self._feed = feed
        self._reading = reading
        self._tracker: Tracker = (
            RunTracker(reading.start, reading.follow) if reading.group is None else GroupTracker(reading.follow)
        )
        self._producer: str | None = None
        self._closed = False
        self._handed_out: Delivery | None = None

    @property
    def gaps(self) -> int:
        return self._tracker.gaps

    def __iter__(self) -> Iterator[QueueItem]:
        try:
            while (item := self._next()) is not None:
                yield item
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[QueueItem]:
        """The same for asyncio: a thread waits, the event loop goes on."""
        try:
            while (item := await asyncio.to_thread(self._next)) is not None:
                yield item
        finally:
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Detach; may be called again, and from another thread to end a loop that waits."""
        if not self._closed:
            if self._tracker.finished:
                self.acknowledge()
            self._closed = True
            self._feed.close()

    def acknowledge(self) -> None:
        """The last item was dealt with; for whoever leaves the loop there, before leaving it, as that closes us."""
        if self._handed_out is not None and not self._closed:
            self._feed.acknowledge(self._handed_out)
        self._handed_out = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> QueueItem | None:
        """The next item; None at the end of the loop. Asking for it says that the one before was dealt with."""
        self.acknowledge()
        waiting_since = time.monotonic()
        while not (self._closed or self._tracker.finished):
            delivery = self._feed.receive(TICK_S)
            if delivery is None:
                self._check_patience(waiting_since)
                continue
            item = self._decode(delivery)
            if item is None or not self._is_wanted(item, delivery.producer):
                self._feed.acknowledge(delivery)
                continue
            self._handed_out = delivery
            if isinstance(item, EndOfRun) and not self._reading.follow:
                # Before the item is handed out: the producer is waiting for us to leave.
                self.close()
            return item
        return None

    def _is_wanted(self, item: QueueItem, producer: str) -> bool:
        if not self._tracker.accept(item):
            return False
        self._bind(producer)
        max_age_s = self._reading.max_age_s
        if isinstance(item, EndOfRun) or max_age_s is None or time.time_ns() - item.published_ns <= max_age_s * 1e9:
            return True
        self.stale += 1
        return False

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
