"""Bags of ROS 1, format 2.0, indexed or cut short. Format: wiki.ros.org/Bags/Format/2.0.

A record is a header of `name=value` fields and data, each behind its length (4 bytes). Messages lie in chunks.
"""

import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from perception.core.errors import DriveError, PayloadError
from perception.sources.rosbag_blocks import MAX_BLOCK_BYTES, Block, Entry, read_records, span_of, unpack
from perception.sources.rosbag_storage import Record, Topic, normal_type, told_start

MAGIC = b"#ROSBAG V2.0\n"

_LENGTH, _TIME, _OFFSET, _PAIR = struct.Struct("<I"), struct.Struct("<II"), struct.Struct("<Q"), struct.Struct("<II")
_MESSAGE, _BAG, _INDEX, _CHUNK, _CHUNK_INFO, _CONNECTION = range(2, 8)
_MAX_HEADER_BYTES = 2**20
_LARGEST_COUNT = 2**20

Fields = dict[bytes, bytes]


class Ros1Storage:
    """One file. Raises DriveError where it is no bag of ROS 1 or nothing of it can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections: dict[int, Topic] = {}
        self._blocks: list[Block] = []
        self._notes: tuple[str, ...] = ()
        try:
            with path.open("rb") as file:
                if (head := file.read(len(MAGIC))) != MAGIC:
                    old = "; an older bag is converted by `rosbag fix`" if head.startswith(b"#ROSBAG") else ""
                    raise DriveError(f"{path}: no bag of ROS 1 in format 2.0: {told_start(head)}{old}")
                if not self._read_index(file):
                    self._scan(file)
        except OSError as error:
            raise DriveError(f"{path}: cannot be read ({error.strerror})") from error

    @property
    def topics(self) -> Mapping[str, Topic]:
        return {topic.name: topic for topic in self._connections.values()}

    @property
    def span_ns(self) -> tuple[int, int] | None:
        return span_of(self._blocks)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        wanted = {number: topic.name for number, topic in self._connections.items() if topic.name in topics}
        return read_records(self._path, self._blocks, wanted, _entries)

    def _read_index(self, file: BinaryIO) -> bool:
        """Take connections and chunks from the index at the end; False where there is none or it is broken."""
        try:
            fields = _fields(_header(file))
            _skip_data(file)
            position, connections, chunks = (
                _number(fields, b"index_pos"),
                _number(fields, b"conn_count"),
                _number(fields, b"chunk_count"),
            )
            size = file.seek(0, 2)
            if not len(MAGIC) < position < size or max(connections, chunks) > _LARGEST_COUNT or not chunks:
                return False
            file.seek(position)
            for _ in range(connections):
                self._take_connection(_expect(file, _CONNECTION), _data(file))
            self._blocks = [_chunk_info(_expect(file, _CHUNK_INFO), _data(file)) for _ in range(chunks)]
        except PayloadError:
            self._connections, self._blocks = {}, []
            return False
        return all(block.position < size for block in self._blocks)

    def _scan(self, file: BinaryIO) -> None:
        """Find connections and chunks by going through the whole file, as far as it is whole."""
        self._blocks, size = [], file.seek(0, 2)
        position, reason = len(MAGIC), "it has no index"
        while position < size:
            try:
                file.seek(position)
                fields = _fields(_header(file))
                begin = file.tell()
                end = begin + _LENGTH.size + _length(file)
            except PayloadError as error:
                reason = f"it is cut short or damaged after {position} of its bytes ({error})"
                break
            if end > size:
                reason = f"it is cut short after {position} of its bytes"
                break
            try:
                if _op(fields) == _CHUNK:
                    self._scan_chunk(file, position)
                elif _op(fields) == _CONNECTION:
                    file.seek(begin)
                    self._take_connection(fields, _data(file))
            except PayloadError as error:
                reason = f"it is damaged at byte {position} ({error})"
            position = end
        self._notes = (f"{self._path.name}: {reason}; {len(self._blocks)} chunks were found by reading all of it",)
        if not self._blocks:
            raise DriveError(f"{self._path}: {reason}, and no message could be found in it")

    def _scan_chunk(self, file: BinaryIO, position: int) -> None:
        channels, times = set(), []
        for fields, data in _records_of_chunk(file, position):
            if _op(fields) == _CONNECTION:
                self._take_connection(fields, bytes(data))
            elif _op(fields) == _MESSAGE:
                channels.add(_number(fields, b"conn"))
                times.append(_time_ns(fields))
        if times:
            block = Block(position=position, start_ns=min(times), end_ns=max(times), channels=frozenset(channels))
            self._blocks.append(block)

    def _take_connection(self, fields: Fields, data: bytes) -> None:
        described = _fields(data)
        try:
            name, type_name = fields[b"topic"].decode(), described[b"type"].decode()
        except (KeyError, UnicodeDecodeError) as error:
            raise PayloadError(f"a connection names no topic or type ({error!r})") from error
        self._connections[_number(fields, b"conn")] = Topic(
            name=name,
            type_name=normal_type(type_name),
            is_ros1=True,
            definition=described.get(b"message_definition", b"").decode(errors="replace"),
            digest=described.get(b"md5sum", b"").decode(errors="replace"),
        )


def _entries(file: BinaryIO, block: Block) -> Iterator[Entry]:
    for fields, data in _records_of_chunk(file, block.position):
        if _op(fields) == _MESSAGE:
            yield Entry(log_ns=_time_ns(fields), channel=_number(fields, b"conn"), data=data)


def _records_of_chunk(file: BinaryIO, position: int) -> Iterator[tuple[Fields, memoryview]]:
    """Header and data of each record in the chunk that begins at `position`. Raises PayloadError."""
    file.seek(position)
    fields = _expect(file, _CHUNK)
    compression = fields.get(b"compression", b"").decode(errors="replace")
    data = unpack(compression, _data(file), _number(fields, b"size"))
    view, at = memoryview(data), 0
    while at < len(data):
        header, at = _slice(view, at)
        content, at = _slice(view, at)
        yield _fields(bytes(header)), content


def _slice(view: memoryview, at: int) -> tuple[memoryview, int]:
    begin = at + _LENGTH.size
    length = _LENGTH.unpack_from(view, at)[0] if begin <= len(view) else len(view)
    if length > len(view) - begin:
        raise PayloadError("a chunk ends within a record")
    return view[begin : begin + length], begin + length


def _chunk_info(fields: Fields, data: bytes) -> Block:
    pairs = _PAIR.iter_unpack(data[: len(data) // _PAIR.size * _PAIR.size])
    return Block(
        position=_number(fields, b"chunk_pos"),
        start_ns=_time_ns(fields, b"start_time"),
        end_ns=_time_ns(fields, b"end_time"),
        channels=frozenset(connection for connection, count in pairs if count),
    )


def _expect(file: BinaryIO, op: int) -> Fields:
    fields = _fields(_header(file))
    if _op(fields) != op:
        raise PayloadError(f"a record of kind {_op(fields)} where one of kind {op} should be")
    return fields


def _op(fields: Fields) -> int:
    value = fields.get(b"op", b"")
    return value[0] if len(value) == 1 else -1


def _number(fields: Fields, name: bytes) -> int:
    value = fields.get(name, b"")
    if len(value) not in (_LENGTH.size, _OFFSET.size):
        raise PayloadError(f"a record has no field {name.decode()}")
    return int.from_bytes(value, "little")


def _time_ns(fields: Fields, name: bytes = b"time") -> int:
    value = fields.get(name, b"")
    if len(value) != _TIME.size:
        raise PayloadError(f"a record has no field {name.decode()}")
    seconds, nanoseconds = _TIME.unpack(value)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _fields(data: bytes) -> Fields:
    fields, at = {}, 0
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        name, separator, value = data[at : at + length].partition(b"=")
        if not separator or length > len(data) - at:
            raise PayloadError("the header of a record is malformed")
        fields[name] = value
        at += length
    return fields


def _header(file: BinaryIO) -> bytes:
    return _exactly(file, _length(file), _MAX_HEADER_BYTES)


def _data(file: BinaryIO) -> bytes:
    return _exactly(file, _length(file), MAX_BLOCK_BYTES)


def _skip_data(file: BinaryIO) -> None:
    file.seek(_length(file), 1)


def _length(file: BinaryIO) -> int:
    (length,) = _LENGTH.unpack(_exactly(file, _LENGTH.size, _LENGTH.size))
    return int(length)


def _exactly(file: BinaryIO, length: int, limit: int) -> bytes:
    if length > limit:
        raise PayloadError(f"a record declares {length} bytes; at most {limit} are read at once")
    data = file.read(length)
    if len(data) < length:
        raise PayloadError("the file ends within a record")
    return data
