"""A connection to Redis as our queues want it, and what its errors mean to the user."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.retry import Retry

from perception.config.schema import QueueSecurity
from perception.core.errors import QueueError
from perception.queues.broker import Address, BrokerAwayError, HungUpError
from perception.queues.security import read_login, tls_context, tls_refusal

CONNECT_S = 3.0
ANSWER_S = 5.0


def make_client(address: Address, security: QueueSecurity) -> Any:
    """A `redis.Redis` that connects when it is first used and tries nothing twice. Raises ConfigError for bad files.

    Its own type speaks of both versions of the protocol at once, and so says nothing about what comes back.
    """
    login = read_login(security)
    tls: dict[str, Any] = {}
    if tls_context(security) is not None:
        tls = {
            "ssl": True,
            "ssl_ca_certs": str(security.ca_file),
            "ssl_certfile": security.certificate_file and str(security.certificate_file),
            "ssl_keyfile": security.key_file and str(security.key_file),
        }
    return redis.Redis(
        host=address.host,
        port=address.port,
        username=login.user if login else None,
        password=login.password if login else None,
        socket_connect_timeout=CONNECT_S,
        socket_timeout=ANSWER_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **tls,
    )


@contextmanager
def answers(address: Address, security: QueueSecurity) -> Iterator[None]:
    """Turns errors of Redis in its body into BrokerAwayError, where trying again may help, or QueueError."""
    try:
        yield
    except (AuthenticationError, AuthorizationError) as error:
        raise _refused(address, error) from error
    except NoPermissionError as error:
        raise QueueError(
            f"{address}: the server does not permit it ({error}); grant this user the queue's commands, keys and "
            "channels (docs/consumers.md)"
        ) from error
    except redis.TimeoutError as error:
        if security.ca_file is not None and "connecting" in str(error):
            # A server that expects no TLS waits for the end of a line, which never comes.
            raise HungUpError(f"no answer to the TLS handshake ({error}); is this the port for TLS?") from error
        raise BrokerAwayError(str(error)) from error
    except (BusyLoadingError, OutOfMemoryError, ReadOnlyError) as error:
        raise BrokerAwayError(str(error)) from error
    except redis.ConnectionError as error:
        if (refusal := tls_refusal(error)) is not None:
            raise QueueError(f"{address}: {refusal}") from error
        text = str(error)
        if "connecting to" not in text or "EOF occurred" in text or "reset by peer" in text:
            raise HungUpError(
                f"it hung up ({error}); if it expects TLS, set queue.security.ca_file, and certificate_file if it "
                "wants a certificate"
            ) from error
        raise BrokerAwayError(str(error)) from error
    except ResponseError as error:
        if str(error).startswith(("NOAUTH", "WRONGPASS")):
            raise _refused(address, error) from error
        if str(error).startswith(("MISCONF", "NOGROUP", "UNBLOCKED", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")):
            raise BrokerAwayError(str(error)) from error
        raise QueueError(f"{address}: Redis refused: {error}") from error


def _refused(address: Address, error: Exception) -> QueueError:
    return QueueError(
        f"{address}: the server refused us ({error}); check queue.security.user and password_file, "
        "or PERCEPTION_QUEUE_USER and PERCEPTION_QUEUE_PASSWORD"
    )
