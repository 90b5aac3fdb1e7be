"""Pulling from a consumer of JetStream without gaps in time: one request for many messages, each passed on as it comes.

The client's own `fetch` returns when a whole batch is there, which at 10 results a second is late. The protocol: a
request to `$JS.API.CONSUMER.MSG.NEXT.STREAM.CONSUMER` is answered on its reply subject by messages, by heartbeats
(status 100), and, where it ends before all were sent, by a status (404 or 408: it has expired; others: the consumer is
lost).
Source: https://docs.nats.io/reference/reference-protocols/nats_api_reference
"""

import json
import time
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import Header, StatusCode

from perception.queues.broker import BrokerAwayError

EXPIRES_S = 5.0
HEARTBEAT_S = 1.0
SILENCE_S = 4.0
HEARTBEAT = "100"


class Pull:
    """Calls `take` with each message, in the event loop, and `on_change` when a request is over."""

    def __init__(
        self, client: Client, stream: str, consumer: str, take: Callable[[Msg], None], on_change: Callable[[], None]
    ) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = client.new_inbox()
        self._take = take
        self._on_change = on_change
        self._open = 0
        self._heard_at = 0.0
        self._lost: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request is under way."""
        return self._open > 0

    async def start(self) -> None:
        # What is under way is bounded by what was asked for.
        await self._client.subscribe(self._inbox, cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0)

    async def ask(self, count: int) -> None:
        """Ask for `count` messages. Raises BrokerAwayError."""
        request = {"batch": count, "expires": round(EXPIRES_S * 1e9), "idle_heartbeat": round(HEARTBEAT_S * 1e9)}
        self._open = count
        self._heard_at = time.monotonic()
        try:
            await self._client.publish(self._subject, json.dumps(request).encode(), reply=self._inbox)
        except (nats.errors.Error, OSError) as error:
            raise BrokerAwayError(str(error)) from error

    def check(self) -> None:
        """Raises BrokerAwayError where no more will come."""
        if self._lost is not None:
            raise BrokerAwayError(self._lost)
        if self._open and time.monotonic() - self._heard_at > SILENCE_S:
            raise BrokerAwayError(f"the server has been silent for {SILENCE_S:g} s")

    async def _on_message(self, message: Msg) -> None:
        self._heard_at = time.monotonic()
        status = message.headers.get(Header.STATUS) if message.headers and not message.data else None
        if status is None:
            self._open -= 1
            self._take(message)
        elif status in (StatusCode.NO_MESSAGES, StatusCode.REQUEST_TIMEOUT):
            self._open = 0
        elif status != HEARTBEAT:
            description = (message.headers or {}).get(Header.DESCRIPTION, "")
            self._lost = f"the server's consumer is lost: {description or status}"
        if not self._open or self._lost:
            self._on_change()
