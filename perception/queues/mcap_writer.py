"""Writes an MCAP file of results so that it can be read while it grows, and goes on with one that was left."""

import os
import struct
import zlib
from pathlib import Path

import zstandard
from mcap.opcode import Opcode
from mcap.records import Chunk, ChunkIndex, Message, MessageIndex, Metadata

from perception.core.errors import QueueError
from perception.queues.checks import MAX_PAYLOAD_BYTES
from perception.queues.codec import SCHEMA
from perception.queues.mcap_layout import CHANNEL, PRODUCER_RECORD, Summary, beginning, packed
from perception.queues.mcap_locks import CONSUMER_BYTE, PRODUCER_BYTE, hold, is_held
from perception.queues.mcap_records import (
    RECORD_HEAD,
    check_is_file,
    content,
    parse,
    record_at,
)

COMPRESSION = "zstd"
FILE_MODE = 0o644
MAX_TAIL_BYTES = 2 * MAX_PAYLOAD_BYTES
"""Half a record that a killed producer leaves is never longer; what is longer is damage within the file."""
_CHUNK_HEAD = struct.Struct("<QQQII4sQ")
"""First and last time, size, checksum, length and text of the compression's name, compressed size."""
_MESSAGE_INDEX_BYTES = len(packed(MessageIndex(channel_id=CHANNEL, records=[(0, 0)])))


class McapWriter:
    """Appends payloads to the file at `path`, each in a chunk of its own: readers take whole chunks only.

    producer: tells this producer from others before and after it. A file that a producer of the same version has left,
    closed or killed, is gone on with: its index, or the half of a record at its end, is cut off.
    Raises QueueError where the file has a producer, is something else, or cannot be written.
    """

    def __init__(self, path: Path, *, producer: str) -> None:
        self._path = path
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._descriptor = self._open()
        try:
            self._summary, self._end = self._begin()
            metadata = packed(Metadata(name=PRODUCER_RECORD, metadata={"schema": str(SCHEMA), "producer": producer}))
            self._summary.add_metadata(self._end, len(metadata), PRODUCER_RECORD)
            self._append(metadata)
        except QueueError as error:
            os.close(self._descriptor)
            raise QueueError(f"mcap:{path}: {error}") from None

    def write(self, payload: bytes, time_ns: int) -> None:
        """Append one message; readers have it when this returns. Raises QueueError where it cannot be written.

        time_ns: since 1970.
        """
        data = packed(
            Message(
                channel_id=CHANNEL,
                log_time=time_ns,
                publish_time=time_ns,
                sequence=self._summary.chunks & 0xFFFFFFFF,
                data=payload,
            )
        )
        chunk = packed(
            Chunk(
                message_start_time=time_ns,
                message_end_time=time_ns,
                uncompressed_size=len(data),
                uncompressed_crc=zlib.crc32(data),
                compression=COMPRESSION,
                data=self._compressor.compress(data),
            )
        )
        position = self._end
        try:
            self._append(chunk + packed(_message_index(time_ns)))
        except QueueError as error:
            raise QueueError(f"mcap:{self._path}: {error}") from None
        self._summary.add_chunk(_chunk_index(position, chunk[: RECORD_HEAD.size + _CHUNK_HEAD.size]))

    def has_reader(self) -> bool:
        return is_held(self._descriptor, CONSUMER_BYTE)

    def sync(self) -> None:
        """Force what was written to the disk. Raises QueueError where that fails."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise QueueError(f"mcap:{self._path}: cannot be forced to the disk: {error.strerror}") from None

    def close(self) -> None:
        """Write the index. Raises QueueError where that fails; the results are in the file all the same."""
        try:
            self._append(self._summary.ending(self._end))
            self.sync()
        finally:
            os.close(self._descriptor)

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise QueueError(f"mcap:{self._path}: cannot be written: {error.strerror}") from None

    def _begin(self) -> tuple[Summary, int]:
        """The index so far, and where the data end: of a new file, or of one that a producer has left."""
        check_is_file(self._descriptor)
        if not hold(self._descriptor, PRODUCER_BYTE, alone=True):
            raise QueueError("another producer writes this file; end it, or name another file")
        start = beginning()
        found = os.pread(self._descriptor, len(start), 0)
        if not start.startswith(found):
            raise QueueError("the file was not written by this version of the queue; remove it, or name another file")
        if len(found) < len(start):
            self._end = 0
            self._cut()
            self._append(start)
            return Summary(), self._end
        summary, self._end, last = _read_back(self._descriptor, len(start))
        self._cut()
        if last is not None:
            self._append(packed(_message_index(last.message_start_time)))
        return summary, self._end

    def _append(self, data: bytes) -> None:
        """Raises QueueError where not all of it could be written; then nothing of it stays."""
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._end + written)
        except OSError as error:
            self._cut()
            raise QueueError(f"cannot be written: {error.strerror}") from None
        self._end += written

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self._end)


def _message_index(time_ns: int) -> MessageIndex:
    """Of a chunk with the one message of that time."""
    return MessageIndex(channel_id=CHANNEL, records=[(time_ns, 0)])


def _chunk_index(position: int, head: bytes) -> ChunkIndex:
    """Of the chunk at `position` which begins with `head`. Raises QueueError where it is none of ours."""
    _, length = RECORD_HEAD.unpack_from(head)
    start_ns, end_ns, size, _, _, compression, packed_size = _CHUNK_HEAD.unpack_from(head, RECORD_HEAD.size)
    chunk_length = RECORD_HEAD.size + length
    if compression != COMPRESSION.encode() or packed_size != length - _CHUNK_HEAD.size:
        raise QueueError(f"the chunk at byte {position} is none of ours; name another file")
    return ChunkIndex(
        message_start_time=start_ns,
        message_end_time=end_ns,
        chunk_start_offset=position,
        chunk_length=chunk_length,
        message_index_offsets={CHANNEL: position + chunk_length},
        message_index_length=_MESSAGE_INDEX_BYTES,
        compression=COMPRESSION,
        compressed_size=packed_size,
        uncompressed_size=size,
    )


def _read_back(descriptor: int, position: int) -> tuple[Summary, int, ChunkIndex | None]:
    """What the index needs of the records from `position` on, where the last whole one ends, and that one if it is a
    chunk that its message index does not follow.

    Raises QueueError where there is something that our producers do not write: it would be lost.
    """
    summary, last = Summary(), None
    while (record := record_at(descriptor, position)) is not None and record.opcode != Opcode.DATA_END:
        unindexed, last = last, None
        if record.opcode == Opcode.CHUNK:
            last = _chunk_index(position, os.pread(descriptor, RECORD_HEAD.size + _CHUNK_HEAD.size, position))
            summary.add_chunk(last)
        elif record.opcode == Opcode.METADATA:
            name = parse(Metadata.read, content(descriptor, record)).name
            summary.add_metadata(position, record.end - position, name)
        elif record.opcode != Opcode.MESSAGE_INDEX or unindexed is None:
            raise QueueError(f"the record at byte {position} is none of ours; name another file")
        position = record.end
    if record is None and os.fstat(descriptor).st_size - position > MAX_TAIL_BYTES:
        raise QueueError(f"the file is damaged at byte {position}; name another file")
    return summary, position, last
