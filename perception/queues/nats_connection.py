"""A connection to NATS for code that does not run in an event loop, and what its errors mean to the user.

The client's own reconnection is not used: it tries a wrong password again for ever, and keeps what was published
meanwhile in a buffer that a kill loses. A lost connection is an error here, and whoever holds it makes a new one.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
import nkeys
from nats.aio.client import Client

from perception.config.schema import QueueSecurity
from perception.core.errors import ConfigError, QueueError
from perception.queues.broker import Address, BrokerAwayError, HungUpError
from perception.queues.security import read_login, tls_context, tls_refusal

CONNECT_S = 3.0
ANSWER_S = 5.0
CLOSE_S = 1.0

Value = TypeVar("Value")


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Value]) -> "Future[Value]":
        """Raises BrokerAwayError once closed."""
        if self._loop.is_closed():
            work.close()
            raise BrokerAwayError("the connection was closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Value], timeout_s: float) -> Value:
        """What `work` returns. Raises what it raises, BrokerAwayError if it takes longer than `timeout_s`."""
        future = self.start(work)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise BrokerAwayError(f"no answer within {timeout_s:g} s") from None

    def call(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """Cancel what is under way and end the thread; may be called once."""
        wait([self.start(_cancel_others())], 2 * CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Link:
    """One connection, for as long as it lasts; `client` is connected when a link is made.

    on_change is called in the loop when the connection is lost or the server refuses something.
    """

    def __init__(self, address: Address, security: QueueSecurity, on_change: Callable[[], None]) -> None:
        self.client = Client()
        self._address = address
        self._security = security
        self._on_change = on_change
        self._has_begun = False
        self._last_error: Exception | None = None
        self._refusal: QueueError | None = None

    async def open(self) -> None:
        """Raises QueueError where the server refuses us, BrokerAwayError where it is away, ConfigError for files."""
        tls = tls_context(self._security)
        credentials = self._credentials(needs_tls=tls is not None)
        self._has_begun = True
        try:
            await asyncio.wait_for(
                self.client.connect(
                    f"nats://{self._address.host}:{self._address.port}",
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=round(CONNECT_S),
                    tls=tls,
                    **credentials,
                ),
                CONNECT_S + 1,
            )
            self._check_tls(tls is not None)
            self._check_welcome()
        except (OSError, TimeoutError, nats.errors.Error) as error:
            await self.close()
            raise self._explain(error) from error
        except nkeys.NkeysError as error:
            self._has_begun = False
            raise ConfigError(
                f"queue.security.credentials_file: {self._security.credentials_file} holds no seed of an nkey"
            ) from error
        except BaseException:
            await self.close()
            raise

    def check(self) -> None:
        """Raises BrokerAwayError if the connection is lost, QueueError if the server has refused something."""
        if self._refusal is not None:
            raise self._refusal
        if not self.client.is_connected:
            reason = self.client.last_error or self._last_error
            if reason is not None and _is_refusal(reason):
                raise self._refused(reason)
            raise BrokerAwayError(f"the connection was lost: {reason}" if reason else "the connection was lost")

    @asynccontextmanager
    async def answers(self) -> AsyncIterator[None]:
        """Turns errors of requests made in its body into BrokerAwayError or QueueError; NotFoundError passes."""
        try:
            yield
        except nats.js.errors.NotFoundError:
            raise
        except (nats.errors.NoRespondersError, nats.js.errors.NoStreamResponseError) as error:
            raise BrokerAwayError(_NO_JETSTREAM) from error
        except nats.js.errors.ServiceUnavailableError as error:
            raise BrokerAwayError(error.description or _NO_JETSTREAM) from error
        except nats.js.errors.ServerError as error:
            raise BrokerAwayError(str(error.description)) from error
        except nats.js.errors.APIError as error:
            raise QueueError(f"{self._address}: JetStream refused: {error.description}") from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self.check()
            raise BrokerAwayError(f"no answer: {error}") from error

    async def close(self) -> None:
        if not self._has_begun:
            return
        # The client's own `close` waits for ever where a TLS handshake had failed.
        try:
            await asyncio.wait_for(self.client.close(), CLOSE_S)
        except (OSError, TimeoutError, nats.errors.Error) as error:
            self._last_error = error

    def _credentials(self, *, needs_tls: bool) -> dict[str, Any]:
        if self._security.credentials_file is not None:
            return {_credentials_kind(self._security.credentials_file): str(self._security.credentials_file)}
        login = read_login(self._security)
        if login is None:
            return {}

        def password() -> str:
            # The last moment before it is sent: the client does without TLS where the server offers none.
            self._check_tls(needs_tls)
            return login.password

        return {"user": login.user, "password": password}

    def _check_tls(self, needs_tls: bool) -> None:
        if needs_tls and not self.client._server_info.get("tls_required"):
            raise QueueError(
                f"{self._address}: the server offers no TLS, but queue.security.ca_file asks for it; nothing was sent"
            )

    def _check_welcome(self) -> None:
        # The client takes an end of the connection, where a greeting should come, for a greeting.
        if not self.client.is_connected:
            raise ConnectionResetError("no greeting")

    def _explain(self, error: Exception) -> Exception:
        """What the user should know of an error while connecting."""
        cause = self._last_error if isinstance(error, nats.errors.NoServersError) else error
        if (refusal := tls_refusal(cause)) is not None:
            return QueueError(f"{self._address}: {refusal}")
        if cause is not None and _is_refusal(cause):
            return self._refused(cause)
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            wants = "; does the server want a certificate (queue.security.certificate_file)?"
            return HungUpError(f"it hung up during the handshake{wants if self._security.ca_file else ''}")
        return BrokerAwayError(str(cause) or type(cause).__name__)

    def _refused(self, reason: Exception) -> QueueError:
        return QueueError(
            f"{self._address}: the server refused us ({str(reason).removeprefix('nats: ')}); check "
            "queue.security.user and password_file, credentials_file, or PERCEPTION_QUEUE_USER and _PASSWORD"
        )

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        if "permissions violation" in str(error).lower():
            self._refusal = QueueError(
                f"{self._address}: the server does not permit it ({str(error).removeprefix('nats: ')}); "
                "grant this user the queue's subjects (docs/consumers.md)"
            )
        self._on_change()

    async def _on_closed(self) -> None:
        self._on_change()


_NO_JETSTREAM = "JetStream does not answer; nats-server needs -js (or `jetstream {}` in its configuration)"


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _is_refusal(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, nats.errors.AuthorizationError) or "authorization" in text or "authentication" in text


def _credentials_kind(path: Path) -> str:
    """How the client wants the file: a .creds file holds a JWT and a seed, else it is the seed of an nkey alone.

    Raises ConfigError where it is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"queue.security.credentials_file: {path} cannot be read: {type(error).__name__}") from None
    if "BEGIN NATS USER JWT" in text and "BEGIN USER NKEY SEED" in text:
        return "user_credentials"
    if text.strip().startswith("SU") and len(text.split()) == 1:
        return "nkeys_seed"
    raise ConfigError(
        f"queue.security.credentials_file: {path} is neither a .creds file of NATS nor the seed of a user's nkey"
    )
