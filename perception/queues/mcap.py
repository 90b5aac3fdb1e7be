"""`mcap:PATH`: a file as a queue. The service appends results to it, consumers in other processes follow as it grows.

Promises: ordered, effectively once, the whole file is the history. A result can be read as soon as `publish` has
returned; nothing waits for a consumer. When the producer is killed nothing of that is lost: a record that it was just
writing is cut off by the next producer, which goes on behind what is whole. When the power fails, what came after the
last end of a run may be lost: the file is forced to the disk there, and when the producer closes.
One producer at a time; a second one is refused. A consumer can begin at a sequence, but nothing is remembered of it.

The file is a plain MCAP (https://mcap.dev/spec) that other tools open: one channel of `perception.v1.QueueItem`, its
schema within, compressed by zstd. A file whose producer was killed has no index; the tools' `recover` makes one.
Whoever may read the file may consume, and whoever may write it may publish: there is no other access control.
"""

import time
import uuid
from pathlib import Path

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError, UsageError
from perception.core.ports import QueueItem
from perception.core.results import EndOfRun
from perception.queues.codec import encode
from perception.queues.mcap_feed import McapFeed
from perception.queues.mcap_writer import McapWriter
from perception.queues.subscription import Reading, ResultSubscription


class McapQueue:
    """The producer on `mcap:PATH`: makes the file, or goes on behind what a producer of the same version left in it.

    Raises UsageError without a path, QueueError where the file cannot be written, is something else, or has a producer.
    """

    def __init__(self, address: str) -> None:
        self._closed = False
        self._writer = McapWriter(checked_path(address), producer=uuid.uuid4().hex)

    def publish(self, item: QueueItem) -> None:
        """Raises QueueError where the item cannot be encoded or written, or after `close`."""
        self.send(encode(item))
        if isinstance(item, EndOfRun):
            self._writer.sync()

    def send(self, payload: bytes) -> None:
        """Publish bytes as they are. Raises QueueError where they cannot be written, or after `close`."""
        if self._closed:
            raise QueueError("the queue was closed; nothing more can be published")
        self._writer.write(payload, time.time_ns())

    def take_losses(self) -> int:
        """Always 0: what cannot be written is an error."""
        return 0

    def has_consumer(self) -> bool:
        return not self._closed and self._writer.has_reader()

    def close(self) -> None:
        """Write the index and go at once: the file stays. Raises QueueError where it cannot be written."""
        if not self._closed:
            self._closed = True
            self._writer.close()


def checked_path(address: str) -> Path:
    """The path in `mcap:PATH`. Raises UsageError where it is empty."""
    if not address:
        raise UsageError("an mcap queue needs a file, as in mcap:results.mcap")
    return Path(address)


def open_queue(address: str, config: QueueConfig) -> McapQueue:
    return McapQueue(address)


def subscribe(address: str, reading: Reading, config: QueueConfig) -> ResultSubscription:
    reading.refuse_group("mcap")
    return ResultSubscription(McapFeed(checked_path(address), is_late=reading.start == "latest"), reading)
