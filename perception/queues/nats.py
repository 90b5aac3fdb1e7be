"""`nats://HOST:PORT/NAME`: a durable queue on a NATS server with JetStream (`nats-server -js -sd FOLDER`).

Promises: ordered; every result once, for consumers that stay within the history. The server keeps the last `history`
items on disk, 100 000 of them where `history` is not set, whether or not producer and consumers live; a consumer that
falls further behind loses the oldest and counts them. A result that the server has accepted survives a kill of any of
producer, server and consumer. What the server has not accepted yet waits in the producer's outbox (`outbox`), which is
lost with the producer. `earliest` is the oldest result that the server has, which may be of an earlier run.

Groups: `group` names a durable consumer of the server. It remembers what was acknowledged, so that whoever comes back
goes on there. What was handed out but not acknowledged is handed out again: at once if its holder closed, within 5 s if
it died, and whoever takes the name meanwhile waits for it, so that the order is kept, unless other members are at work.
`(drive, run, sequence)` tells a consumer that keeps books that it has had a result before. Members share the results,
each of which goes to one of them; so does the end of a run.

On the server: the stream `NAME` with the subject `NAME.results`; a message is one `QueueItem` of
`perception_result.proto`, and its `Nats-Msg-Id` is `DRIVE/RUN/SEQUENCE`, by which the server drops what is sent twice
within two minutes; consumers drop the rest. On a server that has lost its disk, the queue begins anew.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import Header, PubAck, RetentionPolicy, StorageType, StreamConfig

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError
from perception.queues.broker import Address, BrokerAwayError, Letter, kept_results, parse_address
from perception.queues.broker_queue import BrokerQueue
from perception.queues.nats_connection import ANSWER_S, CONNECT_S, Link, LoopThread
from perception.queues.nats_feed import NatsFeed
from perception.queues.subscription import Reading, ResultSubscription

PORT = 4222
DEFAULT_HISTORY = 100_000
DUPLICATE_WINDOW_S = 120.0


class NatsBroker:
    """A producer's connection to JetStream."""

    def __init__(self, address: Address, config: QueueConfig) -> None:
        self._address = address
        self._security = config.security
        self._history = kept_results(config, DEFAULT_HISTORY)
        self._loop = LoopThread("nats-queue")
        self._lost = asyncio.Event()
        self._link: Link | None = None
        self._stream: JetStreamContext | None = None

    def connect(self) -> None:
        self._loop.run(self._connect(), CONNECT_S + 3 * ANSWER_S)

    def store(self, letters: Sequence[Letter]) -> int:
        return self._loop.run(self._store(letters), 2 * ANSWER_S)

    def has_consumer(self) -> bool:
        return self._loop.run(self._has_consumer(), ANSWER_S)

    def close(self) -> None:
        if self._link is not None:
            self._loop.run(self._link.close(), ANSWER_S)
        self._loop.close()

    async def _connect(self) -> None:
        if self._link is not None:
            await self._link.close()
        self._lost.clear()
        self._link = Link(self._address, self._security, self._lost.set)
        await self._link.open()
        self._stream = self._link.client.jetstream(timeout=ANSWER_S)
        async with self._link.answers():
            await self._ensure_stream(self._stream)

    async def _ensure_stream(self, stream: JetStreamContext) -> None:
        """Make the stream, or let it keep what this producer wants it to keep."""
        name, subject = self._address.name, subject_of(self._address)
        try:
            config = (await stream.stream_info(name)).config
        except nats.js.errors.NotFoundError:
            await stream.add_stream(
                StreamConfig(
                    name=name,
                    subjects=[subject],
                    retention=RetentionPolicy.LIMITS,
                    storage=StorageType.FILE,
                    max_msgs=self._history,
                    duplicate_window=DUPLICATE_WINDOW_S,
                )
            )
            return
        if config.subjects != [subject]:
            raise QueueError(f"{self._address}: the server's stream {name} serves something else; take another name")
        if config.max_msgs != self._history:
            await stream.update_stream(config.evolve(max_msgs=self._history))

    async def _store(self, letters: Sequence[Letter]) -> int:
        link, stream = self._link, self._stream
        if link is None or stream is None:
            raise BrokerAwayError("not connected")
        link.check()
        subject = subject_of(self._address)
        confirmations: list[asyncio.Future[PubAck]] = []
        async with link.answers():
            for letter in letters:
                try:
                    confirmations.append(
                        await stream.publish_async(subject, letter.payload, headers={Header.MSG_ID: letter.key})
                    )
                except nats.errors.MaxPayloadError:
                    raise QueueError(
                        f"{self._address}: a result of {len(letter.payload)} bytes is more than the server takes "
                        f"({link.client.max_payload}); raise its max_payload"
                    ) from None
            await self._await_all(confirmations)
            for count, confirmation in enumerate(confirmations):
                if not confirmation.done():
                    link.check()
                    return count
                if confirmation.exception() is not None and count:
                    return count
                confirmation.result()
        return len(letters)

    async def _await_all(self, confirmations: Sequence["asyncio.Future[PubAck]"]) -> None:
        """Until all are there, the connection is lost, or the server has been silent for too long."""
        if not confirmations:
            return
        lost = asyncio.create_task(self._lost.wait())
        answered: asyncio.Future[Any] = asyncio.gather(*confirmations, return_exceptions=True)
        ends: list[asyncio.Future[Any]] = [answered, lost]
        await asyncio.wait(ends, timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()

    async def _has_consumer(self) -> bool:
        link, stream = self._link, self._stream
        if link is None or stream is None:
            return False
        link.check()
        try:
            async with link.answers():
                consumers = await stream.consumers_info(self._address.name)
        except nats.js.errors.NotFoundError:
            return False
        # A durable consumer stays when nobody reads: somebody does if it is being asked, or holds a result.
        return any(
            consumer.config.durable_name is None
            or consumer.push_bound
            or consumer.num_waiting
            or consumer.num_ack_pending
            for consumer in consumers
        )


def subject_of(address: Address) -> str:
    return f"{address.name}.results"


def open_queue(address: str, config: QueueConfig) -> BrokerQueue:
    """A producer. Raises UsageError for a bad address, QueueError where the server refuses us."""
    where = parse_address("nats", address, PORT)
    return BrokerQueue(NatsBroker(where, config), where, config)


def subscribe(address: str, reading: Reading, config: QueueConfig) -> ResultSubscription:
    """A consumer. Raises UsageError for a bad address, QueueError where the server refuses us."""
    return ResultSubscription(NatsFeed(parse_address("nats", address, PORT), config.security, reading), reading)
