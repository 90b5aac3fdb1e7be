"""Why somebody cannot be reached: Zenoh goes on trying without a word where a certificate or password is refused.

An endpoint of the settings (`connect`) that refuses us is an error. A peer that was found by scouting may be anybody's,
so that it is only spoken of in the log.
"""

import json
import logging
import time
from queue import SimpleQueue
from typing import Any, cast

import zenoh

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError
from perception.formats.zenoh_session import close_session, direct, reason
from perception.queues.zenoh_session import session_settings

CHECK_S = 2.0
SCOUT_S = 0.5
OPEN_TIMEOUT_MS = 2000
MAX_SAID = 200
MAX_NAMED = 256
"""Peers that are remembered as spoken of."""

logger = logging.getLogger(__name__)

CAUSES = (
    ("Connection refused", None),
    ("received fatal alert", "it refused our certificate, or that we have none"),
    ("Missing TLS private key", "it asks for a certificate; set queue.security.certificate_file and key_file"),
    ("certificate: UnknownIssuer", "its certificate was refused; queue.security.ca_file must name who signed it"),
    ("invalid peer certificate", "its certificate was refused"),
    ("in response to an OpenSyn", "it refused our user or password"),
    ("in response to an InitSyn", "it asks for a user and password; set queue.security.user and password_file"),
    ("UsrPwd", "it asks for no user and password, which we have; one of us is set up wrongly"),
    ("early eof", "it does not speak TLS as we do (one side does, the other does not), or refused us"),
)
"""What Zenoh says, and what it means; None: nobody is there, who may still come."""


def endpoints(settings: zenoh.Config) -> list[str]:
    """Where the settings tell us to connect to, whatever the mode."""
    value = json.loads(settings.get_json("connect/endpoints")) or []
    return [place for places in value.values() for place in places] if isinstance(value, dict) else list(value)


def refusal(endpoint: str, config: QueueConfig) -> str | None:
    """Why no session can be made with whoever is at `endpoint`; None where one can, or where nobody is there."""
    with session_settings(config) as settings:
        for name, value in (
            # A client would only say that it could not.
            ("mode", "peer"),
            ("listen/endpoints", []),
            ("connect/endpoints", [endpoint]),
            ("connect/timeout_ms", 0),
            ("connect/exit_on_failure", True),
            ("scouting/multicast/enabled", False),
            ("scouting/gossip/enabled", False),
            ("transport/unicast/open_timeout", OPEN_TIMEOUT_MS),
        ):
            settings.insert_json5(name, json.dumps(value))
        try:
            close_session(zenoh.open(settings))
        except zenoh.ZError as error:
            said = reason(error)
        else:
            return None
    for words, meaning in CAUSES:
        if words in said:
            return meaning and f"{meaning} ({said[said.index(words) :][:MAX_SAID]})"
    return said[:MAX_SAID]


class RefusalWatch:
    """Looks whether it is a refusal that keeps a session alone. Raises ConfigError as `open_session`."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        with session_settings(config) as settings:
            self._endpoints = endpoints(settings)
            self._scouts = bool(json.loads(settings.get_json("scouting/multicast/enabled")))
        self._named: set[str] = set()
        self._looked_at = time.monotonic()

    def check_endpoints(self) -> None:
        """Raises QueueError where an endpoint of the settings refuses us."""
        for endpoint in self._endpoints:
            why = refusal(endpoint, self._config)
            if why is not None:
                raise QueueError(f"{endpoint} does not let us in: {why}")

    def look(self, session: zenoh.Session) -> None:
        """To be called while nobody is in sight; looks every `CHECK_S`. Raises as `check_endpoints`."""
        if time.monotonic() - self._looked_at < CHECK_S:
            return
        connected = {str(zid) for zid in (*session.info.peers_zid(), *session.info.routers_zid())}
        if not connected:
            self.check_endpoints()
        if self._scouts and len(self._named) < MAX_NAMED:
            self._name_refusals({str(session.info.zid()), *connected})
        self._looked_at = time.monotonic()

    def _name_refusals(self, known: set[str]) -> None:
        for zid, locators in self._scouted():
            if zid in known or zid in self._named or not locators:
                continue
            why = refusal(locators[0], self._config)
            if why is not None:
                self._named.add(zid)
                logger.warning("a Zenoh peer at %s does not let us in: %s", locators[0], why)

    def _scouted(self) -> list[tuple[str, list[str]]]:
        """Identity and endpoints of the peers that answer within `SCOUT_S`."""
        answers: SimpleQueue[zenoh.Hello] = SimpleQueue()
        with session_settings(self._config) as settings:
            # Zenoh's stub leaves callbacks out.
            scout: Any = zenoh.scout(cast(Any, direct(answers.put)), what="peer|router", config=settings)
            time.sleep(SCOUT_S)
            scout.stop()
        hellos = [answers.get() for _ in range(answers.qsize())]
        return [(str(hello.zid), list(hello.locators)) for hello in hellos]
