"""Publish and subscribe as somebody would write them with the library beneath each queue, and nothing else."""

import os
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import nats
import redis
import zenoh
from mcap.exceptions import McapError
from mcap.records import Message
from mcap.stream_reader import StreamReader
from mcap.writer import Writer
from nats.js.api import DeliverPolicy, StorageType
from zstandard import ZstdError

from perception.core.errors import UsageError
from perception.formats.zenoh_session import direct
from perception.queues.bench_ends import STAMP, Receiver, Sender
from perception.queues.nats_connection import LoopThread
from perception.queues.zenoh_session import open_session

TICK_S = 0.1
NAP_S = 0.001
KEPT = 1000
"""Messages that the brokers keep."""
IN_FLIGHT = 64
MAGIC_BYTES = 8
BARE = "bare"
"""Part of every name, so that the library's messages never come into a queue of ours."""


def bare_sender(url: str, payload: bytes) -> Sender:
    """Raises UsageError for a queue whose library is not known here."""
    senders: dict[str, Callable[[str], CallSender]] = {
        "zenoh": _zenoh_sender,
        "mcap": _mcap_sender,
        "nats": _nats_sender,
        "redis": _redis_sender,
    }
    scheme, address = _split(url, senders)
    sender = senders[scheme](address)
    sender.rest = payload[STAMP.size :]
    return sender


def bare_receiver(url: str) -> Receiver:
    """Raises UsageError for a queue whose library is not known here."""
    receivers: dict[str, Callable[[str], Receiver]] = {
        "zenoh": ZenohReceiver,
        "mcap": McapReceiver,
        "nats": NatsReceiver,
        "redis": RedisReceiver,
    }
    scheme, address = _split(url, receivers)
    return receivers[scheme](address)


class CallSender:
    """Sends by a function of the library. rest: what follows the stamp."""

    def __init__(self, put: Callable[[bytes], object], close: Callable[[], object]) -> None:
        self.rest = b""
        self._put = put
        self._close = close

    def send(self, number: int) -> None:
        self._put(STAMP.pack(number, time.monotonic_ns()) + self.rest)

    def close(self) -> None:
        self._close()


class StampReceiver(ABC):
    """What all receivers share: iterating until closed."""

    def __init__(self) -> None:
        self._is_closed = False

    def __iter__(self) -> Iterator[tuple[int, int]]:
        while not self._is_closed:
            yield from map(STAMP.unpack_from, self._receive())

    def close(self) -> None:
        self._is_closed = True

    @abstractmethod
    def _receive(self) -> list[bytes]:
        """Payloads that have come, after a tick at the latest."""


def _zenoh_sender(key: str) -> CallSender:
    session = open_session()
    publisher = session.declare_publisher(f"{key}/{BARE}", congestion_control=zenoh.CongestionControl.DROP)
    return CallSender(publisher.put, session.close)


class ZenohReceiver(StampReceiver):
    def __init__(self, key: str) -> None:
        super().__init__()
        self._came: SimpleQueue[bytes] = SimpleQueue()
        self._session = open_session()
        self._session.declare_subscriber(f"{key}/{BARE}", direct(lambda sample: self._came.put(bytes(sample.payload))))

    def _receive(self) -> list[bytes]:
        try:
            return [self._came.get(timeout=TICK_S)]
        except Empty:
            return []

    def close(self) -> None:
        super().close()
        self._session.close()  # type: ignore[no-untyped-call]


def _mcap_sender(path: str) -> CallSender:
    file = Path(f"{path}.{BARE}").open("wb")  # noqa: SIM115 - closed by the sender
    writer = Writer(file)
    writer.start()
    channel = writer.register_channel(topic=BARE, message_encoding="", schema_id=0)

    def put(payload: bytes) -> None:
        now_ns = time.time_ns()
        writer.add_message(channel_id=channel, log_time=now_ns, publish_time=now_ns, data=payload)
        writer.flush()  # type: ignore[no-untyped-call]

    def close() -> None:
        writer.finish()  # type: ignore[no-untyped-call]
        file.close()
        Path(file.name).unlink()

    return CallSender(put, close)


