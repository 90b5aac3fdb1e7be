"""A consumer's end of an MCAP file: reads what is whole, and waits at its end for more."""

import os
import threading
import time
from collections import deque
from pathlib import Path

from mcap.opcode import Opcode
from mcap.records import Channel, Metadata, Schema

from perception.core.errors import QueueError
from perception.formats.file_watch import NAP_S, FileWatch
from perception.queues.mcap_layout import ENCODING, PRODUCER_RECORD, SCHEMA_NAME
from perception.queues.mcap_locks import CONSUMER_BYTE, PRODUCER_BYTE, hold, is_held
from perception.queues.mcap_records import (
    MAGIC,
    MESSAGE_HEAD,
    Record,
    check_is_file,
    content,
    parse,
    record_at,
    records_in,
    unpack_chunk,
)
from perception.queues.subscription import Delivery


class McapFeed:
    """Reads the results in the file at `path`, which need not be there yet. Other channels in it are passed over.

    is_late: begin behind what the file holds now. Raises QueueError where the file is no MCAP or cannot be read;
    `receive` does so too, and where it is damaged.
    """

    def __init__(self, path: Path, *, is_late: bool) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._open_file: OpenFile | None = None
        try:
            self._open_file = _open(path)
            while is_late and self._open_file is not None and self._open_file.pass_over():
                pass
        except QueueError:
            self.close()
            raise

    def receive(self, timeout_s: float) -> Delivery | None:
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while not self._closed:
                file = self._open_file
                if file is not None and file.ready:
                    return file.ready.popleft()
                if file is None:
                    self._open_file = _open(self._path)
                elif file.step():
                    continue
                elif file.is_replaced():
                    file.close()
                    self._open_file = None
                if time.monotonic() >= deadline:
                    return None
                if self._open_file is None:
                    time.sleep(NAP_S)
                else:
                    self._open_file.watch.wait(deadline - time.monotonic())
        return None

    def acknowledge(self, delivery: Delivery) -> None:
        """Nothing to remember."""

    def keep_to(self, producer: str) -> None:
        """Nothing to save: a file has one producer after the other."""

    def is_gone(self, producer: str) -> bool:
        with self._lock:
            return self._open_file is None or self._open_file.is_left_by(producer)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            if self._open_file is not None:
                self._open_file.close()
                self._open_file = None


class OpenFile:
    """How far a file was read. ready: payloads read but not handed out yet, all of one chunk."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.ready: deque[Delivery] = deque()
        self.watch = FileWatch(descriptor)
        self._descriptor = descriptor
        self._path = path
        self._position = 0
        self._producer = ""
        self._schemas: set[int] = set()
        self._channels: set[int] = set()

    def step(self) -> bool:
        """Read one more record. False where there is none (yet). Raises QueueError where the file is damaged."""
        try:
            if self._position == 0:
                return self._check_magic()
            record = self._next()
            if record is not None:
                self._take(record)
                self._position = record.end
        except QueueError as error:
            raise QueueError(f"mcap:{self._path}: {error}") from None
        return record is not None

    def pass_over(self) -> bool:
        """As `step`, but what was published there is not wanted."""
        if self._channels and (record := self._next()) is not None and record.opcode == Opcode.CHUNK:
            self._position = record.end
            return True
        has_moved = self.step()
        self.ready.clear()
        return has_moved

    def is_left_by(self, producer: str) -> bool:
        """Whether nothing more can come from a producer."""
        if self._producer != producer:
            return not self.ready
        # In this order: what it wrote before it left is there once its lock is gone.
        return not is_held(self._descriptor, PRODUCER_BYTE) and not self.ready and self._next() is None

    def is_replaced(self) -> bool:
        """Whether another file has taken this one's place."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        own = os.fstat(self._descriptor)
        return (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino)

    def close(self) -> None:
        self.watch.close()
        os.close(self._descriptor)

    def _next(self) -> Record | None:
        """The next whole record of the data; a producer that comes back writes over what follows them."""
        record = record_at(self._descriptor, self._position)
        if record is None and os.fstat(self._descriptor).st_size < self._position:
            raise QueueError(
                f"the file was cut off at byte {os.fstat(self._descriptor).st_size}, which was read before"
            )
        return None if record is None or record.opcode in (Opcode.DATA_END, Opcode.FOOTER) else record

    def _check_magic(self) -> bool:
        begin = os.pread(self._descriptor, len(MAGIC), 0)
        if not MAGIC.startswith(begin):
            raise QueueError("this is no MCAP file")
        self._position = len(MAGIC) if begin == MAGIC else 0
        return begin == MAGIC

    def _take(self, record: Record) -> None:
        if record.opcode == Opcode.CHUNK:
            for opcode, _, data in records_in(unpack_chunk(content(self._descriptor, record))):
                self._take_content(opcode, data)
        elif record.opcode in (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE, Opcode.METADATA):
            self._take_content(record.opcode, memoryview(content(self._descriptor, record)))

    def _take_content(self, opcode: int, data: memoryview) -> None:
        if opcode == Opcode.MESSAGE:
            if len(data) < MESSAGE_HEAD.size:
                raise QueueError("a message is malformed: it has no head")
            if MESSAGE_HEAD.unpack_from(data)[0] in self._channels:
                self.ready.append(Delivery(producer=self._producer, payload=bytes(data[MESSAGE_HEAD.size :])))
        elif opcode == Opcode.SCHEMA:
            schema = parse(Schema.read, bytes(data))
            if (schema.name, schema.encoding) == (SCHEMA_NAME, ENCODING):
                self._schemas.add(schema.id)
        elif opcode == Opcode.CHANNEL:
            channel = parse(Channel.read, bytes(data))
            if channel.schema_id in self._schemas and channel.message_encoding == ENCODING:
                self._channels.add(channel.id)
        elif opcode == Opcode.METADATA:
            metadata = parse(Metadata.read, bytes(data))
            if metadata.name == PRODUCER_RECORD:
                self._producer = metadata.metadata.get("producer", "")


def _open(path: Path) -> OpenFile | None:
    """None where there is no file yet. Raises QueueError where there is something that cannot be read."""
    try:
        # Not blocking: a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise QueueError(f"mcap:{path}: cannot be read: {error.strerror}") from None
    try:
        check_is_file(descriptor)
        hold(descriptor, CONSUMER_BYTE, alone=False)
    except QueueError as error:
        os.close(descriptor)
        raise QueueError(f"mcap:{path}: {error}") from None
    return OpenFile(descriptor, path)
