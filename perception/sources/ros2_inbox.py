"""Between Zenoh's thread, which must never wait, and the reader of a live source, which may be slow."""

import threading
from collections import deque
from typing import Final

from perception.formats.ros_zenoh import read_mark
from perception.sources.rosbag_storage import Record

MAX_RECORDS: Final = 512
"""A second or two of a large rig."""
MAX_BYTES: Final = 256 * 2**20


class Inbox:
    """Keeps what arrives until it is taken, the oldest giving way. All methods may be called from any thread.

    dropped: what gave way.
    """

    def __init__(self, *, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._records: deque[Record] = deque()
        self._bytes = 0
        self._is_closed = False
        self.dropped = 0

    def put(self, record: Record) -> None:
        with self._changed:
            self._records.append(record)
            self._bytes += len(record.data)
            while len(self._records) > self._max_records or self._bytes > self._max_bytes:
                self._bytes -= len(self._records.popleft().data)
                self.dropped += 1
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Record | None:
        """The oldest; None where nothing arrives in time, or after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._records or self._is_closed, timeout_s)
            if self._is_closed or not self._records:
                return None
            record = self._records.popleft()
            self._bytes -= len(record.data)
            return record

    def clear(self) -> None:
        """Forget what was not taken, without counting it."""
        with self._changed:
            self._records.clear()
            self._bytes = 0

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class Numbers:
    """Follows the numbers that publishers give to their messages. lost: those that were passed over.

    Messages without a number, and those that come again or late, are no loss.
    """

    def __init__(self) -> None:
        self._latest: dict[bytes, int] = {}
        self.lost = 0

    def take(self, attachment: bytes) -> None:
        mark = read_mark(attachment)
        if mark is None:
            return
        latest = self._latest.get(mark.gid)
        if latest is None or mark.number > latest:
            self.lost += mark.number - latest - 1 if latest is not None else 0
            self._latest[mark.gid] = mark.number
