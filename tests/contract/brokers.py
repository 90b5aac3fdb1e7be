"""Real servers for tests: nats-server and redis-server on free ports, killed and started again on the same folder."""

import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

PATIENCE_S = 30.0
PACKAGES = {"nats-server": "nats-server", "redis-server": "redis-server"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server(ABC):
    """A server on a port of its own that keeps its data in `folder`; `settings` are lines of its configuration."""

    program = ""

    def __init__(self, folder: Path, settings: str = "") -> None:
        if shutil.which(self.program) is None:
            pytest.skip(f"{self.program} is not installed (Debian: apt-get install {PACKAGES[self.program]})")
        self.folder = folder
        self.port = free_port()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it takes connections."""
        file = self.folder / f"{self.program}.conf"
        file.write_text(self._configuration() + self._settings)
        with (self.folder / f"{self.program}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, *self._arguments(file)], cwd=self.folder, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._takes_connections():
            assert self._process.poll() is None, (self.folder / f"{self.program}.log").read_text()
            assert time.monotonic() < deadline, f"{self.program} takes no connections"
            time.sleep(0.02)

    def kill(self) -> None:
        """As by `kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _takes_connections(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    @abstractmethod
    def _configuration(self) -> str: ...

    @abstractmethod
    def _arguments(self, file: Path) -> list[str]: ...


class NatsServer(Server):
    program = "nats-server"

    def _configuration(self) -> str:
        return f'host: "127.0.0.1"\nport: {self.port}\njetstream {{ store_dir: "{self.folder / "jetstream"}" }}\n'

    def _arguments(self, file: Path) -> list[str]:
        return ["-c", str(file)]


class RedisServer(Server):
    """The settings may name a `tls-port {port}` in place of the plain one."""

    program = "redis-server"

    def _configuration(self) -> str:
        self._settings = self._settings.replace("{port}", str(self.port))
        plain = 0 if "tls-port" in self._settings else self.port
        return f'bind 127.0.0.1\nport {plain}\ndir "{self.folder}"\nappendonly yes\nsave ""\nenable-debug-command no\n'

    def _arguments(self, file: Path) -> list[str]:
        return [str(file)]


SERVERS: dict[str, type[Server]] = {"nats": NatsServer, "redis": RedisServer}
