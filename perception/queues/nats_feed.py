"""A consumer's end of a NATS queue: pulls from a consumer that the server keeps, and makes a new one if that is lost.

Without a group the server's consumer is ephemeral and the position is kept here, as the number of the next message:
after a break a new one begins exactly there. With a group it is durable, and the position is the server's: one message
at a time is out, and while it is held the server is told so (`LEASE_S`), so that the messages of a dead consumer can be
told from those of a slow one.
"""

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, StreamInfo

from perception.config.schema import QueueSecurity
from perception.core.errors import QueueError
from perception.queues.broker import Address, BrokerAwayError, HungUpError, Outage
from perception.queues.nats_connection import ANSWER_S, CLOSE_S, Link, LoopThread
from perception.queues.nats_pull import Pull
from perception.queues.subscription import Delivery, Reading

LEASE_S = 5.0
"""A member of a group that is not heard of for so long has lost what it held."""
RENEW_S = 1.0
SLACK_S = 0.5
PREFETCH = 64
"""Messages under way to a consumer without a group."""
INACTIVE_S = 10.0
"""An ephemeral consumer of the server goes when nobody has asked it for so long."""
LOOK_S = 0.2


class NatsFeed:
    """Reads in an event loop of its own. Returns once the first attempt to connect has been made.

    Raises QueueError where the server refuses us; a server that is away, or has no such queue yet, is waited for.
    """

    def __init__(self, address: Address, security: QueueSecurity, reading: Reading) -> None:
        self._address = address
        self._security = security
        self._group = reading.group
        self._is_late = reading.start == "latest"
        self._next_number: int | None = None
        self._prefetch = PREFETCH if reading.group is None else 1
        self._changed = threading.Condition()
        self._ready: deque[Delivery] = deque()
        self._held: set[str] = set()
        self._is_wanted = True
        # Until then a new member of a group waits for what the one before may have held, unless others are at work.
        self._settled_at: float | None = None
        self._done_before = 0
        self._renewed_at = 0.0
        self._failure: BaseException | None = None
        self._outage = Outage(str(address))
        self._has_tried = self._was_attached = False
        self._closing = threading.Event()
        self._link: Link | None = None
        self._consumer: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._loop = LoopThread("nats-feed")
        self._loop.start(self._read()).add_done_callback(self._note_end)
        with self._changed:
            self._changed.wait_for(lambda: self._has_tried)
        self._check_start()

    def receive(self, timeout_s: float) -> Delivery | None:
        """Raises QueueError where the server refuses us."""
        with self._changed:
            if not self._ready and not self._is_wanted:
                self._is_wanted = True
                self._nudge()
            self._changed.wait_for(lambda: self._is_ready() or self._failure or self._closing.is_set(), timeout_s)
            if self._closing.is_set():
                return None
            if not self._is_ready():
                self._raise_failure()
                return None
            delivery = self._ready.popleft()
            if delivery.place:
                self._held.add(delivery.place)
            elif len(self._ready) == self._prefetch // 2:
                self._nudge()
            return delivery

    def acknowledge(self, delivery: Delivery) -> None:
        """If the server does not get to know, it hands the message out again, and `ResultSubscription` drops it."""
        with self._changed:
            if delivery.place in self._held and not self._closing.is_set():
                self._held.discard(delivery.place)
                self._loop.start(self._tell(delivery.place, b"+ACK"))

    def keep_to(self, producer: str) -> None:
        """Nothing to save: the messages of all producers come in one stream."""

    def is_gone(self, producer: str) -> bool:
        """A stream outlives its producers, who may come back: nobody knows."""
        return False

    def close(self) -> None:
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            self._changed.notify_all()
        with suppress(BrokerAwayError):
            self._loop.run(self._stop(), 4 * CLOSE_S)
        self._loop.close()

    def _check_start(self) -> None:
        if self._failure is not None:
            self.close()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _is_ready(self) -> bool:
        return bool(self._ready) and self._settled_at is None

    def _nudge(self) -> None:
        self._loop.call(self._wake.set)

    async def _stop(self) -> None:
        if self._task is not None:
            # The client swallows a cancellation that finds it flushing; then the reader sees that it is closed.
            self._task.cancel()
            self._wake.set()
            await asyncio.wait([self._task])

    async def _read(self) -> None:
        self._task = asyncio.current_task()
        pause_s = 0.0
        while not self._closing.is_set():
            link = self._link = Link(self._address, self._security, self._wake.set)
            try:
                await link.open()
                stream = link.client.jetstream(timeout=ANSWER_S)
                info = await self._await_stream(link, stream)
                self._consumer = await self._attach(link, stream, info)
                self._note_attached()
                await self._pull(link, self._consumer)
            except (BrokerAwayError, nats.js.errors.NotFoundError) as reason:
                pause_s = self._note_away(reason)
            finally:
                if self._closing.is_set():
                    await self._leave(link)
                await link.close()
            await asyncio.sleep(pause_s)

    async def _await_stream(self, link: Link, stream: JetStreamContext) -> StreamInfo:
        """The stream, as soon as a producer has made it."""
        while True:
            try:
                async with link.answers():
                    return await stream.stream_info(self._address.name)
            except nats.js.errors.NotFoundError:
                # Everything in a stream that is not there yet will be new.
                self._is_late = False
                self._note_attached()
            await asyncio.sleep(LOOK_S)

    async def _attach(self, link: Link, stream: JetStreamContext, info: StreamInfo) -> str:
        """The name of a consumer of the server that continues where we are."""
        if self._group is not None:
            async with link.answers():
                return await self._join_group(stream, self._group)
        last = info.state.last_seq
        if self._next_number is None:
            self._next_number = last + 1 if self._is_late else 1
        if self._next_number > last + 1:
            # The server has lost its disk and counts from 1 again.
            self._next_number = 1
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._next_number,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=INACTIVE_S,
            mem_storage=True,
        )
        async with link.answers():
            return (await stream.add_consumer(self._address.name, config)).name

    async def _join_group(self, stream: JetStreamContext, group: str) -> str:
        name = self._address.name
        try:
            info = await stream.consumer_info(name, group)
        except nats.js.errors.NotFoundError:
            policy = DeliverPolicy.NEW if self._is_late else DeliverPolicy.ALL
            config = ConsumerConfig(
                durable_name=group, deliver_policy=policy, ack_policy=AckPolicy.EXPLICIT, ack_wait=LEASE_S
            )
            info = await stream.add_consumer(name, config)
        if info.config.ack_policy != AckPolicy.EXPLICIT or info.config.deliver_subject:
            raise QueueError(
                f"{self._address}: the consumer {group} of the server is of another kind; take another name"
            )
        if info.num_ack_pending and not self._was_attached:
            self._settled_at = time.monotonic() + LEASE_S + SLACK_S
            self._done_before = _done(info)
        return group

    async def _pull(self, link: Link, consumer: str) -> None:
        """Ask for messages and pass them on until the connection or the consumer is lost. Raises BrokerAwayError."""
        pull = Pull(link.client, self._address.name, consumer, self._take, self._wake.set)
        await pull.start()
        while not self._closing.is_set():
            self._wake.clear()
            link.check()
            pull.check()
            if not pull.is_open and (room := self._room()):
                await pull.ask(room)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), RENEW_S if self._settled_at is None else LOOK_S)
            if self._settled_at is not None:
                await self._check_settled(link)
            if self._group is not None and time.monotonic() - self._renewed_at > RENEW_S:
                self._renewed_at = time.monotonic()
                for place in self._places():
                    await self._tell(place, b"+WPI")

    def _room(self) -> int:
        """How many messages to ask for now."""
        with self._changed:
            if self._closing.is_set():
                return 0
            if self._settled_at is not None:
                is_over = time.monotonic() > self._settled_at - SLACK_S
                return int(not self._ready or (is_over and len(self._ready) == 1))
            if self._group is not None:
                return int(self._is_wanted and not self._held and not self._ready)
            room = self._prefetch - len(self._ready)
            return room if room >= self._prefetch // 2 else 0

    def _take(self, message: Msg) -> None:
        number = message.metadata.sequence.stream
        place = message.reply if self._group is not None else ""
        delivery = Delivery(producer=self._address.name, payload=message.data, place=place)
        with self._changed:
            self._next_number = number + 1
            self._is_wanted = False
            if self._settled_at is not None and message.metadata.num_delivered > 1:
                # What a dead member held goes before anything new.
                self._ready.appendleft(delivery)
                self._settled_at = None
            else:
                self._ready.append(delivery)
            self._changed.notify_all()

    async def _check_settled(self, link: Link) -> None:
        """Stop waiting where what a dead member held would have come, or others are at work: no order is kept then.

        Raises BrokerAwayError, and NotFoundError where the server has lost the consumer.
        """
        assert self._group is not None
        async with link.answers():
            info = await link.client.jetstream(timeout=ANSWER_S).consumer_info(self._address.name, self._group)
        with self._changed:
            # The dead acknowledge nothing, but for what was on its way.
            are_others_at_work = _done(info) > self._done_before + 1
            if self._settled_at is not None and (are_others_at_work or time.monotonic() > self._settled_at):
                self._settled_at = None
                self._changed.notify_all()

    def _places(self) -> list[str]:
        """Of all messages that are in our hands."""
        with self._changed:
            return [*self._held, *(delivery.place for delivery in self._ready if delivery.place)]

    async def _tell(self, place: str, word: bytes) -> None:
        link = self._link
        if link is not None:
            with suppress(nats.errors.Error, OSError):
                await link.client.publish(place, word)

    async def _leave(self, link: Link) -> None:
        """Give back what was not dealt with, so that others need not wait for it."""
        for place in self._places():
            await self._tell(place, b"-NAK")
        with suppress(nats.errors.Error, OSError, TimeoutError, nats.js.errors.Error):
            if link.client.is_connected:
                if self._group is None and self._consumer is not None:
                    await link.client.jetstream(timeout=CLOSE_S).delete_consumer(self._address.name, self._consumer)
                await link.client.flush(timeout=round(CLOSE_S))

    def _note_attached(self) -> None:
        with self._changed:
            self._outage.ends()
            self._has_tried = self._was_attached = True
            self._changed.notify_all()

    def _note_away(self, reason: Exception) -> float:
        """How long to pause. Raises QueueError where another attempt makes no sense."""
        with self._changed:
            if isinstance(reason, HungUpError) and not self._has_tried:
                raise QueueError(f"{self._address}: {reason}")
            self._has_tried = True
            self._changed.notify_all()
            return self._outage.goes_on(reason)

    def _note_end(self, reading: "Future[None]") -> None:
        with self._changed:
            self._failure = None if reading.cancelled() else reading.exception()
            self._has_tried = True
            self._changed.notify_all()


def _done(info: ConsumerInfo) -> int:
    """How many deliveries of a durable consumer were acknowledged, or ended by a further one."""
    return (info.delivered.consumer_seq if info.delivered else 0) - (info.num_ack_pending or 0)
