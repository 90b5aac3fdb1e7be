"""Queues by URL: known and unknown schemes, third parties, and nothing imported before it is used."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from perception.config.schema import QueueConfig
from perception.core.errors import UsageError
from perception.core.results import EndOfRun
from perception.queues import memory
from perception.queues.broker import kept_results, parse_address
from perception.queues.broker_queue import item_key
from perception.queues.open import ENTRY_POINTS, open_queue, subscribe


@pytest.mark.parametrize("url", ["carrier-pigeon:coop", "zenoh", "", ":results", "ZENOH:results"])
def test_an_unknown_url_lists_the_known_schemes(url: str) -> None:
    with pytest.raises(UsageError, match=r"memory:, nats:, redis:, zenoh:"):
        open_queue(url)
    with pytest.raises(UsageError, match=r"memory:, nats:, redis:, zenoh:"):
        subscribe(url)


def test_a_memory_queue_needs_a_name() -> None:
    with pytest.raises(UsageError, match="name"):
        open_queue("memory:")


@pytest.mark.parametrize("start", ["newest", -1, True, 1.0, None])
def test_another_start_is_wrong_use(start: object) -> None:
    with pytest.raises(UsageError, match="earliest"):
        subscribe("memory:start", start=start)  # type: ignore[arg-type]


def test_a_group_has_a_name_and_no_number_to_start_at() -> None:
    with pytest.raises(UsageError, match="letters"):
        subscribe("memory:group", group="a b")
    with pytest.raises(UsageError, match="goes on where it was"):
        subscribe("memory:group", group="logger", start=3)
    with pytest.raises(UsageError, match="remembers no consumers"):
        subscribe("memory:group", group="logger")


@pytest.mark.parametrize(
    "url", ["nats://me:secret@host/x", "redis://:secret@host/x", "nats:me:secret@host", "me:secret@x"]
)
def test_a_url_with_a_password_is_refused_and_not_repeated(url: str) -> None:
    for attempt in (open_queue, subscribe):
        with pytest.raises(UsageError) as error:
            attempt(url)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["nats://host", "nats://host/a/b", "nats://host:99999/x", "redis:///x", "redis:x", "nats://host/a.b"]
)
def test_an_address_without_host_or_name_is_wrong_use(url: str) -> None:
    with pytest.raises(UsageError, match="NAME"):
        open_queue(url)


def test_the_address_of_a_broker() -> None:
    address = parse_address("nats", "//broker.example/results", 4222)
    assert (address.host, address.port, address.name) == ("broker.example", 4222, "results")
    assert str(address) == "nats://broker.example:4222/results"
    assert str(parse_address("redis", "//[::1]:7/x", 6379)) == "redis://[::1]:7/x"


def test_a_broker_keeps_what_is_asked_for_or_its_own_default() -> None:
    assert kept_results(QueueConfig(), 500) == 500
    assert kept_results(QueueConfig(history=30), 500) == 30
    assert kept_results(QueueConfig(history=0), 500) == 1, "a server takes 0 for without end"


def test_the_key_of_an_item_cannot_be_mistaken() -> None:
    keys = {
        item_key(EndOfRun(drive_id=drive, run_id=run, count=0, reason="completed"))
        for drive, run in (("a/b", "c"), ("a", "b/c"), ("a\nb", "c"), ("ä", "c"))
    }
    assert len(keys) == 4
    assert all(key.isascii() and key.isprintable() and key.count("/") == 2 for key in keys)


def test_a_third_party_queue_joins_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="other", value=memory.__name__, group=ENTRY_POINTS)
    monkeypatch.setattr("perception.queues.open.entry_points", lambda group: [point] if group == ENTRY_POINTS else [])
    subscription = subscribe("other:third-party", timeout_s=10)
    queue = open_queue("other:third-party")
    end = EndOfRun(drive_id="drive", run_id="run", count=0, reason="completed")
    queue.publish(end)
    assert list(subscription) == [end]
    queue.close()


def test_opening_one_kind_of_queue_imports_no_other() -> None:
    script = (
        "import sys; from perception.queues.open import open_queue; "
        "open_queue('memory:x'); print(bool({'zenoh', 'nats', 'redis', 'mcap'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
