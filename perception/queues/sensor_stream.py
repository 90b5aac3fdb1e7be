"""Sensor messages over a queue's transport: whoever has sensors publishes, the service reads them as a live source.

A stream says each second which drive it is (rig, calibration, name), so that a reader may join at any time. It promises
order; a reader that falls too far behind loses the oldest messages and counts them.
"""

import threading
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Final, Protocol, cast

import msgspec

from perception.config.schema import QueueConfig
from perception.core.endless import Endless
from perception.core.errors import DriveError, PayloadError, UsageError
from perception.core.messages import AnyMessage, Unreadable
from perception.core.ports import Recorded
from perception.core.rig import SensorRig
from perception.formats.mcap_drive import DriveRecord, pack_drive, read_drive
from perception.formats.sensor_wire import DRIVE, END, Head, pack_message, pack_part, read_message, read_part
from perception.queues.open import QUEUES
from perception.queues.subscription import TICK_S, Delivery, Feed, Reading

CARRIERS: Final = ("zenoh", "memory")
HISTORY: Final = 256
"""Messages that a reader may lag behind: a second or two of a large rig."""
DRIVE_EVERY_S: Final = 1.0
LINGER_S: Final = 0.5


class _Sender(Protocol):
    def send(self, payload: bytes) -> None: ...

    def close(self) -> None: ...


class _Carrier(Protocol):
    def open_queue(self, address: str, config: QueueConfig) -> _Sender: ...

    def open_feed(self, address: str, reading: Reading, config: QueueConfig) -> Feed: ...


class SensorStream:
    """Publishes a vehicle's messages at `url` (`zenoh:KEY`). A `Recorder`: results and labels are passed over.

    Messages whose `arrival_ns` is 0 arrive when they are received. Raises UsageError for a URL that carries no sensors,
    QueueError where the transport does not start.
    """

    def __init__(
        self, url: str, rig: SensorRig, drive_id: str, *, notes: tuple[str, ...] = (), config: QueueConfig | None = None
    ) -> None:
        carrier, address = _carrier(url)
        self._sender = carrier.open_queue(address, _settings(config))
        record = DriveRecord(drive_id=drive_id, rig=rig, recording=drive_id, part=0, notes=notes)
        self._drive = msgspec.json.encode(pack_drive(record, {}))
        self._said_at_s = float("-inf")
        self._number = 0
        self._is_closed = False

    def write(self, item: Recorded) -> None:
        """Raises QueueError where it cannot be sent."""
        if not hasattr(item, "arrival_ns"):
            return
        now_s = time.monotonic()
        if now_s - self._said_at_s >= DRIVE_EVERY_S:
            self._said_at_s = now_s
            self._sender.send(pack_part(Head(kind=DRIVE, number=self._number), self._drive))
        self._sender.send(pack_message(cast(AnyMessage, item), self._number))
        self._number += 1

    def close(self) -> None:
        """Say that no more comes, and go."""
        if not self._is_closed:
            self._is_closed = True
            self._sender.send(pack_part(Head(kind=END, number=self._number)))
            self._sender.close()


class SensorStreamSource(Endless):
    """What a `SensorStream` at `url` publishes from now on: a live source.

    `messages` ends when the publisher ends or is gone. Raises DriveError where nobody publishes within `wait_s`,
    UsageError for a URL that carries no sensors, QueueError where the transport does not start.
    """

    def __init__(self, url: str, *, config: QueueConfig | None = None, wait_s: float = 5.0) -> None:
        carrier, address = _carrier(url)
        self._url = url
        self._stopped = threading.Event()
        self._feed = carrier.open_feed(address, Reading(start="latest"), _settings(config))
        self.lost = 0
        """Messages that were published and did not get here."""
        try:
            self._producer, self._drive = self._await_drive(wait_s)
        except BaseException:
            self._feed.close()
            raise

    @property
    def drive_id(self) -> str:
        return self._drive.drive_id

    @property
    def rig(self) -> SensorRig:
        return self._drive.rig

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._drive.notes, f"received from {self._url}")

    def messages(self) -> Iterator[AnyMessage]:
        """Raises DriveError where another rig or drive takes over the stream."""
        expected: int | None = None
        while not self._stopped.is_set():
            delivery = self._feed.receive(TICK_S)
            if delivery is None:
                if self._feed.is_gone(self._producer):
                    return
                continue
            if delivery.producer != self._producer:
                raise DriveError(f"{self._url}: another publisher took over")
            try:
                head, body = read_part(delivery.payload)
            except PayloadError as error:
                raise DriveError(f"{self._url}: {error}") from error
            if head.kind == END:
                return
            if expected is not None and head.number > expected:
                self.lost += head.number - expected
            expected = head.number if head.kind == DRIVE else head.number + 1
            if head.kind != DRIVE:
                yield self._message(head, body)

    def interrupt(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._stopped.set()
        self._feed.close()

    def _message(self, head: Head, body: memoryview) -> AnyMessage:
        now_ns = time.time_ns()
        try:
            return read_message(head, body, now_ns)
        except PayloadError as error:
            arrival_ns = head.arrival_ns or now_ns
            return Unreadable(
                sensor=head.sensor,
                capture_ns=min(head.capture_ns, arrival_ns),
                arrival_ns=arrival_ns,
                error=str(error),
            )

    def _await_drive(self, wait_s: float) -> tuple[str, DriveRecord]:
        deadline_s = time.monotonic() + wait_s
        while (left_s := deadline_s - time.monotonic()) > 0 and not self._stopped.is_set():
            delivery = self._feed.receive(min(left_s, TICK_S))
            if delivery is not None and (record := self._read_drive(delivery)) is not None:
                return delivery.producer, record
        raise DriveError(f"{self._url}: nobody published sensor messages within {wait_s:g} s")

    def _read_drive(self, delivery: Delivery) -> DriveRecord | None:
        try:
            head, body = read_part(delivery.payload)
            if head.kind != DRIVE:
                return None
            return read_drive(self._url, msgspec.json.decode(body, type=dict[str, str]))
        except (PayloadError, msgspec.DecodeError) as error:
            raise DriveError(f"{self._url}: this is no stream of sensor messages ({error})") from error


def _carrier(url: str) -> tuple[_Carrier, str]:
    scheme, _, address = url.partition(":")
    if scheme not in CARRIERS:
        raise UsageError(f"{url!r} carries no sensor messages; take a URL of {' or '.join(f'{c}:' for c in CARRIERS)}")
    return cast(_Carrier, import_module(QUEUES[scheme])), address


def _settings(config: QueueConfig | None) -> QueueConfig:
    given = config or QueueConfig()
    return given.model_copy(update={"history": HISTORY, "linger_s": min(given.linger_s, LINGER_S)})
