"""What MCAP files and ROS 1 bags have in common: messages lie in blocks, packed, and blocks may overlap in time.

Nothing that a file declares is trusted: a block is never unpacked to more than `MAX_BLOCK_BYTES`.
"""

import bz2
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame  # type: ignore[import-untyped]
import zstandard

from perception.core.errors import DriveError, PayloadError
from perception.sources.rosbag_storage import Record, open_again

MAX_BLOCK_BYTES = 256 * 2**20
"""Recorders make blocks of 1 to 4 MiB; a larger message gets one of its own."""
MAX_WAITING_BYTES = 1024 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Where a block lies in its file and what is in it. channels: those with messages in it."""

    position: int
    start_ns: int
    end_ns: int
    channels: frozenset[int]


class Entry(NamedTuple):
    """One message as it lies in a block."""

    log_ns: int
    channel: int
    data: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A block that cannot be read, in place of its messages."""

    block: Block
    error: str

    @property
    def log_ns(self) -> int:
        return self.block.start_ns


def span_of(blocks: Iterable[Block]) -> tuple[int, int] | None:
    """Log times of the first and the last message; None without any."""
    spans = [(block.start_ns, block.end_ns) for block in blocks if block.channels]
    return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None


def read_records(
    path: Path,
    blocks: Sequence[Block],
    names: Mapping[int, str],
    entries: Callable[[BinaryIO, Block], Iterable[Entry]],
) -> Iterator[Record]:
    """Messages of the channels in `names` (channel to topic) by log time; a damaged block is an error of each topic.

    `entries` unpacks a block of the open file and raises PayloadError.
    """
    with open_again(path) as file:
        for found in in_log_order(blocks, frozenset(names), lambda block: entries(file, block)):
            if isinstance(found, Damage):
                for name in sorted({names[number] for number in found.block.channels & names.keys()}):
                    yield Record(topic=name, log_ns=found.log_ns, error=f"{path}: {found.error}")
            else:
                yield Record(topic=names[found.channel], log_ns=found.log_ns, data=found.data)


def in_log_order(
    blocks: Iterable[Block], channels: frozenset[int], load: Callable[[Block], Iterable[Entry]]
) -> Iterator[Entry | Damage]:
    """Messages of `channels` by log time; those of one time keep the order of the file.

    `load` gives the entries of a block and raises PayloadError; it is called when no earlier message can come from
    elsewhere. Raises DriveError where so many blocks overlap that they do not fit into memory.
    """
    waiting: list[tuple[int, int, Entry | Damage]] = []
    count = held_bytes = 0
    wanted = sorted((block for block in blocks if block.channels & channels), key=lambda block: block.start_ns)
    for number, block in enumerate(wanted):
        while waiting and waiting[0][0] < block.start_ns:
            found = heapq.heappop(waiting)[2]
            held_bytes -= len(found.data) if isinstance(found, Entry) else 0
            yield found
        try:
            entries: list[Entry | Damage] = [entry for entry in load(block) if entry.channel in channels]
        except PayloadError as error:
            entries = [Damage(block=block, error=str(error))]
        following_ns = wanted[number + 1].start_ns if number + 1 < len(wanted) else None
        if not waiting and _is_all_before(entries, following_ns):
            yield from entries
            continue
        for entry in entries:
            heapq.heappush(waiting, (entry.log_ns, count, entry))
            count += 1
            held_bytes += len(entry.data) if isinstance(entry, Entry) else 0
        if held_bytes > MAX_WAITING_BYTES:
            raise DriveError(
                f"blocks of more than {MAX_WAITING_BYTES} bytes overlap at {block.start_ns} ns; write the bag anew in "
                "the order of time, for instance with `mcap filter` or `rosbag filter`"
            )
    while waiting:
        yield heapq.heappop(waiting)[2]


def _is_all_before(entries: Sequence[Entry | Damage], following_ns: int | None) -> bool:
    """Whether the messages of a block are in order and before the next block: as nearly all recorders write them."""
    times = [entry.log_ns for entry in entries]
    is_rising = all(first <= second for first, second in pairwise(times))
    return is_rising and (following_ns is None or not times or times[-1] < following_ns)


def unpack(compression: str, data: bytes | memoryview, size: int) -> bytes | memoryview:
    """A block of `size` bytes, unpacked. compression: empty or `none`, `zstd`, `lz4` (frames), `bz2`.

    Raises PayloadError where it is damaged, of another size or too large; what a bomb unfolds to is never built.
    """
    if size > MAX_BLOCK_BYTES:
        raise PayloadError(f"a block declares {size} bytes; at most {MAX_BLOCK_BYTES} are read at once")
    try:
        if compression == "zstd":
            reader = zstandard.ZstdDecompressor(max_window_size=MAX_BLOCK_BYTES).stream_reader(data)
            unpacked: bytes | memoryview = reader.read(size + 1)
        elif compression == "lz4":
            unpacked = bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1))
        elif compression == "bz2":
            unpacked = bz2.BZ2Decompressor().decompress(data, max_length=size + 1)
        elif compression in ("", "none"):
            unpacked = data
        else:
            raise PayloadError(f"a block is packed by {compression[:40]!r}; zstd, lz4 and bz2 are known")
    except (zstandard.ZstdError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise PayloadError(f"a block cannot be unpacked: {error}") from error
    if len(unpacked) != size:
        raise PayloadError(f"a block holds {'more' if len(unpacked) > size else 'less'} than the {size} bytes declared")
    return unpacked
