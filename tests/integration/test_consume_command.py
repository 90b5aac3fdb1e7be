"""`perception consume` at a queue with a broker: groups, ages, and passwords that must not be on a command line."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.core.results import EndOfRun
from perception.queues.open import open_queue
from perception.queues.samples import sample_result
from tests.contract.brokers import RedisServer
from tests.integration.conftest import Perception

SECRET = "correct-horse"
COUNT = 6


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A queue that wants a login, with a run of six results in it, of which the last two are new."""
    server = RedisServer(tmp_path, f"user default off\nuser service on >{SECRET} ~* &* +@all\n")
    server.start()
    monkeypatch.setenv("PERCEPTION_QUEUE_USER", "service")
    monkeypatch.setenv("PERCEPTION_QUEUE_PASSWORD", SECRET)
    url = f"redis://127.0.0.1:{server.port}/results"
    queue = open_queue(url)
    rng = np.random.default_rng(0)
    for sequence in range(COUNT):
        result = sample_result(rng, sequence=sequence, detections=1)
        queue.publish(replace(result, published_ns=time.time_ns()) if sequence >= COUNT - 2 else result)
    queue.publish(EndOfRun(drive_id="sample-drive", run_id="run-0", count=COUNT, reason="completed"))
    queue.close()
    yield url
    server.kill()


def sequences(out: str) -> list[int | None]:
    return [json.loads(line).get("sequence") for line in out.splitlines()]


def test_a_group_goes_on_where_it_was(url: str, perception: Perception) -> None:
    consume = ("consume", url, "--json", "--group", "logger", "--timeout", "30")
    assert sequences(perception(*consume, "--count", "2").out) == [0, 1]
    assert sequences(perception(*consume, "--count", "1").out) == [2]
    rest = perception(*consume)
    assert sequences(rest.out) == [3, 4, 5, None]
    assert rest.code == 0


def test_what_is_too_old_is_skipped_and_said(url: str, perception: Perception) -> None:
    said = perception("consume", url, "--json", "--max-age", "3600", "--timeout", "30")
    assert sequences(said.out) == [4, 5, None]
    assert (said.code, said.err) == (0, "4 results were skipped: they were older than 3600 s\n")


def test_a_password_on_the_command_line_is_refused(url: str, perception: Perception) -> None:
    with_password = url.replace("//", f"//service:{SECRET}@")
    for command in (
        ("consume", with_password),
        ("replay", "synthetic:", "--queue", with_password, "--placement", "local"),
    ):
        said = perception(*command)
        assert said.code == 2
        assert "PERCEPTION_QUEUE_PASSWORD" in said.err
        assert SECRET not in said.out + said.err


def test_a_wrong_password_is_one_line(url: str, perception: Perception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPTION_QUEUE_PASSWORD", "wrong")
    said = perception("consume", url)
    assert said.code == 1
    assert said.err.startswith(f"error: {url}: the server refused us")
    assert said.err.count("\n") == 1
