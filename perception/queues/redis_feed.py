"""A consumer's end of a Redis queue: reads the stream in the consumer's own thread.

Without a group the position is kept here, as the id of the last entry. With a group it is the server's, which also
keeps a list of what each member holds. A member lives as long as it listens on its channel, which ends with its
connection, however it dies; what a dead member held is claimed by the others.
"""

import threading
import time
from collections import deque
from uuid import uuid4

from redis.client import PubSub
from redis.exceptions import ResponseError

from perception.config.schema import QueueSecurity
from perception.core.errors import QueueError
from perception.queues.broker import Address, BrokerAwayError, HungUpError, Outage
from perception.queues.redis_connection import ANSWER_S, answers, make_client
from perception.queues.subscription import Delivery, Reading

ITEM = "item"
PREFETCH = 64
ADOPT_S = 2.0
"""How often a member looks for what the dead have left."""
CLAIMED = 100
OLDEST, NEW = "0", ">"


def presence_channel(address: Address) -> str:
    """Every consumer listens here."""
    return f"{address.name}:consumers"


class RedisFeed:
    """Connects at once; a server that is away is waited for. Raises QueueError where the server refuses us."""

    def __init__(self, address: Address, security: QueueSecurity, reading: Reading) -> None:
        self._address = address
        self._security = security
        self._group = reading.group
        self._member = uuid4().hex
        self._is_late = reading.start == "latest"
        self._client = make_client(address, security)
        self._listening: PubSub | None = None
        self._last_id: str | None = None
        self._has_joined = self._has_left_overs = False
        self._adopted_at = 0.0
        self._ready: deque[Delivery] = deque()
        self._outage = Outage(str(address))
        self._try_at = 0.0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        with self._lock:
            try:
                self._attach()
            except HungUpError as error:
                raise QueueError(f"{address}: {error}") from error
            except BrokerAwayError as reason:
                self._lose(reason)

    def receive(self, timeout_s: float) -> Delivery | None:
        """Raises QueueError where the server refuses us."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while not (self._closing.is_set() or self._ready):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return None
                try:
                    if self._listening is None:
                        self._closing.wait(min(left_s, max(0.0, self._try_at - time.monotonic())))
                        if time.monotonic() >= self._try_at:
                            self._attach()
                    else:
                        self._read(left_s)
                except BrokerAwayError as reason:
                    self._lose(reason)
            return None if self._closing.is_set() else self._ready.popleft()

    def acknowledge(self, delivery: Delivery) -> None:
        """If the server does not get to know, it hands the entry out again, and `ResultSubscription` drops it."""
        with self._lock:
            if self._group is None or self._listening is None or self._closing.is_set():
                return
            try:
                with answers(self._address, self._security):
                    self._client.xack(self._address.name, self._group, delivery.place)
            except BrokerAwayError as reason:
                self._lose(reason)

    def keep_to(self, producer: str) -> None:
        """Nothing to save: the entries of all producers come in one stream."""

    def is_gone(self, producer: str) -> bool:
        """A stream outlives its producers, who may come back: nobody knows."""
        return False

    def close(self) -> None:
        """Leave; what was handed out and not acknowledged goes to the next member."""
        self._closing.set()
        with self._lock:
            if self._listening is not None:
                self._listening.close()
                self._listening = None
            self._client.close()

    def _attach(self) -> None:
        """Show that we live, and find out where to begin. Raises BrokerAwayError, QueueError."""
        name = self._address.name
        with answers(self._address, self._security):
            self._client.ping()
            listening = self._client.pubsub()
            channels = [presence_channel(self._address)]
            if self._group is not None:
                channels.append(self._channel_of(self._member))
            listening.subscribe(*channels)
            for _ in channels:
                # Nobody looks for us before the server has confirmed that we listen.
                listening.get_message(timeout=ANSWER_S)
            if self._group is not None:
                self._join_group(self._group)
            elif self._last_id is None:
                newest = self._client.xrevrange(name, count=1) if self._is_late else []
                self._last_id = newest[0][0].decode() if newest else OLDEST
        self._listening = listening
        self._outage.ends()

    def _join_group(self, group: str) -> None:
        try:
            self._client.xgroup_create(self._address.name, group, "$" if self._is_late else OLDEST, mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        # Where the server has lost the group, it is made anew, and then nothing is to be passed over.
        self._is_late = False
        self._has_left_overs = True
        if self._has_joined:
            # After a restart of the server the others are late, not dead.
            self._adopted_at = time.monotonic() + ADOPT_S
        else:
            self._adopt(group)
        self._has_joined = True

    def _read(self, timeout_s: float) -> None:
        """Take what comes in time. Raises BrokerAwayError, QueueError."""
        name, block_ms = self._address.name, max(1, round(timeout_s * 1000))
        with answers(self._address, self._security):
            if self._group is None:
                answer = self._client.xread({name: self._last_id or OLDEST}, count=PREFETCH, block=block_ms)
            else:
                self._adopt_now_and_then(self._group)
                position = OLDEST if self._has_left_overs else NEW
                answer = self._client.xreadgroup(self._group, self._member, {name: position}, count=1, block=block_ms)
            if not answer and self._listening is not None:
                self._listening.get_message()
        entries = answer[0][1] if answer else []
        if self._has_left_overs and not entries:
            self._has_left_overs = False
        for entry_id, fields in entries:
            self._last_id = entry_id.decode()
            # An entry that left the history while somebody held it comes without fields, and counts as malformed.
            payload = (fields or {}).get(ITEM.encode(), b"")
            self._ready.append(Delivery(producer=name, payload=payload, place=self._last_id))

    def _adopt_now_and_then(self, group: str) -> None:
        if time.monotonic() - self._adopted_at > ADOPT_S:
            self._adopt(group)

    def _adopt(self, group: str) -> None:
        """Claim what members hold whose connection is gone, and forget those that hold nothing."""
        self._adopted_at = time.monotonic()
        name = self._address.name
        members = {info["name"].decode(): info["pending"] for info in self._client.xinfo_consumers(name, group)}
        members.pop(self._member, None)
        listeners = self._client.pubsub_numsub(*map(self._channel_of, members)) if members else []
        for (member, pending), (_, count) in zip(members.items(), listeners, strict=True):
            if count == 0 and pending == 0:
                self._client.xgroup_delconsumer(name, group, member)
            elif count == 0:
                self._claim(group, member)

    def _claim(self, group: str, member: str) -> None:
        for entry in self._client.xpending_range(self._address.name, group, "-", "+", CLAIMED, member):
            # Not if somebody else was quicker: his claim has made it young.
            self._client.xclaim(
                self._address.name,
                group,
                self._member,
                entry["time_since_delivered"],
                [entry["message_id"]],
                justid=True,
            )
            self._has_left_overs = True

    def _channel_of(self, member: str) -> str:
        return f"{self._address.name}:member:{member}"

    def _lose(self, reason: BrokerAwayError) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self._client.connection_pool.disconnect()
        self._try_at = time.monotonic() + self._outage.goes_on(reason)
