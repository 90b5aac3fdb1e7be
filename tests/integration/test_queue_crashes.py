"""Brokers, producers and consumers killed in the middle of 2,000 results: what is promised comes, once and in order."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.brokers import SERVERS, Server

ROOT = Path(__file__).resolve().parents[2]
COUNT = 2000
PATIENCE_S = 240
RUN = [*(f"run-0 {n}" for n in range(COUNT)), "run-0 end"]

PRODUCER = """
import sys, time
import numpy as np
from perception.config.schema import QueueConfig
from perception.core.results import EndOfRun
from perception.queues.open import open_queue
from perception.queues.samples import sample_result
url, run_id, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
queue = open_queue(url, QueueConfig(buffer=100, linger_s=60))
rng = np.random.default_rng(0)
for sequence in range(count):
    queue.publish(sample_result(rng, sequence=sequence, run_id=run_id, detections=2))
    print(sequence, flush=True)
    time.sleep(0.0005)
queue.publish(EndOfRun(drive_id="sample-drive", run_id=run_id, count=count, reason="completed"))
queue.close()
"""

CONSUMER = """
import sys
from perception.core.results import EndOfRun
from perception.queues.open import subscribe
url, group, follow = sys.argv[1], sys.argv[2] or None, bool(sys.argv[3])
subscription = subscribe(url, group=group, follow=follow, timeout_s=180)
for item in subscription:
    print(item.run_id, "end" if isinstance(item, EndOfRun) else item.sequence, flush=True)
print("gaps", subscription.gaps, flush=True)
"""


class Program:
    """A script in a process of its own, its output read as it comes: a full pipe would stop it."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def lines(self, count: int) -> list[str]:
        """The first `count` lines, as soon as it has printed them."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._lines) >= count, PATIENCE_S), self._lines[-1:]
            return self._lines[:count]

    def all_lines(self) -> list[str]:
        """What it printed until its end."""
        self._reader.join(PATIENCE_S)
        assert self.process.wait(PATIENCE_S) is not None
        return self._lines

    def kill(self) -> list[str]:
        """As by `kill -9`; the whole lines that it had printed."""
        self.process.kill()
        return self.all_lines()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts scripts and leaves none behind."""
    started: list[Program] = []

    def program(script: str, *arguments: object) -> Program:
        started.append(Program(script, *arguments))
        return started[-1]

    yield program
    for each in started:
        each.kill()


@pytest.fixture(params=sorted(SERVERS))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server that is not started yet."""
    server = SERVERS[request.param](tmp_path)
    yield server
    server.kill()


def url_of(server: Server) -> str:
    return f"{server.program.removesuffix('-server')}://127.0.0.1:{server.port}/results"


def test_a_broker_that_comes_late_and_is_killed_costs_nothing(server: Server, start: Start) -> None:
    consumer, member = start(CONSUMER, url_of(server), "", ""), start(CONSUMER, url_of(server), "logger", "")
    producer = start(PRODUCER, url_of(server), "run-0", COUNT)
    producer.lines(100)
    server.start()
    consumer.lines(COUNT // 3)
    server.kill()
    server.start()
    assert consumer.all_lines() == [*RUN, "gaps 0"]
    assert member.all_lines() == [*RUN, "gaps 0"]
    assert len(producer.all_lines()) == COUNT
    assert producer.process.returncode == 0


def test_a_killed_consumer_goes_on_where_it_was(server: Server, start: Start) -> None:
    server.start()
    producer = start(PRODUCER, url_of(server), "run-0", COUNT)
    first = start(CONSUMER, url_of(server), "logger", "")
    first.lines(COUNT // 3)
    taken = first.kill()
    assert taken == RUN[: len(taken)]
    assert len(taken) < COUNT, "it was killed too late to show anything"
    rest = start(CONSUMER, url_of(server), "logger", "").all_lines()
    # The last one that it printed had not been acknowledged, if it was killed before it asked for the next.
    assert rest in ([*RUN[len(taken) :], "gaps 0"], [*RUN[len(taken) - 1 :], "gaps 0"])
    assert len(producer.all_lines()) == COUNT


def test_a_killed_producer_loses_only_what_the_broker_had_not_taken(server: Server, start: Start) -> None:
    server.start()
    consumer = start(CONSUMER, url_of(server), "", "follow")
    killed = start(PRODUCER, url_of(server), "run-0", COUNT)
    consumer.lines(COUNT // 3)
    published = len(killed.kill())
    assert published < COUNT, "it was killed too late to show anything"
    assert len(start(PRODUCER, url_of(server), "run-1", COUNT).all_lines()) == COUNT
    accepted = next(n for n in range(COUNT) if consumer.lines(n + 1)[n] == "run-1 0")
    lines = consumer.lines(accepted + COUNT + 1)
    assert lines[:accepted] == RUN[:accepted]
    assert COUNT // 3 <= accepted <= published + 1, "more came than was published"
    assert lines[accepted:] == [line.replace("run-0", "run-1") for line in RUN]


def test_members_of_a_group_take_over_from_one_that_is_killed(server: Server, start: Start) -> None:
    server.start()
    producer = start(PRODUCER, url_of(server), "run-0", COUNT)
    one = start(CONSUMER, url_of(server), "team", "follow")
    one.lines(1)
    two = start(CONSUMER, url_of(server), "team", "follow")
    two.lines(10)  # it joined while the other was at work, and did not wait for what that one might leave
    taken = one.kill()
    assert len(producer.all_lines()) == COUNT
    run = set(RUN)
    # What the killed one had printed last it may not have acknowledged; then it comes again.
    certain = run - set(taken)
    lines = two.lines(len(certain))
    if set(lines) != certain:
        lines = two.lines(len(certain) + 1)
        assert set(lines) == certain | {taken[-1]}
    assert len(set(lines)) == len(lines), "a member got a result twice"
