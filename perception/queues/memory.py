"""`memory:NAME`: a queue within one process.

Promises: ordered, lossless within `history` while the producer lives; publishing never waits. A consumer that falls
further behind than the history loses the oldest and counts them. Nothing outlives the process.
"""

import threading
import uuid
from collections import deque
from weakref import WeakValueDictionary

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError, UsageError
from perception.core.ports import QueueItem
from perception.queues.codec import encode
from perception.queues.subscription import Delivery, Reading, ResultSubscription

MIN_KEPT = 64


class Channel:
    """What the producers and consumers of one name share: a log of the last payloads, numbered from 0."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.log: deque[Delivery] = deque()
        self.first = 0
        self.offered_from = 0
        self.history = 0
        self.producers: set[str] = set()
        self.consumers = 0

    @property
    def head(self) -> int:
        return self.first + len(self.log)

    def append(self, delivery: Delivery) -> None:
        with self.changed:
            self.log.append(delivery)
            # Consumers that are attached read from the log too: it is never shorter than MIN_KEPT.
            if len(self.log) > max(self.history, MIN_KEPT):
                self.log.popleft()
                self.first += 1
            self.changed.notify_all()

    def join(self, producer: str, history: int) -> None:
        with self.changed:
            self.producers.add(producer)
            self.history = history

    def leave(self, producer: str) -> None:
        with self.changed:
            self.producers.discard(producer)
            if not self.producers:
                self.offered_from = self.head
            self.changed.notify_all()


class Directory:
    """The channels of this process by name; a channel lives as long as somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: WeakValueDictionary[str, Channel] = WeakValueDictionary()

    def channel(self, name: str) -> Channel:
        """Raises UsageError for an empty name."""
        if not name:
            raise UsageError("a memory queue needs a name, as in memory:results")
        with self._lock:
            return self._channels.setdefault(name, Channel())


# The one place where a process-wide name is the point: producer and consumer share nothing but the URL.
DIRECTORY = Directory()


class MemoryQueue:
    """A producer on `memory:NAME`. Raises UsageError for an empty name."""

    def __init__(self, name: str, config: QueueConfig) -> None:
        self._id = uuid.uuid4().hex
        self._channel = DIRECTORY.channel(name)
        self._channel.join(self._id, config.history)
        self._closed = False

    def publish(self, item: QueueItem) -> None:
        """Raises QueueError where the item cannot be encoded, or after `close`."""
        self.send(encode(item))

    def send(self, payload: bytes) -> None:
        """Publish bytes as they are. Raises QueueError after `close`."""
        if self._closed:
            raise QueueError("the queue was closed; nothing more can be published")
        self._channel.append(Delivery(producer=self._id, payload=payload))

    def take_losses(self) -> int:
        """Always 0: the log takes everything."""
        return 0

    def has_consumer(self) -> bool:
        return self._channel.consumers > 0

    def close(self) -> None:
        """Leave at once: attached consumers keep the log."""
        if not self._closed:
            self._closed = True
            self._channel.leave(self._id)


class MemoryFeed:
    """A consumer's place in a channel's log."""

    def __init__(self, channel: Channel, start_at_head: bool) -> None:
        self._channel = channel
        self._closed = False
        with channel.changed:
            oldest = max(channel.first, channel.offered_from, channel.head - channel.history)
            self._next = channel.head if start_at_head else oldest
            channel.consumers += 1

    def receive(self, timeout_s: float) -> Delivery | None:
        channel = self._channel
        with channel.changed:
            if not channel.changed.wait_for(lambda: self._closed or self._next < channel.head, timeout_s):
                return None
            if self._closed:
                return None
            self._next = max(self._next, channel.first)
            delivery = channel.log[self._next - channel.first]
            self._next += 1
            return delivery

    def acknowledge(self, delivery: Delivery) -> None:
        """Nothing to remember."""

    def keep_to(self, producer: str) -> None:
        """Nothing to save: the log is shared."""

    def is_gone(self, producer: str) -> bool:
        with self._channel.changed:
            return producer not in self._channel.producers and self._next >= self._channel.head

    def close(self) -> None:
        with self._channel.changed:
            if not self._closed:
                self._closed = True
                self._channel.consumers -= 1
                self._channel.changed.notify_all()


def open_queue(address: str, config: QueueConfig) -> MemoryQueue:
    return MemoryQueue(address, config)


def open_feed(address: str, reading: Reading, config: QueueConfig) -> MemoryFeed:
    """What arrives under a name, as bytes. Raises UsageError for an empty name."""
    return MemoryFeed(DIRECTORY.channel(address), reading.start == "latest")


def subscribe(address: str, reading: Reading, config: QueueConfig) -> ResultSubscription:
    reading.refuse_group("memory")
    return ResultSubscription(open_feed(address, reading, config), reading)
