"""Zenoh sessions as our queues use them: peers on the loopback interface, or what a file of Zenoh's own says."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zenoh

from perception.config.schema import QueueConfig, QueueSecurity
from perception.core.errors import ConfigError, QueueError, UsageError
from perception.formats.zenoh_session import reason
from perception.queues.security import Login, read_login

LOOPBACK = "127.0.0.1"
TLS = "transport/link/tls"
DROP = "transport/link/tx/queue/congestion_control/drop"
"""In microseconds."""
USERS = "transport/auth/usrpwd"

LOOPBACK_ONLY = {
    "enabled": True,
    "default_permission": "deny",
    "rules": [
        {
            "id": "everything",
            "permission": "allow",
            "messages": [
                "put",
                "delete",
                "query",
                "reply",
                "declare_subscriber",
                "declare_queryable",
                "liveliness_token",
                "liveliness_query",
                "declare_liveliness_subscriber",
            ],
            # ** stands for no part of a key that begins with @.
            "key_exprs": ["**", "**/@adv/**"],
        }
    ],
    "subjects": [{"id": "loopback", "interfaces": ["lo", "lo0"]}],
    "policies": [{"rules": ["everything"], "subjects": ["loopback"]}],
}
"""Zenoh scouts from a UDP port on all interfaces, and connects to whoever answers there, be it from another machine:
such a session exists, but carries nothing."""


def checked_key(key: str) -> str:
    """`key` as a key expression of Zenoh. Raises UsageError if it is none."""
    try:
        return str(zenoh.KeyExpr(key))
    except zenoh.ZError:
        raise UsageError(f"{key!r} is no key of Zenoh; use names between slashes, as in perception/results") from None


def open_session(config: QueueConfig | None = None) -> zenoh.Session:
    """A session of ours: by default a peer that listens and scouts on the loopback interface only.

    Raises ConfigError for files or secrets that are not what they should be, QueueError where Zenoh cannot start.
    """
    with session_settings(config or QueueConfig()) as settings:
        try:
            return zenoh.open(settings)
        except zenoh.ZError as error:
            raise QueueError(f"Zenoh cannot start: {reason(error)}") from None


@contextmanager
def session_settings(config: QueueConfig) -> Iterator[zenoh.Config]:
    """Zenoh's settings for `config`; some are in a file that is gone after the block.

    Whatever `config.zenoh_config` leaves as Zenoh has it by default is ours. Raises ConfigError as `open_session`.
    """
    settings, default = _read_file(config), zenoh.Config()
    if config.zenoh_config is None:
        settings.insert_json5("access_control", json.dumps(LOOPBACK_ONLY))
    for name, value in _own_settings(config.security).items():
        if settings.get_json(name) == default.get_json(name):
            settings.insert_json5(name, json.dumps(value))
    for name, value in _tls_settings(config.security).items():
        settings.insert_json5(name, json.dumps(value))
    login = read_login(config.security)
    if login is None:
        yield settings
        return
    settings.insert_json5(f"{USERS}/user", json.dumps(login.user))
    settings.insert_json5(f"{USERS}/password", json.dumps(login.password))
    if json.loads(settings.get_json(f"{USERS}/dictionary_file")) is not None:
        yield settings
        return
    # Peers connect to each other: each must know whom to let in. Zenoh wants a file for that.
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as users:
        users.write(_users_line(login))
        users.flush()
        settings.insert_json5(f"{USERS}/dictionary_file", json.dumps(users.name))
        yield settings


def _read_file(config: QueueConfig) -> zenoh.Config:
    if config.zenoh_config is None:
        return zenoh.Config()
    try:
        return zenoh.Config.from_file(config.zenoh_config)
    except zenoh.ZError as error:
        raise ConfigError(f"queue.zenoh_config: {config.zenoh_config} is no file of Zenoh's: {reason(error)}") from None


def _own_settings(security: QueueSecurity) -> dict[str, Any]:
    protocol = "tcp" if security.ca_file is None else "tls"
    # Without a certificate nobody could connect to us by TLS.
    listens = security.ca_file is None or security.certificate_file is not None
    return {
        "mode": "peer",
        "listen/endpoints": [f"{protocol}/{LOOPBACK}:0"] if listens else [],
        "scouting/multicast/enabled": True,
        "scouting/multicast/interface": LOOPBACK,
        # Segments of killed processes would stay in /dev/shm, which is small in containers.
        "transport/shared_memory/enabled": False,
        # Zenoh waits 1 ms (for a message in parts: 50 ms) for a consumer whose line is full, and the others with it.
        f"{DROP}/wait_before_drop": 0,
        f"{DROP}/max_wait_before_drop_fragments": 1000,
    }


def _tls_settings(security: QueueSecurity) -> dict[str, Any]:
    """Both sides show a certificate; a consumer without one can join where the other side does not ask for it."""
    if security.ca_file is None:
        return {}
    settings: dict[str, Any] = {
        "transport/link/protocols": ["tls"],
        f"{TLS}/root_ca_certificate": str(security.ca_file),
        f"{TLS}/enable_mtls": security.certificate_file is not None,
    }
    if security.certificate_file is not None:
        for side in ("listen", "connect"):
            settings[f"{TLS}/{side}_certificate"] = str(security.certificate_file)
            settings[f"{TLS}/{side}_private_key"] = str(security.key_file)
    return settings


def _users_line(login: Login) -> str:
    """A line of Zenoh's dictionary. Raises ConfigError where the login does not fit into one."""
    if ":" in login.user or not (login.user + login.password).isprintable():
        raise ConfigError("a login for Zenoh has no colon in the user's name, and no line breaks")
    return f"{login.user}:{login.password}\n"
