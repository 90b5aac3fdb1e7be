"""`sqlite:PATH`: results in a database file, shared by the processes of one machine.

Promises: ordered; what is within `history` survives the end of producers and consumers. A consumer that falls further
behind loses the oldest and counts them. One that was killed stays on the list of consumers.
"""

import sqlite3
import threading
import time
import uuid
from contextlib import closing
from typing import Any

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError, UsageError
from perception.core.ports import QueueItem
from perception.queues.codec import encode
from perception.queues.subscription import Delivery, Reading, ResultSubscription

POLL_S = 0.005
PATIENCE_S = 10.0
MIN_KEPT = 64
TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS items (number INTEGER PRIMARY KEY AUTOINCREMENT, producer TEXT, payload BLOB);
CREATE TABLE IF NOT EXISTS producers (name TEXT PRIMARY KEY, history INTEGER, is_here INTEGER);
CREATE TABLE IF NOT EXISTS consumers (name TEXT PRIMARY KEY);
"""


class Database:
    """One connection, used by one thread at a time."""

    def __init__(self, path: str) -> None:
        if not path:
            raise UsageError("a sqlite queue needs a file, as in sqlite:results.db")
        self._lock = threading.Lock()
        self._closed = False
        self._path = path
        try:
            # isolation_level None: every statement is a transaction of its own.
            self._connection = sqlite3.connect(path, PATIENCE_S, isolation_level=None, check_same_thread=False)
            self._connection.executescript(TABLES)
        except sqlite3.Error as error:
            raise QueueError(f"sqlite:{path} cannot be opened: {error}") from None

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a statement; none once closed. Raises QueueError where the database refuses."""
        with self._lock:
            if self._closed:
                return []
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise QueueError(f"sqlite:{self._path}: {error}") from None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._connection.close()


class SqliteQueue:
    """A producer."""

    def __init__(self, path: str, config: QueueConfig) -> None:
        self._database = Database(path)
        self._name = uuid.uuid4().hex
        self._kept = max(config.history, MIN_KEPT)
        self._closed = False
        self._database.run("INSERT INTO producers VALUES (?, ?, 1)", self._name, config.history)

    def publish(self, item: QueueItem) -> None:
        self.send(encode(item))

    def send(self, payload: bytes) -> None:
        if self._closed:
            raise QueueError("the queue was closed; nothing more can be published")
        self._database.run("INSERT INTO items (producer, payload) VALUES (?, ?)", self._name, payload)
        self._database.run("DELETE FROM items WHERE number <= (SELECT max(number) FROM items) - ?", self._kept)

    def has_consumer(self) -> bool:
        return bool(self._database.run("SELECT 1 FROM consumers LIMIT 1"))

    def take_losses(self) -> int:
        return 0

    def close(self) -> None:
        self._closed = True
        self._database.run("UPDATE producers SET is_here = 0 WHERE name = ?", self._name)
        self._database.close()


class SqliteFeed:
    """A consumer's place in the table."""

    def __init__(self, path: str, is_late: bool) -> None:
        self._database = Database(path)
        self._name = uuid.uuid4().hex
        self._closed = threading.Event()
        ((head,),) = self._database.run("SELECT coalesce(max(number), 0) FROM items")
        histories = self._database.run("SELECT history FROM producers ORDER BY rowid DESC LIMIT 1") or [(0,)]
        self._last = head if is_late else max(0, head - histories[0][0])
        self._database.run("INSERT INTO consumers VALUES (?)", self._name)

    def receive(self, timeout_s: float) -> Delivery | None:
        deadline = time.monotonic() + timeout_s
        while not self._closed.is_set():
            rows = self._database.run(
                "SELECT number, producer, payload FROM items WHERE number > ? ORDER BY number LIMIT 1", self._last
            )
            for number, producer, payload in rows:
                self._last = number
                return Delivery(producer=producer, payload=payload)
            if time.monotonic() > deadline:
                return None
            self._closed.wait(POLL_S)
        return None

    def acknowledge(self, delivery: Delivery) -> None:
        """Nothing to remember."""

    def keep_to(self, producer: str) -> None:
        """Nothing to save: the table is shared."""

    def is_gone(self, producer: str) -> bool:
        is_here = self._database.run("SELECT 1 FROM producers WHERE name = ? AND is_here", producer)
        return not is_here and not self._database.run("SELECT 1 FROM items WHERE number > ? LIMIT 1", self._last)

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            with closing(self._database):
                self._database.run("DELETE FROM consumers WHERE name = ?", self._name)


def open_queue(address: str, config: QueueConfig) -> SqliteQueue:
    return SqliteQueue(address, config)


def subscribe(address: str, reading: Reading, config: QueueConfig) -> ResultSubscription:
    reading.refuse_group("sqlite")
    return ResultSubscription(SqliteFeed(address, reading.start == "latest"), reading)
