"""Brokers for the benchmark, on free ports of the loopback interface, with their data in a temporary folder."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perception.core.errors import QueueError

PATIENCE_S = 10.0
PROGRAMS = {"nats": "nats-server", "redis": "redis-server"}
SYSTEM_FOLDER = "/usr/sbin"
"""Where Debian puts nats-server, which is not in every user's PATH."""


def program_of(scheme: str) -> str | None:
    """The broker's program, None where it is not installed."""
    name = PROGRAMS[scheme]
    return shutil.which(name) or shutil.which(name, path=SYSTEM_FOLDER)


@contextmanager
def broker(scheme: str, folder: Path) -> Iterator[str]:
    """A durable broker while the block lasts; gives `HOST:PORT`. Raises QueueError where it does not start."""
    program = program_of(scheme)
    if program is None:
        raise QueueError(f"{PROGRAMS[scheme]} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = str(folder)
    arguments = {
        "nats": ["-js", "-sd", where, "-a", "127.0.0.1", "-p", str(port)],
        "redis": [
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
            "--appendonly",
            "yes",
            "--save",
            "",
        ],
    }[scheme]
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_port(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise QueueError(f"{process.args!r} does not start") from None
            time.sleep(0.05)
        else:
            return
