"""The lists of users in docs/consumers: what they allow is enough for a service and a reader, and no more."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from perception.config.schema import QueueConfig, QueueSecurity
from perception.core.errors import QueueError
from perception.core.ports import ResultQueue
from perception.core.results import EndOfRun
from perception.queues.open import open_queue, subscribe
from perception.queues.samples import sample_result
from tests.contract.brokers import NatsServer, RedisServer, Server

CONSUMERS = Path(__file__).resolve().parents[2] / "docs" / "consumers"
PATIENCE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A running server with the documented users. folder: where their passwords lie."""

    url: str
    folder: Path

    def login(self, user: str) -> QueueConfig:
        security = QueueSecurity(user=user, password_file=self.folder / user)
        return QueueConfig(url=self.url, linger_s=PATIENCE_S, security=security)


def nats(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("SERVICE_PASSWORD", "service-secret")
    monkeypatch.setenv("READER_PASSWORD", "reader-secret")
    (folder / "users.conf").write_text((CONSUMERS / "nats-users.conf").read_text())
    return NatsServer(folder, 'include "users.conf"\n')


def redis(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    users = (CONSUMERS / "redis-users.acl").read_text()
    users = users.replace("SERVICE_PASSWORD", "service-secret").replace("READER_PASSWORD", "reader-secret")
    (folder / "users.acl").write_text(users)
    return RedisServer(folder, f'aclfile "{folder}/users.acl"\n')


KINDS = {"nats": nats, "redis": redis}


@pytest.fixture(params=list(KINDS))
def guarded(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    for user in ("service", "reader"):
        (tmp_path / user).write_text(f"{user}-secret\n")
    server = KINDS[request.param](tmp_path, monkeypatch)
    server.start()
    yield Guarded(url=f"{request.param}://127.0.0.1:{server.port}/results", folder=tmp_path)
    server.kill()


def await_consumer(queue: ResultQueue) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not queue.has_consumer():
        assert time.monotonic() < deadline, "the service may not see who reads"
        time.sleep(0.02)


@pytest.mark.parametrize("group", [None, "logger"])
def test_the_service_may_publish_and_the_reader_read(guarded: Guarded, group: str | None) -> None:
    subscription = subscribe(guarded.url, group=group, timeout_s=PATIENCE_S, config=guarded.login("reader"))
    items = iter(subscription)
    queue = open_queue(guarded.url, guarded.login("service"))
    rng = np.random.default_rng(0)
    queue.publish(sample_result(rng, sequence=0))
    first = next(items)
    await_consumer(queue)
    for sequence in range(1, 5):
        queue.publish(sample_result(rng, sequence=sequence))
    queue.publish(EndOfRun(drive_id="sample-drive", run_id="run-0", count=5, reason="completed"))
    queue.close()
    got = [item.sequence for item in (first, *items) if not isinstance(item, EndOfRun)]
    assert got == list(range(5))


def test_the_reader_may_not_publish(guarded: Guarded) -> None:
    open_queue(guarded.url, guarded.login("service")).close()
    with pytest.raises(QueueError, match="permi"):
        publish_one(guarded, "reader")


def test_a_stranger_may_nothing(guarded: Guarded) -> None:
    (guarded.folder / "stranger").write_text("guessed\n")
    with pytest.raises(QueueError, match="refused"):
        subscribe(guarded.url, timeout_s=PATIENCE_S, config=guarded.login("stranger"))
    with pytest.raises(QueueError, match="refused"):
        publish_one(guarded, "stranger")


def publish_one(guarded: Guarded, user: str) -> None:
    queue = open_queue(guarded.url, guarded.login(user))
    queue.publish(sample_result(np.random.default_rng(0), sequence=0))
    queue.close()
