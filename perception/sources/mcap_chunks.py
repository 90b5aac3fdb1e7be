"""The records of an MCAP file, one by one, of which nothing is trusted. Format: https://mcap.dev/spec.

A record is an opcode (1 byte), the length of its content (8 bytes) and the content.
"""

import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from io import BytesIO
from typing import Any, BinaryIO, TypeVar

import numpy as np
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.sources.rosbag_blocks import MAX_BLOCK_BYTES, Block, Entry, unpack

MAGIC = b"\x89MCAP0\r\n"
RECORD_HEAD = struct.Struct("<BQ")
CHUNK_HEAD = struct.Struct("<QQQI")
"""First and last log time, unpacked size, checksum; the compression and the packed records follow."""

MESSAGE_HEAD = struct.Struct("<HIQQ")
_INDEX_HEAD = struct.Struct("<HI")
_CHUNK_INDEX = struct.Struct("<QQQQI")
_TIMES = np.dtype([("log_ns", "<u8"), ("offset", "<u8")])
_OFFSETS = np.dtype([("channel", "<u2"), ("position", "<u8")])
_LOOSE_BYTES = 4 * 2**20
_BROKEN = (McapError, struct.error, ValueError, EOFError)

Parsed = TypeVar("Parsed")


def parse(read: Callable[[ReadDataStream], Parsed], content: bytes) -> Parsed:
    """The record that `read` of the mcap library finds in `content`. Raises PayloadError where it finds none."""
    try:
        return read(ReadDataStream(BytesIO(content)))
    except _BROKEN as error:
        raise PayloadError(f"a record is malformed ({type(error).__name__} {error})") from error


def record_at(file: BinaryIO, position: int) -> tuple[int, bytes]:
    """Opcode and content of the record that begins at `position`. Raises PayloadError where it is not whole."""
    opcode, length = record_head(file, position)
    return opcode, _exactly(file, length)


def record_head(file: BinaryIO, position: int) -> tuple[int, int]:
    """Opcode and length of a record, whose content is read next. Raises PayloadError at the end of the file."""
    file.seek(position)
    opcode, length = RECORD_HEAD.unpack(_exactly(file, RECORD_HEAD.size))
    return opcode, length


def entries(file: BinaryIO, block: Block, channels: Collection[int] | None = None) -> Iterator[Entry]:
    """The messages of a block, of `channels` only where they are given. Raises PayloadError where it is damaged."""
    view = memoryview(_block_data(file, block.position, None))
    for opcode, begin, end in _records_in(view):
        if opcode == Opcode.MESSAGE:
            channel, log_ns = message_head(view, begin, end)
            if channels is None or channel in channels:
                yield Entry(log_ns=log_ns, channel=channel, data=view[begin + MESSAGE_HEAD.size : end])


def records_of_block(file: BinaryIO, position: int, end: int | None) -> Iterator[tuple[int, memoryview]]:
    """Opcode and content of each record in the chunk, or in the run of loose messages, that begins at `position`."""
    view = memoryview(_block_data(file, position, end))
    for opcode, begin, stop in _records_in(view):
        yield opcode, view[begin:stop]


def _block_data(file: BinaryIO, position: int, end: int | None) -> bytes | memoryview:
    opcode, length = record_head(file, position)
    if opcode == Opcode.MESSAGE:
        last = end if end is not None else loose_end(file, position)
        file.seek(position)
        return file.read(last - position)
    if opcode == Opcode.CHUNK:
        return _unpack_chunk(memoryview(_exactly(file, length)))
    raise PayloadError(f"no chunk at byte {position}: the index is wrong")


def _records_in(view: memoryview) -> Iterator[tuple[int, int, int]]:
    """Opcode of each record, and where its content begins and ends."""
    end, size = 0, len(view)
    while end + RECORD_HEAD.size <= size:
        opcode, length = RECORD_HEAD.unpack_from(view, end)
        begin = end + RECORD_HEAD.size
        end = begin + length
        if end > size:
            raise PayloadError("a chunk ends within a record")
        yield opcode, begin, end


