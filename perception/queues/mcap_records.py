"""The records of an MCAP file, one by one, out of a file that may still grow and of which nothing is trusted.

Format: https://mcap.dev/spec. A record is an opcode (1 byte), the length of its content (8 bytes) and the content.
"""

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import TypeVar

import lz4.frame  # type: ignore[import-untyped]
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Chunk

from perception.core.errors import QueueError

MAGIC = b"\x89MCAP0\r\n"
RECORD_HEAD = struct.Struct("<BQ")
MESSAGE_HEAD = struct.Struct("<HIQQ")
"""Channel, sequence, log time, publish time; the payload follows."""
MAX_RECORD_BYTES = 64 * 1024 * 1024
"""Of a record that is read as a whole, compressed or not. Writers make chunks of 1 to 4 MiB."""
READ_WHOLE = (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE, Opcode.CHUNK, Opcode.METADATA)

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Where a record lies. position: of its opcode; length: of its content."""

    opcode: int
    position: int
    length: int

    @property
    def end(self) -> int:
        return self.position + RECORD_HEAD.size + self.length


def check_is_file(descriptor: int) -> None:
    """Raises QueueError for a folder, a pipe or a device."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise QueueError("this is no file")


def record_at(descriptor: int, position: int) -> Record | None:
    """The record that begins at a position; None where it is not there as a whole (yet).

    Raises QueueError where it is one to be read as a whole and declares more than `MAX_RECORD_BYTES`.
    """
    head = os.pread(descriptor, RECORD_HEAD.size, position)
    if len(head) < RECORD_HEAD.size:
        return None
    opcode, length = RECORD_HEAD.unpack(head)
    if opcode in READ_WHOLE and length > MAX_RECORD_BYTES:
        raise QueueError(
            f"the record at byte {position} declares {length} bytes; at most {MAX_RECORD_BYTES} are read at once"
        )
    record = Record(opcode=opcode, position=position, length=length)
    # Opcode 0 is none: after a power cut, blocks that were never written read as zeros.
    return record if opcode and record.end <= os.fstat(descriptor).st_size else None


def content(descriptor: int, record: Record) -> bytes:
    """What is in a record. Raises QueueError where the file was cut off meanwhile."""
    data = os.pread(descriptor, record.length, record.position + RECORD_HEAD.size)
    if len(data) < record.length:
        raise QueueError(f"the record at byte {record.position} was cut off while it was read")
    return data


def parse(read: Callable[[ReadDataStream], Parsed], data: bytes) -> Parsed:
    """The record that `read` of the mcap library finds in `data`. Raises QueueError where it finds none."""
    try:
        return read(ReadDataStream(BytesIO(data)))
    except (McapError, struct.error, ValueError) as error:
        raise QueueError(f"a record is malformed: {type(error).__name__} {error}".rstrip()) from None


def unpack_chunk(packed: bytes) -> bytes:
    """The records in the content of a chunk. Raises QueueError where it is damaged or too large."""
    chunk = parse(Chunk.read, packed)
    size = chunk.uncompressed_size
    if size > MAX_RECORD_BYTES:
        raise QueueError(f"a chunk declares {size} bytes of records; at most {MAX_RECORD_BYTES} are read at once")
    data = _decompress(chunk.compression, chunk.data, size)
    if len(data) != size:
        raise QueueError(f"a chunk holds {'more' if len(data) > size else 'less'} than the {size} bytes it declares")
    if chunk.uncompressed_crc and chunk.uncompressed_crc != zlib.crc32(data):
        raise QueueError("a chunk is damaged: its checksum does not fit")
    return data


def records_in(chunk: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Opcode, position of the opcode and content of each record in an unpacked chunk. Raises QueueError as it goes."""
    view, position = memoryview(chunk), 0
    while position < len(chunk):
        begin = position + RECORD_HEAD.size
        opcode, length = RECORD_HEAD.unpack_from(chunk, position) if begin <= len(chunk) else (0, len(chunk))
        if length > len(chunk) - begin:
            raise QueueError("a chunk ends within a record")
        yield opcode, position, view[begin : begin + length]
        position = begin + length


def _decompress(compression: str, data: bytes, size: int) -> bytes:
    """At most one byte more than `size`: what a bomb unfolds to is never built."""
    try:
        if compression == "zstd":
            return zstandard.ZstdDecompressor(max_window_size=MAX_RECORD_BYTES).stream_reader(data).read(size + 1)
        if compression == "lz4":
            return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1))
    except (zstandard.ZstdError, RuntimeError, EOFError) as error:
        raise QueueError(f"a chunk cannot be decompressed: {error}") from None
    if compression:
        raise QueueError(f"a chunk is compressed by {compression[:40]!r}; zstd and lz4 are known")
    return data
