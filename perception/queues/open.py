"""Queues by URL: `SCHEME:ADDRESS`. Nothing of a queue's library is imported before that queue is used."""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, cast

from perception.config.schema import QueueConfig
from perception.core.errors import UsageError
from perception.core.ports import ResultQueue, Start, Subscription
from perception.queues.security import PASSWORD_VARIABLE, USER_VARIABLE
from perception.queues.subscription import Reading

QUEUES = {
    "mcap": "perception.queues.mcap",
    "memory": "perception.queues.memory",
    "nats": "perception.queues.nats",
    "redis": "perception.queues.redis",
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
    group: str | None = None,
    max_age_s: float | None = None,
    config: QueueConfig | None = None,
) -> Subscription:
    """The consumer's end of the queue at `url`: iterate it to get results, then `EndOfRun`, in order.

    A consumer may start before the producer, or later: `earliest` begins with the oldest result in the history,
    `latest` with the next one published, a number N with sequence N of the run. It takes the first run that it meets
    and ends with it; results of other runs on the same queue are ignored, unless `follow` asks for every run, without
    end (`--loop`). timeout_s: raise QueueError in the loop if nothing comes for so long.

    group: a name under which a durable queue remembers what was acknowledged (a result is, once the next one is asked
    for): whoever comes back under it goes on from there. What was handed out and not acknowledged is handed out again,
    to whoever has the name next; `(drive_id, run_id, sequence)` tells it from others. Members that are there at the
    same time share the results: each goes to one of them, in order as long as nobody dies, and so does the end of a
    run, after which that member's loop ends (unless `follow`) while the others go on; a member counts no gaps, and gets
    results of every run.
    max_age_s: results published longer ago are skipped and counted as `stale`.
    Iterate with `for` or `async for`. Raises UsageError for a bad URL, start or group, QueueError if the queue is out
    of reach.
    """
    kind, address = _kind_of(url)
    reading = Reading(start=start, follow=follow, timeout_s=timeout_s, group=group, max_age_s=max_age_s)
    return kind.subscribe(address, reading, config or QueueConfig())


def _kind_of(url: str) -> tuple[QueueKind, str]:
    scheme, colon, address = url.partition(":")
    user, at, _ = address.removeprefix("//").partition("/")[0].rpartition("@")
    if at and (address.startswith("//") or ":" in user):
        # The URL is not shown: what stands before the @ may be a password.
        raise UsageError(
            "a queue's URL holds no user or password, as others read command lines and logs; set queue.security.user "
            f"and password_file, or {USER_VARIABLE} and {PASSWORD_VARIABLE}"
        )
    if colon and scheme in QUEUES:
        return cast(QueueKind, import_module(QUEUES[scheme])), address
    added = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if colon and scheme in added:
        return cast(QueueKind, added[scheme].load()), address
    known = ", ".join(f"{name}:" for name in sorted({*QUEUES, *added}))
    raise UsageError(f"{'it' if '@' in url else repr(url)} names no queue; a queue URL begins with one of {known}")
