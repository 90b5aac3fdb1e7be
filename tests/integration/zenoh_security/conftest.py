"""Producers in processes of their own, certificates, logins and endpoints, for tests of who may join a Zenoh queue."""

import datetime
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from perception.config.schema import QueueConfig, QueueSecurity
from perception.queues.open import subscribe

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 30.0
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
SECRET = "correct horse"

PRODUCER = """
import sys, time
from perception.config.schema import QueueConfig
from perception.core.results import EndOfRun
from perception.queues.open import open_queue
config = QueueConfig.model_validate_json(sys.argv[1])
queue = open_queue(config.url, config)
print("ready", flush=True)
sys.stdin.readline()
queue.publish(EndOfRun(drive_id="drive", run_id="genuine", count=0, reason="completed"))
print("published", flush=True)
sys.stdin.readline()
"""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What one side shows and whom it trusts."""

    folder: Path

    def certificate(self, name: str | None, *, trusts: str = "ours") -> QueueSecurity:
        return QueueSecurity(
            ca_file=self.folder / f"{trusts}.ca",
            certificate_file=None if name is None else self.folder / f"{name}.pem",
            key_file=None if name is None else self.folder / f"{name}.key",
        )

    def login(self, user: str, password: str) -> QueueSecurity:
        file = self.folder / f"{user}-{uuid.uuid4().hex}"
        file.write_text(password + "\n")
        return QueueSecurity(user=user, password_file=file)


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Proof:
    folder = tmp_path_factory.mktemp("proof")
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(folder / "ours.ca"))
    theirs.cert_pem.write_to_path(str(folder / "theirs.ca"))
    issued = {
        "right": ours.issue_cert("127.0.0.1"),
        "wrong": theirs.issue_cert("127.0.0.1"),
        "expired": ours.issue_cert("127.0.0.1", not_before=LONG_AGO, not_after=LONG_AGO + datetime.timedelta(days=1)),
        "elsewhere": ours.issue_cert("192.0.2.1"),
    }
    for name, certificate in issued.items():
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    return Proof(folder=folder)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A producer's endpoint that consumers are told of, without any scouting."""

    folder: Path
    port: int

    def listening(self, protocol: str, **more: Any) -> Path:
        return self._write("listening", {"listen": {"endpoints": [self._endpoint(protocol)]}, **more})

    def connecting(self, protocol: str) -> Path:
        # Consumers listen nowhere: they are to talk with the producer, not with each other.
        here = {"endpoints": [self._endpoint(protocol)]}
        return self._write("connecting", {"connect": here, "listen": {"endpoints": []}})

    def _endpoint(self, protocol: str) -> str:
        return f"{protocol}/127.0.0.1:{self.port}"

    def _write(self, name: str, settings: dict[str, Any]) -> Path:
        file = self.folder / f"{name}.json5"
        file.write_text(
            "// Zenoh's own settings\n" + json.dumps({**settings, "scouting": {"multicast": {"enabled": False}}})
        )
        return file


@pytest.fixture
def place(tmp_path: Path) -> Place:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Place(folder=tmp_path, port=free.getsockname()[1])


@pytest.fixture
def url() -> str:
    return f"zenoh:test/{uuid.uuid4().hex}"


class Producers:
    """Producers in processes of their own, each told when to publish."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def start(self, config: QueueConfig) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", PRODUCER, config.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def publish(self) -> None:
        for process in self._started:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "published\n"

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def producers() -> Iterator[Producers]:
    started = Producers()
    yield started
    started.stop()


def consume(config: QueueConfig, *, timeout_s: float = PATIENCE_S) -> list[str]:
    with subscribe(config.url, timeout_s=timeout_s, config=config) as subscription:  # type: ignore[attr-defined]
        return [item.run_id for item in subscription]


def joined(producers: Producers, producer: QueueConfig, consumer: QueueConfig) -> list[str]:
    """The runs that a consumer gets of a producer in another process."""
    producers.start(producer)
    producers.publish()
    return consume(consumer)
