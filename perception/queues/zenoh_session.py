"""Zenoh sessions as our queues use them: peers on the loopback interface, closed without ever blocking for long."""

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import zenoh
import zenoh.handlers

from perception.core.errors import QueueError, UsageError

LOOPBACK = "127.0.0.1"
CLOSE_S = 2.0

logger = logging.getLogger(__name__)


def checked_key(key: str) -> str:
    """`key` as a key expression of Zenoh. Raises UsageError if it is none."""
    try:
        return str(zenoh.KeyExpr(key))
    except zenoh.ZError:
        raise UsageError(f"{key!r} is no key of Zenoh; use names between slashes, as in perception/results") from None


def open_session() -> zenoh.Session:
    """A peer that listens and scouts on the loopback interface only. Raises QueueError where Zenoh cannot start."""
    settings = {
        "mode": "peer",
        "listen/endpoints": [f"tcp/{LOOPBACK}:0"],
        "connect/endpoints": [],
        "scouting/multicast/enabled": True,
        "scouting/multicast/interface": LOOPBACK,
        # Segments of killed processes would stay in /dev/shm, which is small in containers.
        "transport/shared_memory/enabled": False,
    }
    config = zenoh.Config()
    for name, value in settings.items():
        config.insert_json5(name, json.dumps(value))
    try:
        return zenoh.open(config)
    except zenoh.ZError as error:
        raise QueueError(f"Zenoh cannot start on the loopback interface: {error}") from error


def close_session(session: zenoh.Session) -> None:
    """Close, but leave it to the background after `CLOSE_S`: Zenoh waits 10 s for a peer that does not answer."""

    def close() -> None:
        try:
            session.close()  # type: ignore[no-untyped-call]
        except zenoh.ZError as error:
            logger.warning("a peer did not answer while the Zenoh session was closed: %s", error)

    closing = threading.Thread(target=close, name="zenoh-close", daemon=True)
    closing.start()
    closing.join(CLOSE_S)


def direct(callback: Callable[[Any], None]) -> "zenoh.handlers.Callback[Any]":
    """A callback that Zenoh's own thread runs: one in a thread of Python's keeps the process from exiting."""
    return zenoh.handlers.Callback(callback, indirect=False)
