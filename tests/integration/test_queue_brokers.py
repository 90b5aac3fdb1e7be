"""Queues with a broker, beyond the contract: brokers that are away, set up wrongly or used by others."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import redis

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError
from perception.core.ports import QueueItem, ResultQueue
from perception.core.results import EndOfRun
from perception.queues.broker import parse_address
from perception.queues.nats_connection import Link, LoopThread
from perception.queues.open import open_queue, subscribe
from perception.queues.samples import sample_result
from tests.contract.brokers import SERVERS, NatsServer, RedisServer, Server

PATIENCE_S = 30.0


@pytest.fixture(params=sorted(SERVERS))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server that is not started yet."""
    server = SERVERS[request.param](tmp_path)
    yield server
    server.kill()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path, "max_payload: 100KB\n")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


def url_of(server: Server, name: str = "results") -> str:
    return f"{server.program.removesuffix('-server')}://127.0.0.1:{server.port}/{name}"


def publish_run(queue: ResultQueue, count: int, *, detections: int = 1) -> None:
    rng = np.random.default_rng(0)
    for sequence in range(count):
        queue.publish(sample_result(rng, sequence=sequence, detections=detections))
    queue.publish(EndOfRun(drive_id="sample-drive", run_id="run-0", count=count, reason="completed"))


def sequences(items: "list[QueueItem]") -> list[int | None]:
    return [None if isinstance(item, EndOfRun) else item.sequence for item in items]


def test_a_live_producer_drops_the_oldest_while_the_broker_is_away(server: Server) -> None:
    url = url_of(server)
    queue = open_queue(url, QueueConfig(buffer=5, when_full="drop", linger_s=PATIENCE_S))
    publish_run(queue, 20)
    assert queue.take_losses() == 16, "of 20 results and an end, five items fit"
    assert not queue.has_consumer()
    server.start()
    subscription = subscribe(url, timeout_s=PATIENCE_S)
    assert sequences(list(subscription)) == [16, 17, 18, 19, None]
    assert subscription.gaps == 16
    queue.close()


def test_a_broker_that_never_comes_is_reported_by_both_ends(server: Server) -> None:
    url = url_of(server)
    queue = open_queue(url, QueueConfig(linger_s=0.2))
    publish_run(queue, 3)
    with pytest.raises(QueueError, match=f"4 items were not delivered: {url}: the broker is away"):
        queue.close()
    with pytest.raises(QueueError, match="nothing came"):
        list(subscribe(url, timeout_s=0.2))


def test_async_loops_and_closing_from_elsewhere(server: Server) -> None:
    server.start()
    url = url_of(server)
    queue = open_queue(url, QueueConfig(linger_s=PATIENCE_S))
    publish_run(queue, 5)
    queue.close()

    async def read() -> list[QueueItem]:
        return [item async for item in subscribe(url, timeout_s=PATIENCE_S)]

    assert sequences(asyncio.run(read())) == [0, 1, 2, 3, 4, None]
    waiting = subscribe(url, start="latest", timeout_s=PATIENCE_S)
    threading.Timer(0.2, waiting.close).start()
    assert list(waiting) == []


def test_the_history_changes_with_the_producer(server: Server) -> None:
    server.start()
    url = url_of(server)
    for history in (8, 4):
        queue = open_queue(url, QueueConfig(history=history, linger_s=PATIENCE_S))
        publish_run(queue, 20) if history == 8 else queue.publish(
            EndOfRun(drive_id="sample-drive", run_id="run-1", count=0, reason="completed")
        )
        queue.close()
    items = iter(subscribe(url, follow=True, timeout_s=PATIENCE_S))
    assert sequences([next(items) for _ in range(4)]) == [18, 19, None, None]


def test_a_result_larger_than_the_server_takes(nats_server: NatsServer) -> None:
    queue = open_queue(url_of(nats_server), QueueConfig(linger_s=PATIENCE_S))
    publish_run(queue, 1, detections=3000)
    with pytest.raises(QueueError, match=r"2 items were not delivered.*max_payload"):
        queue.close()


def test_a_stream_that_serves_something_else(nats_server: NatsServer) -> None:
    open_queue(url_of(nats_server, "other"), QueueConfig()).close()
    loop = LoopThread("test")
    link = Link(
        parse_address("nats", url_of(nats_server).partition(":")[2], 4222), QueueConfig().security, lambda: None
    )

    async def take_the_name() -> None:
        await link.open()
        await link.client.jetstream().add_stream(name="results", subjects=["weather.*"])
        await link.close()

    loop.run(take_the_name(), PATIENCE_S)
    loop.close()
    with pytest.raises(QueueError, match="serves something else"):
        open_queue(url_of(nats_server))


def test_a_key_that_holds_something_else(redis_server: RedisServer) -> None:
    with redis.Redis(port=redis_server.port) as client:
        client.set("results", "weather")
    queue = open_queue(url_of(redis_server), QueueConfig(linger_s=PATIENCE_S))
    publish_run(queue, 1)
    with pytest.raises(QueueError, match="WRONGTYPE"):
        queue.close()
    with pytest.raises(QueueError, match="WRONGTYPE"):
        list(subscribe(url_of(redis_server), timeout_s=PATIENCE_S))


def test_a_server_without_jetstream_is_named_with_the_remedy(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server._configuration = lambda: f'host: "127.0.0.1"\nport: {server.port}\n'  # type: ignore[method-assign]
    server.start()
    try:
        queue = open_queue(url_of(server), QueueConfig(linger_s=0.2))
        publish_run(queue, 1)
        with pytest.raises(QueueError, match=r"2 items were not delivered.*needs -js"):
            queue.close()
    finally:
        server.kill()


def test_a_server_that_forgets_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(tmp_path, "appendonly no\n")
    server.start()
    try:
        with caplog.at_level(logging.WARNING):
            open_queue(url_of(server)).close()
        assert "appendonly" in caplog.text
    finally:
        server.kill()


def test_a_member_keeps_what_it_holds_for_as_long_as_it_likes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow member is not a dead one: nobody else gets what it works on."""
    monkeypatch.setattr("perception.queues.nats_feed.LEASE_S", 2.0)
    monkeypatch.setattr("perception.queues.nats_feed.RENEW_S", 0.2)
    monkeypatch.setattr("perception.queues.redis_feed.ADOPT_S", 0.1)
    server.start()
    url = url_of(server)
    queue = open_queue(url, QueueConfig(linger_s=PATIENCE_S))
    publish_run(queue, 4)
    queue.close()
    slow = subscribe(url, group="team", follow=True, timeout_s=PATIENCE_S)
    quick = subscribe(url, group="team", follow=True, timeout_s=6.0)
    working = iter(slow)
    assert sequences([next(working)]) == [0]
    others = iter(quick)
    assert sequences([next(others) for _ in range(4)]) == [1, 2, 3, None]
    with pytest.raises(QueueError, match="nothing came"):
        next(others)
    slow.close()
    with closing(subscribe(url, group="team", timeout_s=PATIENCE_S)) as heir:
        assert sequences([next(iter(heir))]) == [0]
