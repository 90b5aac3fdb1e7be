"""The Zenoh queue between processes, as users run it: producers and consumers that start, stall and die."""

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import zenoh

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError, UsageError
from perception.core.results import EndOfRun
from perception.queues.open import open_queue, subscribe
from perception.queues.zenoh_session import open_session
from tests.integration.conftest import Processes

PATIENCE_S = 60.0

PRODUCER = """
import sys, time
import numpy as np
from perception.config.schema import QueueConfig
from perception.core.results import EndOfRun
from perception.queues.open import open_queue
from perception.queues.samples import sample_result
url, count, rate_hz, history, waits = sys.argv[1], *map(int, sys.argv[2:6])
queue = open_queue(url, QueueConfig(history=history, linger_s=20))
while waits and not queue.has_consumer():
    time.sleep(0.01)
rng = np.random.default_rng(0)
print("ready", flush=True)
slowest = 0.0
for sequence in range(count):
    result = sample_result(rng, sequence=sequence, detections=20)
    start = time.monotonic()
    queue.publish(result)
    slowest = max(slowest, time.monotonic() - start)
    time.sleep(1 / rate_hz)
queue.publish(EndOfRun(drive_id="sample-drive", run_id="run-0", count=count, reason="completed"))
queue.close()
print(slowest, flush=True)
"""

CONSUMER = """
import sys
from perception.queues.json_form import to_json
from perception.queues.open import subscribe
subscription = subscribe(sys.argv[1], timeout_s=60)
print("ready", flush=True)
for item in subscription:
    print(to_json(item), flush=True)
print(subscription.gaps, flush=True)
"""


@pytest.fixture
def url() -> str:
    return f"zenoh:test/{uuid.uuid4().hex}"


def await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def rest_of_output(process: subprocess.Popen[str]) -> list[str]:
    """What a process prints until it ends. Not `communicate`, which loses what `readline` has read ahead."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    process.wait(PATIENCE_S)
    return lines


def outcome(process: subprocess.Popen[str]) -> tuple[list[int], int]:
    """Sequences that a consumer printed (the end of the run checked and left out), and the gaps it counted."""
    *lines, gaps = [line for line in rest_of_output(process) if line != "ready"]
    items = [json.loads(line) for line in lines]
    assert "end_of_run" in items[-1]
    return [item["sequence"] for item in items[:-1]], int(gaps)


def test_a_consumer_started_before_the_producer_gets_the_whole_run(processes: Processes, url: str) -> None:
    consumer = processes.start(CONSUMER, url)
    await_ready(consumer)
    producer = processes.start(PRODUCER, url, 50, 1000, 1000, 0)
    assert outcome(consumer) == (list(range(50)), 0)
    assert producer.wait(PATIENCE_S) == 0


def test_a_consumer_started_after_the_last_result_gets_the_whole_run(processes: Processes, url: str) -> None:
    producer = processes.start(PRODUCER, url, 50, 1000, 1000, 0)
    await_ready(producer)
    time.sleep(0.5)
    consumer = processes.start(CONSUMER, url)
    assert outcome(consumer) == (list(range(50)), 0)
    assert producer.wait(PATIENCE_S) == 0


def test_killed_and_stalled_consumers_harm_nobody(processes: Processes, url: str) -> None:
    killed, stalled, well = (processes.start(CONSUMER, url) for _ in range(3))
    for consumer in (killed, stalled, well):
        await_ready(consumer)
    producer = processes.start(PRODUCER, url, 600, 200, 1000, 1)
    await_ready(producer)
    for consumer in (killed, stalled):
        assert consumer.stdout is not None
        consumer.stdout.readline()
    killed.kill()
    stalled.send_signal(signal.SIGSTOP)
    assert outcome(well) == (list(range(600)), 0)
    stalled.send_signal(signal.SIGCONT)
    sequences, gaps = outcome(stalled)
    assert (sequences, gaps) == (list(range(1, 600)), 0), "the first line was read before"
    assert float(rest_of_output(producer)[-1]) < 2.0, "publishing waited for a consumer"
    assert producer.returncode == 0


def test_a_killed_producer_is_reported(processes: Processes, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception.queues.zenoh_feed.GRACE_S", 1.0)
    subscription = subscribe(url, timeout_s=PATIENCE_S)
    producer = processes.start(PRODUCER, url, 10_000, 100, 1000, 0)
    items = iter(subscription)
    next(items)
    producer.kill()
    with pytest.raises(QueueError, match="went away"):
        list(items)
    assert subscription.gaps == 0


def test_two_producers_on_one_key_do_not_mix(processes: Processes, url: str) -> None:
    consumer = processes.start(CONSUMER, url)
    await_ready(consumer)
    for _ in range(2):
        processes.start(PRODUCER, url, 30, 500, 1000, 1)
    assert outcome(consumer) == (list(range(30)), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_listens_and_scouts_on_loopback_only(url: str) -> None:
    before, scouted_before = own_tcp_sockets(), scouting_devices()
    queue = open_queue(url, QueueConfig(linger_s=0))
    opened = own_tcp_sockets() - before
    assert any(is_listening for _, is_listening in opened)
    assert {address for address, _ in opened} == {"0100007F"}, "127.0.0.1 as the kernel writes it"
    assert scouting_devices() - scouted_before <= {"lo"}
    assert "lo" in scouting_devices()
    queue.close()


def own_tcp_sockets() -> set[tuple[str, bool]]:
    """Local address (hexadecimal, with no port) of each TCP socket of this process, and whether it listens."""
    links = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {(row[1].split(":")[0], row[3] == "0A") for row in rows if row[9] in inodes}


def scouting_devices() -> set[str]:
    """Network devices on which anybody has joined Zenoh's scouting group, 224.0.0.224."""
    device, devices = "", set()
    for line in Path("/proc/net/igmp").read_text().splitlines()[1:]:
        if not line[0].isspace():
            device = line.split()[1]
        elif line.split()[0] == "E00000E0":
            devices.add(device)
    return devices


def test_a_stranger_on_the_key_is_survived(url: str) -> None:
    queue = open_queue(url, QueueConfig(linger_s=0))
    subscription = subscribe(url, timeout_s=PATIENCE_S)
    with open_session() as stranger:
        watch = stranger.declare_publisher(url.removeprefix("zenoh:"))
        wait_for(lambda: queue.has_consumer() and watch.matching_status.matching)  # type: ignore[attr-defined]
        for payload in (b"hello", b"\x00" * 9_000_000, zenoh.ZBytes(b"")):
            watch.put(payload)
        queue.publish(EndOfRun(drive_id="drive", run_id="run", count=0, reason="completed"))
        assert len(list(subscription)) == 1
    queue.close()


def test_closing_waits_for_a_consumer_that_is_not_done(url: str) -> None:
    queue = open_queue(url, QueueConfig(linger_s=PATIENCE_S))
    queue.publish(EndOfRun(drive_id="drive", run_id="run", count=0, reason="completed"))
    subscription = subscribe(url, timeout_s=PATIENCE_S)
    wait_for(queue.has_consumer)
    list(subscription)
    start = time.monotonic()
    queue.close()
    assert time.monotonic() - start < PATIENCE_S / 2, "the producer lingered though its consumer had left"


def test_bad_keys_are_wrong_use() -> None:
    for key in ("", "/results", "a//b", "a?b", "results/"):
        with pytest.raises(UsageError, match="no key"):
            open_queue(f"zenoh:{key}")
    with pytest.raises(UsageError, match="pattern"):
        open_queue("zenoh:perception/*")


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
