"""What the queues that need a broker have in common: its address, how it can fail us, how long to wait for it."""

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from perception.config.schema import QueueConfig
from perception.core.errors import UsageError

QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
REMIND_S = 30.0

logger = logging.getLogger(__name__)


class BrokerAwayError(Exception):
    """The broker cannot be reached, or cannot serve us, at the moment; trying again may help."""


class HungUpError(BrokerAwayError):
    """The broker took the connection and ended it without a word: it goes down, or it expected TLS or a certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a queue is: `SCHEME://HOST:PORT/NAME`. It prints as that URL."""

    scheme: str
    host: str
    port: int
    name: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{self.name}"


def parse_address(scheme: str, address: str, default_port: int) -> Address:
    """`//HOST[:PORT]/NAME` as an address. Raises UsageError where it is none."""
    try:
        parts = urlsplit(f"{scheme}:{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    name = parts.path.removeprefix("/") if host else ""
    if not host or QUEUE_NAME.fullmatch(name) is None or parts.query or parts.fragment:
        raise UsageError(
            f"{scheme}:{address} is no address of a queue; it is written {scheme}://HOST:{default_port}/NAME, "
            "the name with letters, digits, - and _"
        )
    return Address(scheme=scheme, host=host, port=default_port if port is None else port, name=name)


def kept_results(config: QueueConfig, default: int) -> int:
    """How many items the broker shall keep: `history` where it was set, else the default of this kind of broker."""
    return max(1, config.history) if "history" in config.model_fields_set else default


class Outage:
    """Whether the broker is away, how long to pause before it is tried again, and what the log says of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: float | None = None
        self._reminded_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self.reason = ""

    @property
    def lasts_s(self) -> float | None:
        """For how long the broker has been away, None while it is there."""
        since = self._since
        return None if since is None else time.monotonic() - since

    def goes_on(self, reason: Exception, waiting: int = 0) -> float:
        """Another attempt has failed; the pause before the next: each is twice as long, up to a limit."""
        now = time.monotonic()
        if self._since is None or now - self._reminded_at > REMIND_S:
            self._reminded_at = now
            items = f", {waiting} items wait" if waiting else ""
            logger.warning("%s: the broker is away (%s); trying again%s", self._name, reason, items)
        self._since = self._since or now
        self.reason = str(reason)
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return pause_s

    def ends(self) -> None:
        """The broker serves us (again)."""
        if self._since is not None:
            logger.warning("%s: the broker is back after %.1f s", self._name, time.monotonic() - self._since)
        self._since = None
        self._pause_s = FIRST_PAUSE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """An item on its way. number: rises within one producer. key: the same for the same result, whoever sends it."""

    number: int
    key: str
    payload: bytes
    is_end: bool


class Broker(Protocol):
    """A producer's connection. Used by one thread, but for `has_consumer`.

    All raise BrokerAwayError where trying again may help, QueueError where it cannot.
    """

    def connect(self) -> None:
        """Connect anew, and make the queue if it is not there."""
        ...

    def store(self, letters: Sequence[Letter]) -> int:
        """Send letters in order; how many of the first are stored for certain.

        A letter that is sent again because its fate was unknown is stored once. With no letters: is the broker there?
        """
        ...

    def has_consumer(self) -> bool: ...

    def close(self) -> None: ...
