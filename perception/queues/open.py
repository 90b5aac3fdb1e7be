"""Queues by URL: `SCHEME:ADDRESS`. Nothing of a queue's library is imported before that queue is used."""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, cast

from perception.config.schema import QueueConfig
from perception.core.errors import UsageError
from perception.core.ports import ResultQueue, Start, Subscription
from perception.queues.subscription import Reading

QUEUES = {
    "memory": "perception.queues.memory",
    "zenoh": "perception.queues.zenoh",
}
"""Module of each scheme. Packages add theirs as entry points of the group `perception.queues`, named as the scheme."""

ENTRY_POINTS = "perception.queues"


class QueueKind(Protocol):
    """What the module (or other object) of a scheme must offer; `address` is the URL after the colon."""

    def open_queue(self, address: str, config: QueueConfig) -> ResultQueue:
        """A producer. Raises UsageError for a bad address, QueueError where the queue cannot be reached."""
        ...

    def subscribe(self, address: str, reading: Reading, config: QueueConfig) -> Subscription:
        """A consumer. Raises as `open_queue`; may start before any producer."""
        ...


def open_queue(url: str, config: QueueConfig | None = None) -> ResultQueue:
    """The producer's end of the queue at `url`. Raises UsageError for a bad URL, QueueError if it is out of reach."""
    kind, address = _kind_of(url)
    return kind.open_queue(address, config or QueueConfig())


def subscribe(
    url: str,
    *,
    start: Start = "earliest",
    follow: bool = False,
    timeout_s: float | None = None,
    config: QueueConfig | None = None,
) -> Subscription:
    """The consumer's end of the queue at `url`: iterate it to get results, then `EndOfRun`, in order.

    A consumer may start before the producer, or later: `earliest` begins with the oldest result in the history,
    `latest` with the next one published, a number N with sequence N of the run. It takes the first run that it meets
    and ends with it; results of other runs on the same queue are ignored, unless `follow` asks for every run, without
    end (`--loop`). timeout_s: raise QueueError in the loop if nothing comes for so long.
    Raises UsageError for a bad URL or start, QueueError if the queue is out of reach.
    """
    kind, address = _kind_of(url)
    return kind.subscribe(address, Reading(start=start, follow=follow, timeout_s=timeout_s), config or QueueConfig())


def _kind_of(url: str) -> tuple[QueueKind, str]:
    scheme, colon, address = url.partition(":")
    if colon and scheme in QUEUES:
        return cast(QueueKind, import_module(QUEUES[scheme])), address
    added = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if colon and scheme in added:
        return cast(QueueKind, added[scheme].load()), address
    known = ", ".join(f"{name}:" for name in sorted({*QUEUES, *added}))
    raise UsageError(f"{url!r} names no queue; a queue URL begins with one of {known}")