def loose_end(file: BinaryIO, position: int) -> int:
    """The end of the run of messages outside of chunks that begins at `position`, of about 4 MiB."""
    size, end = file.seek(0, 2), position
    while end - position < _LOOSE_BYTES and end + RECORD_HEAD.size <= size:
        opcode, length = record_head(file, end)
        if opcode != Opcode.MESSAGE or end + RECORD_HEAD.size + length > size or length > MAX_BLOCK_BYTES:
            break
        end += RECORD_HEAD.size + length
    return end


def message_head(view: memoryview, begin: int, end: int) -> tuple[int, int]:
    """Channel and log time of the message whose content lies there."""
    if end - begin < MESSAGE_HEAD.size:
        raise PayloadError("a message is too short for its header")
    channel, _, log_ns, _ = MESSAGE_HEAD.unpack_from(view, begin)
    return channel, log_ns


def read_chunk_index(content: bytes) -> tuple[int, int, int, dict[int, int]]:
    """First and last log time, position of the chunk, and where the index of each channel's messages lies."""
    if len(content) < _CHUNK_INDEX.size:
        raise PayloadError("the index of a chunk is too short")
    start_ns, end_ns, position, _, length = _CHUNK_INDEX.unpack_from(content)
    pairs = _table(content, _CHUNK_INDEX.size, length, _OFFSETS)
    return start_ns, end_ns, position, dict(zip(pairs["channel"].tolist(), pairs["position"].tolist(), strict=True))


def read_message_index(content: bytes) -> tuple[int, NDArray[np.uint64]]:
    """Channel, and the log times of its messages in a chunk."""
    if len(content) < _INDEX_HEAD.size:
        raise PayloadError("the index of messages is too short")
    channel, length = _INDEX_HEAD.unpack_from(content)
    return channel, _table(content, _INDEX_HEAD.size, length, _TIMES)["log_ns"]


def _table(content: bytes, begin: int, length: int, kind: np.dtype[Any]) -> NDArray[Any]:
    if length > len(content) - begin or length % kind.itemsize:
        raise PayloadError("an index declares more than it has")
    return np.ndarray(length // kind.itemsize, dtype=kind, buffer=content, offset=begin)


def _unpack_chunk(content: memoryview) -> bytes | memoryview:
    if len(content) < CHUNK_HEAD.size + 4:
        raise PayloadError("a chunk is too short for its header")
    _, _, size, checksum = CHUNK_HEAD.unpack_from(content)
    try:
        stream = ReadDataStream(BytesIO(bytes(content[CHUNK_HEAD.size : CHUNK_HEAD.size + 64])))
        compression = stream.read_prefixed_string()
        packed_size = stream.read8()
    except _BROKEN as error:
        raise PayloadError(f"the header of a chunk is malformed ({error})") from error
    begin = CHUNK_HEAD.size + stream.count
    if packed_size > len(content) - begin:
        raise PayloadError("a chunk declares more packed bytes than it has")
    data = _unpack(compression, content[begin : begin + packed_size], size)
    if checksum and checksum != zlib.crc32(data):
        raise PayloadError("a chunk is damaged: its checksum does not fit")
    return data


def _unpack(compression: str, packed: memoryview, size: int) -> bytes | memoryview:
    """As `unpack`, in one go where a zstd frame declares the size that it should have, which bounds what it gives."""
    if compression != "zstd" or size > MAX_BLOCK_BYTES:
        return unpack(compression, packed, size)
    try:
        if zstandard.frame_content_size(packed) != size:
            return unpack(compression, packed, size)
        return zstandard.ZstdDecompressor(max_window_size=MAX_BLOCK_BYTES).decompress(packed)
    except zstandard.ZstdError as error:
        raise PayloadError(f"a block cannot be unpacked: {error}") from error


def _exactly(file: BinaryIO, length: int) -> bytes:
    if length > MAX_BLOCK_BYTES:
        raise PayloadError(f"a record declares {length} bytes; at most {MAX_BLOCK_BYTES} are read at once")
    data = file.read(length)
    if len(data) < length:
        raise PayloadError("the file ends within a record")
    return data
