"""What all users of Zenoh have in common: clients of one endpoint, callbacks, an end that never blocks for long."""

import json
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

import zenoh
import zenoh.handlers

CLOSE_S: Final = 2.0

logger = logging.getLogger(__name__)


def open_client(endpoint: str) -> zenoh.Session:
    """A session with the router or peer at `endpoint`, and with nobody else. Raises ZError where there is none."""
    config = zenoh.Config()
    for name, value in {
        "mode": "client",
        "connect/endpoints": [endpoint],
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        # Segments of killed processes would stay in /dev/shm, which is small in containers.
        "transport/shared_memory/enabled": False,
    }.items():
        config.insert_json5(name, json.dumps(value))
    return zenoh.open(config)


def reason(error: zenoh.ZError) -> str:
    """What Zenoh says, without the places in its source."""
    return str(error).split(" at /")[0].strip()


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
