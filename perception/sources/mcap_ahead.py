"""Unpacks the next block in a thread while this one is decoded: unpacking and checksums let other threads run."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import BinaryIO

from perception.sources.rosbag_blocks import Block, Entry

Load = Callable[[Block], list[Entry]]


@contextmanager
def reading_ahead(blocks: Sequence[Block], load: Load) -> Iterator[Callable[[BinaryIO, Block], list[Entry]]]:
    """What `read_records` takes as `entries`: of `blocks`, asked for in this order, one is loaded beforehand."""
    following = {block.position: later for block, later in pairwise(blocks)}
    waiting: dict[int, Future[list[Entry]]] = {}
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mcap") as thread:

        def entries(_: BinaryIO, block: Block) -> list[Entry]:
            future = waiting.pop(block.position, None)
            try:
                return load(block) if future is None else future.result()
            finally:
                if (later := following.get(block.position)) is not None:
                    waiting[later.position] = thread.submit(load, later)

        yield entries
