"""What a queue needs to prove who we are and to know who the other side is: from files and environment, never from a
command line, never into a log."""

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from perception.config.schema import QueueSecurity
from perception.core.errors import ConfigError

USER_VARIABLE = "PERCEPTION_QUEUE_USER"
PASSWORD_VARIABLE = "PERCEPTION_QUEUE_PASSWORD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user's name and password; printing it shows no password."""

    user: str
    password: str = field(repr=False)


def read_login(security: QueueSecurity) -> Login | None:
    """The login that the environment or the settings name, None where they name none.

    Raises ConfigError where the password is missing or its file cannot be read.
    """
    user = os.environ.get(USER_VARIABLE) or security.user
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None and security.password_file is not None:
        password = read_secret(security.password_file, "queue.security.password_file")
    if user is None and password is None:
        return None
    if user is None or password is None:
        raise ConfigError(
            "a queue's login needs a user and a password; set queue.security.user and queue.security.password_file, "
            f"or {USER_VARIABLE} and {PASSWORD_VARIABLE}"
        )
    return Login(user=user, password=password)


def read_secret(path: Path, field_name: str) -> str:
    """The first line of a file. Raises ConfigError naming the file and the field, never what is in it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{field_name}: {path} cannot be read: {type(error).__name__}") from None
    if not lines or not lines[0].strip():
        raise ConfigError(f"{field_name}: the first line of {path} is empty; it must hold the secret")
    return lines[0].strip()


def tls_context(security: QueueSecurity) -> ssl.SSLContext | None:
    """A client's TLS settings: the authority that must have signed the server's certificate, and our own certificate.

    None where no TLS is asked for. Raises ConfigError where a file is not what it should be.
    """
    if security.ca_file is None:
        if security.certificate_file is not None:
            raise ConfigError("queue.security.certificate_file needs queue.security.ca_file: who signed the server's?")
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=security.ca_file)
        if security.certificate_file is not None:
            context.load_cert_chain(security.certificate_file, security.key_file)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(map(str, filter(None, (security.ca_file, security.certificate_file, security.key_file))))
        raise ConfigError(f"queue.security: one of {files} is no PEM that fits: {error}") from None
    return context


def tls_refusal(error: BaseException | None) -> str | None:
    """What to tell the user where a TLS handshake failed for good, None where `error` is of another kind.

    The cause may be wrapped in errors of the library that made the connection.
    """
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    if error is None or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate was refused: {error.verify_message}; "
            "queue.security.ca_file must name who signed it"
        )
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "alert" in reason:
        return (
            f"the server refused our certificate, or that we have none ({reason}); "
            "set queue.security.certificate_file and key_file to one that it accepts"
        )
    return f"the server does not speak TLS as we do ({reason}); without TLS leave queue.security.ca_file unset"