class McapReceiver(StampReceiver):
    """The library reads finished files. To follow one that grows, its reader is set on each chunk that is whole."""

    def __init__(self, path: str) -> None:
        super().__init__()
        bare = Path(f"{path}.{BARE}")
        bare.touch()
        self._file = bare.open("rb")
        self._place = MAGIC_BYTES

    def _receive(self) -> list[bytes]:
        payloads = []
        if os.fstat(self._file.fileno()).st_size > self._place:
            self._file.seek(self._place)
            reader = StreamReader(self._file, skip_magic=True)
            try:
                for record in reader.records:
                    self._place = self._file.tell()
                    if isinstance(record, Message):
                        payloads.append(record.data)
            except (McapError, ZstdError, struct.error):
                pass  # The end of what is there.
        if not payloads:
            time.sleep(NAP_S)
        return payloads


def _nats_sender(address: str) -> CallSender:
    loop = LoopThread("bare-nats")
    server, name = _server("nats", address)

    async def begin() -> tuple[Any, Any]:
        client = await nats.connect(server)
        stream = client.jetstream(publish_async_max_pending=IN_FLIGHT)
        await stream.add_stream(name=name, subjects=[name], max_msgs=KEPT, storage=StorageType.FILE)
        return client, stream

    client, stream = loop.run(begin(), 10)

    async def put(payload: bytes) -> None:
        await stream.publish_async(name, payload)

    def close() -> None:
        loop.run(client.close(), 10)
        loop.close()

    return CallSender(lambda payload: loop.run(put(payload), 10), close)


class NatsReceiver(StampReceiver):
    def __init__(self, address: str) -> None:
        super().__init__()
        self._loop = LoopThread("bare-nats")
        self._came: SimpleQueue[bytes] = SimpleQueue()
        self._client = self._loop.run(self._begin(*_server("nats", address)), 10)

    async def _begin(self, server: str, name: str) -> Any:
        client = await nats.connect(server)
        stream = client.jetstream()
        await stream.add_stream(name=name, subjects=[name], max_msgs=KEPT, storage=StorageType.FILE)

        async def take(message: Any) -> None:
            self._came.put(message.data)

        await stream.subscribe(name, cb=take, ordered_consumer=True, deliver_policy=DeliverPolicy.NEW)
        return client

    def _receive(self) -> list[bytes]:
        try:
            return [self._came.get(timeout=TICK_S)]
        except Empty:
            return []

    def close(self) -> None:
        super().close()
        self._loop.run(self._client.close(), 10)
        self._loop.close()


def _redis_sender(address: str) -> CallSender:
    server, name = _server("redis", address)
    client = redis.Redis.from_url(server)
    return CallSender(lambda payload: client.xadd(name, {"bytes": payload}, maxlen=KEPT), client.close)


class RedisReceiver(StampReceiver):
    def __init__(self, address: str) -> None:
        super().__init__()
        server, self._name = _server("redis", address)
        self._client: Any = redis.Redis.from_url(server, protocol=2)
        newest = self._client.xrevrange(self._name, count=1)
        self._last = newest[0][0] if newest else b"0"

    def _receive(self) -> list[bytes]:
        answer = self._client.xread({self._name: self._last}, block=int(TICK_S * 1000), count=IN_FLIGHT)
        entries = answer[0][1] if answer else []
        if entries:
            self._last = entries[-1][0]
        return [fields[b"bytes"] for _, fields in entries]


def _server(scheme: str, address: str) -> tuple[str, str]:
    """`//HOST:PORT/NAME` as the library's URL of the server, and the name."""
    server, _, name = address.removeprefix("//").partition("/")
    return f"{scheme}://{server}", f"{name}-{BARE}"


def _split(url: str, known: "dict[str, Any]") -> tuple[str, str]:
    scheme, _, address = url.partition(":")
    if scheme not in known:
        raise UsageError(f"{scheme}: has no library beneath it to compare with")
    return scheme, address
