"""The producer's end of a queue with a broker: encodes items and hands them to the outbox."""

from urllib.parse import quote
from uuid import uuid4

from perception.config.schema import QueueConfig
from perception.core.ports import QueueItem
from perception.core.results import EndOfRun
from perception.queues.broker import Address, Broker, BrokerAwayError
from perception.queues.codec import encode
from perception.queues.outbox import Outbox, OutboxState


class BrokerQueue:
    """Publishes to `broker`, which it takes over. Raises QueueError where the broker refuses us.

    A broker that is away is no error: items wait in the outbox, of which `config` says how large it is and what happens
    when it is full.
    """

    def __init__(self, broker: Broker, address: Address, config: QueueConfig) -> None:
        self._broker = broker
        self._is_closed = False
        self._outbox = Outbox(
            broker, str(address), capacity=config.buffer, when_full=config.when_full, linger_s=config.linger_s
        )

    @property
    def state(self) -> OutboxState:
        """What waits, and whether the broker is away."""
        return self._outbox.state

    def waiting(self) -> int:
        """Items published that the broker has not stored yet."""
        return self._outbox.state.waiting

    def publish(self, item: QueueItem) -> None:
        """Raises QueueError where the item cannot be encoded, after `close`, or once the broker has refused us."""
        self._outbox.put(encode(item), item_key(item), is_end=isinstance(item, EndOfRun))

    def send(self, payload: bytes) -> None:
        """Publish bytes as they are. Raises QueueError as `publish` does."""
        self._outbox.put(payload, uuid4().hex)

    def take_losses(self) -> int:
        """Results dropped since the last call because the broker was away or slow; 0 with `when_full: wait`."""
        return self._outbox.take_losses()

    def has_consumer(self) -> bool:
        """Whether the broker knows somebody who reads now; False while it is away."""
        if self._is_closed:
            return False
        try:
            return self._broker.has_consumer()
        except BrokerAwayError:
            return False

    def close(self) -> None:
        """Wait until the broker has everything; consumers need not be waited for.

        Raises QueueError if it takes nothing for `linger_s`, saying how many items were not delivered.
        """
        self._is_closed = True
        self._outbox.close()


def item_key(item: QueueItem) -> str:
    """What identifies an item wherever it comes from: `DRIVE/RUN/SEQUENCE`, its parts quoted as in URLs."""
    last = "end" if isinstance(item, EndOfRun) else str(item.sequence)
    return "/".join((quote(item.drive_id, safe=""), quote(item.run_id, safe=""), last))
