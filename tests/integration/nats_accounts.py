"""An operator of NATS, an account, and .creds files of its users, as `nsc` would make them.

Source: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt
"""

import base64
import json
import secrets
import time
from pathlib import Path
from typing import Any

import nkeys

NO_LIMITS = {"subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1}
DISK = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1, "wildcards": True}


class Key:
    """A pair of keys; `kind` is a prefix byte of nkeys."""

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(secrets.token_bytes(32), kind)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def sign(self, name: str, subject: str, kind: str, claims: dict[str, Any], *, expires: int | None = None) -> str:
        """A JWT about `subject`."""
        body: dict[str, Any] = {
            "jti": secrets.token_hex(16),
            "iat": int(time.time()) - 60,
            "iss": self.public,
            "name": name,
            "sub": subject,
            "nats": {"type": kind, "version": 2, **claims},
        }
        if expires is not None:
            body["exp"] = expires
        text = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(body)}"
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


class Operator:
    """What a server in operator mode needs to know, with one account that may use JetStream."""

    def __init__(self) -> None:
        self._operator, self._system = Key(nkeys.PREFIX_BYTE_OPERATOR), Key(nkeys.PREFIX_BYTE_ACCOUNT)
        self.account = Key(nkeys.PREFIX_BYTE_ACCOUNT)

    def settings(self) -> str:
        """Lines of the server's configuration."""
        own = self._operator.sign("op", self._operator.public, "operator", {"system_account": self._system.public})
        system = self._account_token(self._system, NO_LIMITS)
        account = self._account_token(self.account, NO_LIMITS | DISK)
        return (
            f"operator: {own}\nresolver: MEMORY\nsystem_account: {self._system.public}\n"
            f"resolver_preload: {{ {self._system.public}: {system}\n {self.account.public}: {account} }}\n"
        )

    def _account_token(self, account: Key, limits: dict[str, Any]) -> str:
        return self._operator.sign("account", account.public, "account", {"limits": limits})


def write_user(file: Path, account: Key, *, expires: int | None = None) -> Path:
    """The .creds file of a new user of `account`. expires: seconds since 1970, None for never."""
    user = Key(nkeys.PREFIX_BYTE_USER)
    token = account.sign("user", user.public, "user", {"subs": -1, "data": -1, "payload": -1}, expires=expires)
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    return file


def _part(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
