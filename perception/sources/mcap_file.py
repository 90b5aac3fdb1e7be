"""An MCAP file as channels and blocks of messages: from its index, or by going through it where that is missing."""

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from mcap.opcode import Opcode
from mcap.records import Channel, Footer, Metadata, Schema

from perception.core.errors import DriveError, PayloadError
from perception.sources.mcap_ahead import reading_ahead
from perception.sources.mcap_chunks import (
    CHUNK_HEAD,
    MAGIC,
    RECORD_HEAD,
    entries,
    loose_end,
    message_head,
    parse,
    read_chunk_index,
    read_message_index,
    record_at,
    record_head,
    records_of_block,
)
from perception.sources.rosbag_blocks import MAX_BLOCK_BYTES, Block, Entry, read_records
from perception.sources.rosbag_storage import Record, open_again, told_start

_FOOTER_BYTES = RECORD_HEAD.size + 20 + len(MAGIC)
_MAX_LEADING = 16


class McapFile:
    """Raises DriveError where the file is no MCAP file or nothing of it can be read. It is not held open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}
        self.blocks: list[Block] = []
        self.notes: tuple[str, ...] = ()
        self._indexes: dict[int, Mapping[int, int]] = {}
        try:
            with path.open("rb") as file:
                if (head := file.read(len(MAGIC))) != MAGIC:
                    raise DriveError(f"{path}: no MCAP file: {told_start(head)}")
                if not self._read_summary(file):
                    self._scan(file)
        except OSError as error:
            raise DriveError(f"{path}: cannot be read ({error.strerror})") from error

    def records(self, names: Mapping[int, str], from_ns: int = 0) -> Iterator[Record]:
        """Messages of the channels in `names` (channel to name) by log time, those logged at `from_ns` or later.

        A block that is damaged gives an error of each name in it.
        """
        wanted = [block for block in self.blocks if block.end_ns >= from_ns and block.channels & names.keys()]
        wanted.sort(key=lambda block: block.start_ns)
        with reading_ahead(wanted, partial(self.entries, channels=names.keys())) as load:
            for record in read_records(self.path, wanted, names, load):
                if record.log_ns >= from_ns or record.error is not None:
                    yield record

    def entries(self, block: Block, channels: Collection[int] | None = None) -> list[Entry]:
        """The messages of one block. Raises PayloadError where it is damaged, DriveError where the file is gone."""
        with open_again(self.path) as file:
            return list(entries(file, block, channels))

    def times(self, block: Block, channels: Collection[int]) -> dict[int, list[int]]:
        """Log times of the messages of `channels` in a block, by its index or else by reading it; none if damaged."""
        wanted = block.channels & frozenset(channels)
        with open_again(self.path) as file:
            try:
                return {
                    channel: _indexed_times(file, self._indexes[block.position][channel], channel) for channel in wanted
                }
            except PayloadError:
                found: dict[int, list[int]] = {}
        try:
            for entry in self.entries(block):
                if entry.channel in wanted:
                    found.setdefault(entry.channel, []).append(entry.log_ns)
        except PayloadError:
            # The damage is told when the block itself is read.
            return {}
        return found

    def span_of(self, channels: Collection[int]) -> tuple[int, int] | None:
        """Log times of the first and the last message of `channels`; None without any."""
        wanted = [block for block in self.blocks if block.channels & frozenset(channels)]
        firsts: list[int] = []
        for block in sorted(wanted, key=lambda block: block.start_ns):
            if firsts and block.start_ns >= min(firsts):
                break
            firsts += [min(times) for times in self.times(block, channels).values() if times]
        lasts: list[int] = []
        for block in sorted(wanted, key=lambda block: -block.end_ns):
            if lasts and block.end_ns <= max(lasts):
                break
            lasts += [max(times) for times in self.times(block, channels).values() if times]
        return (min(firsts), max(lasts)) if firsts and lasts else None

    def _read_summary(self, file: BinaryIO) -> bool:
        """Take channels and blocks from the index at the end. False where there is none that holds them all."""
        size = file.seek(0, 2)
        if size < len(MAGIC) + _FOOTER_BYTES:
            return False
        file.seek(size - _FOOTER_BYTES)
        tail = file.read()
        if not tail.endswith(MAGIC) or tail[0] != Opcode.FOOTER:
            return False
        try:
            footer = parse(Footer.read, tail[RECORD_HEAD.size :])
            if not len(MAGIC) <= footer.summary_start < size - _FOOTER_BYTES:
                return False
            position = footer.summary_start
            while position < size - _FOOTER_BYTES:
                opcode, content = record_at(file, position)
                self._take(opcode, content)
                position += RECORD_HEAD.size + len(content)
        except PayloadError:
            self.blocks, self.channels, self.schemas, self._indexes = [], {}, {}, {}
            return False
        is_inside = all(block.position < size for block in self.blocks)
        return bool(self.blocks and self.channels and self.schemas) and is_inside

    def _take(self, opcode: int, content: bytes) -> None:
        if opcode == Opcode.SCHEMA:
            schema = parse(Schema.read, content)
            self.schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = parse(Channel.read, content)
            self.channels[channel.id] = channel
        elif opcode == Opcode.CHUNK_INDEX:
            start_ns, end_ns, position, offsets = read_chunk_index(content)
            # A writer may leave the offsets out; then any channel may be in the chunk.
            self._add(position, start_ns, end_ns, offsets or dict.fromkeys(self.channels, 0))

    def _add(self, position: int, start_ns: int, end_ns: int, indexes: Mapping[int, int]) -> None:
        """Add a block. indexes: where the index of the messages of each channel in it lies."""
        block = Block(position=position, start_ns=start_ns, end_ns=end_ns, channels=frozenset(indexes))
        self.blocks.append(block)
        self._indexes[position] = indexes

    def _scan(self, file: BinaryIO) -> None:
        """Find channels and blocks by going through the whole file, as far as it is whole."""
        self.blocks, size = [], file.seek(0, 2)
        position, reason = len(MAGIC), "it has no index"
        while position + RECORD_HEAD.size <= size:
            opcode, length = record_head(file, position)
            end = position + RECORD_HEAD.size + length
            if opcode in (Opcode.DATA_END, Opcode.FOOTER):
                break
            if opcode == 0 or end > size:
                reason = f"it is cut short: the last {size - position} of its {size} bytes are left out"
                break
            try:
                position = self._scan_record(file, opcode, position, end)
            except PayloadError as error:
                reason = f"it is damaged at byte {position} ({error})"
                position = end
        self.notes = (f"{self.path.name}: {reason}; {len(self.blocks)} blocks were found by reading all of it",)
        if not self.blocks:
            raise DriveError(f"{self.path}: {reason}, and no message could be found in it")

    def _scan_record(self, file: BinaryIO, opcode: int, position: int, end: int) -> int:
        """Take one record; where the next one is."""
        if opcode == Opcode.MESSAGE:
            end = loose_end(file, position)
        elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
            self._take(*record_at(file, position))
        if opcode == Opcode.CHUNK and (indexes := self._indexes_behind(file, end)):
            file.seek(position + RECORD_HEAD.size)
            head = file.read(CHUNK_HEAD.size)
            if len(head) == CHUNK_HEAD.size:
                start_ns, end_ns, _, _ = CHUNK_HEAD.unpack(head)
                self._add(position, start_ns, end_ns, indexes)
                return end
        if opcode in (Opcode.MESSAGE, Opcode.CHUNK):
            found, start_ns, end_ns = dict[int, int](), 2**63, 0
            for inner, content in records_of_block(file, position, end):
                if inner == Opcode.MESSAGE:
                    channel, log_ns = message_head(content, 0, len(content))
                    found[channel] = 0
                    start_ns, end_ns = min(start_ns, log_ns), max(end_ns, log_ns)
                else:
                    self._take(inner, bytes(content))
            if found:
                self._add(position, start_ns, end_ns, found)
        return end

    def _indexes_behind(self, file: BinaryIO, position: int) -> dict[int, int]:
        """Where the indexes of a chunk lie that ends at `position`; none unless all of its channels are known."""
        found: dict[int, int] = {}
        try:
            while (head := record_head(file, position))[0] == Opcode.MESSAGE_INDEX:
                channel = int.from_bytes(file.read(2), "little")
                if channel not in self.channels:
                    return {}
                found[channel] = position
                position += RECORD_HEAD.size + head[1]
        except PayloadError:
            return {}
        return found


def _indexed_times(file: BinaryIO, position: int, channel: int) -> list[int]:
    opcode, content = record_at(file, position)
    if opcode != Opcode.MESSAGE_INDEX:
        raise PayloadError(f"no index of messages at byte {position}")
    number, times = read_message_index(content)
    if number != channel:
        raise PayloadError(f"the index at byte {position} is of channel {number}, not {channel}")
    found: list[int] = times.astype(np.int64).tolist()
    return found


def leading_metadata(path: Path) -> dict[str, Mapping[str, str]]:
    """Metadata records before the first message, by name; none where the file cannot be read or is no MCAP file."""
    found: dict[str, Mapping[str, str]] = {}
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return {}
            position = len(MAGIC)
            for _ in range(_MAX_LEADING):
                opcode, length = record_head(file, position)
                if opcode == Opcode.METADATA and length <= MAX_BLOCK_BYTES:
                    metadata = parse(Metadata.read, record_at(file, position)[1])
                    found.setdefault(metadata.name, metadata.metadata)
                elif opcode in (Opcode.CHUNK, Opcode.MESSAGE):
                    break
                position += RECORD_HEAD.size + length
    except (OSError, PayloadError):
        return found
    return found
