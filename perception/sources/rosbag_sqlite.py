"""Files of ROS 2 bags in the sqlite3 storage, whole or cut short.

Tables: github.com/ros2/rosbag2, rosbag2_storage_sqlite3. Messages may be packed one by one by zstd.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import zstandard

from perception.core.errors import DriveError, PayloadError
from perception.sources.rosbag_blocks import unpack
from perception.sources.rosbag_storage import Record, Topic, normal_type, told_start

MAGIC = b"SQLite format 3\0"
# SQLite's own messages quote what is damaged, and may be no text then.
_BROKEN = (sqlite3.Error, UnicodeDecodeError, MemoryError)
_ZSTD_START = b"\x28\xb5\x2f\xfd"
_TIME = "CAST(coalesce(timestamp, 0) AS INTEGER)"
_PAGE_SIZE, _PAGE_COUNT = slice(16, 18), slice(28, 32)


class SqliteStorage:
    """One file, opened for reading alone. Raises DriveError where it is no bag or nothing of it can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_cut = _is_cut(path)
        try:
            with closing(self._connect()) as database:
                self._names: dict[int, str] = dict(database.execute("SELECT id, name FROM topics"))
                self._topics = _topics(path, database)
                self._span_ns = self._find_span(database)
        except _BROKEN as error:
            raise DriveError(f"{path}: no sqlite3 bag of ROS 2 that can be read ({error})") from error

    @property
    def topics(self) -> Mapping[str, Topic]:
        return self._topics

    @property
    def span_ns(self) -> tuple[int, int] | None:
        return self._span_ns

    @property
    def notes(self) -> tuple[str, ...]:
        if not self._is_cut:
            return ()
        return (f"{self._path.name}: it is cut short; its messages are read in the order of the file, to the break",)

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        wanted = sorted(number for number, name in self._names.items() if name in topics)
        query = (
            f"SELECT topic_id, {_TIME}, data FROM messages "
            f"WHERE topic_id IN ({','.join('?' * len(wanted))}) ORDER BY timestamp, id"
        )
        log_ns = 0
        with closing(self._connect()) as database:
            try:
                rows = self._rows_to_the_break(database, wanted) if self._is_cut else database.execute(query, wanted)
                for number, log_ns, data in rows:
                    yield self._record(self._names[number], log_ns, data)
            except _BROKEN as error:
                raise DriveError(f"{self._path}: damaged after {log_ns} ns ({error})") from error

    def _rows_to_the_break(
        self, database: sqlite3.Connection, wanted: Collection[int]
    ) -> Iterator[tuple[int, int, object]]:
        """Topic, time and data of the messages in the order of the file. SQLite drops the row before an error, so all
        rows are gone through, and data are asked for one by one."""
        latest_ns = 0
        try:
            for row, number, log_ns in database.execute(f"SELECT id, topic_id, {_TIME} FROM messages ORDER BY id"):
                latest_ns = max(latest_ns, int(log_ns))
                if number in wanted:
                    (data,) = database.execute("SELECT data FROM messages WHERE id = ?", (row,)).fetchone()
                    yield number, latest_ns, data
        except _BROKEN:
            return  # the break, of which the notes tell

    def _record(self, topic: str, log_ns: int, data: object) -> Record:
        if not isinstance(data, bytes):
            return Record(topic=topic, log_ns=log_ns, error=f"{self._path}: a message holds no bytes")
        if not data.startswith(_ZSTD_START):
            return Record(topic=topic, log_ns=log_ns, data=data)
        try:
            return Record(topic=topic, log_ns=log_ns, data=unpack_message(data))
        except PayloadError as error:
            return Record(topic=topic, log_ns=log_ns, error=f"{self._path}: {error}")

    def _find_span(self, database: sqlite3.Connection) -> tuple[int, int] | None:
        if not self._is_cut:
            first, last = database.execute(f"SELECT min({_TIME}), max({_TIME}) FROM messages").fetchone()
            return (int(first), int(last)) if first is not None else None
        times: list[int] = []
        try:
            times.extend(int(row[0]) for row in database.execute(f"SELECT {_TIME} FROM messages ORDER BY id"))
        except _BROKEN as error:
            if not times:
                raise DriveError(f"{self._path}: cut short before its first message ({error})") from error
        return (min(times), max(times)) if times else None

    def _connect(self) -> sqlite3.Connection:
        # `immutable`: a bag beside which a journal was left is read as it is, and nothing is written.
        database = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        database.text_factory = lambda data: data.decode(errors="replace")
        if self._is_cut:
            # Nothing is written; SQLite opens a file that is shorter than it says in this mode alone.
            database.execute("PRAGMA writable_schema = ON")
        return database


def unpack_message(data: bytes) -> bytes | memoryview:
    """A message packed by zstd, whose size its frame declares. Raises PayloadError."""
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise PayloadError(f"a message cannot be unpacked ({error})") from error
    if size < 0:
        raise PayloadError("a packed message declares no size")
    return unpack("zstd", data, size)


def _is_cut(path: Path) -> bool:
    """Whether the file is shorter than its header says. Raises DriveError where it is no database."""
    try:
        with path.open("rb") as file:
            header, size = file.read(100), file.seek(0, 2)
    except OSError as error:
        raise DriveError(f"{path}: cannot be read ({error.strerror})") from error
    if not header.startswith(MAGIC) or len(header) < 100:
        raise DriveError(f"{path}: no sqlite3 bag: {told_start(header[: len(MAGIC)])}")
    page = int.from_bytes(header[_PAGE_SIZE], "big")
    return size < int.from_bytes(header[_PAGE_COUNT], "big") * (65536 if page == 1 else page)


def _topics(path: Path, database: sqlite3.Connection) -> dict[str, Topic]:
    definitions: dict[str, str] = {}
    has_definitions = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'message_definitions'"
    if database.execute(has_definitions).fetchone()[0]:
        query = "SELECT topic_type, encoded_message_definition FROM message_definitions WHERE encoding = 'ros2msg'"
        definitions = dict(database.execute(query))
    topics = {}
    for name, type_name, form in database.execute("SELECT name, type, serialization_format FROM topics"):
        if form != "cdr":
            raise DriveError(f"{path}: {name} is serialized by {form!r}; only cdr can be read")
        type_name = normal_type(type_name)
        topics[name] = Topic(name=name, type_name=type_name, definition=definitions.get(type_name, ""))
    return topics
