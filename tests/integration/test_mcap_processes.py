"""The file queue between processes that are killed: nothing that was published is lost or comes twice."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.integration.conftest import Processes

COUNT = 2000

PRODUCER = """
import sys
import numpy as np
from perception.core.results import EndOfRun
from perception.queues.open import open_queue
from perception.queues.samples import sample_result
url, run_id, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
queue = open_queue(url)
while not queue.has_consumer():
    pass
rng = np.random.default_rng(0)
for sequence in range(count):
    queue.publish(sample_result(rng, sequence=sequence, run_id=run_id, detections=20))
    print(sequence, flush=True)
queue.publish(EndOfRun(drive_id="sample-drive", run_id=run_id, count=count, reason="completed"))
queue.close()
"""

CONSUMER = """
import sys
from perception.core.results import EndOfRun
from perception.queues.open import subscribe
url, start, follow = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "follow"
for item in subscribe(url, start=start, follow=follow, timeout_s=60):
    print(item.run_id, "end" if isinstance(item, EndOfRun) else item.sequence, flush=True)
"""


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return (line.rstrip("\n") for line in process.stdout)


def kill_after(process: subprocess.Popen[str], line: str) -> list[str]:
    """Kill a process once it has printed `line`; all that it printed."""
    lines = []
    for printed in lines_of(process):
        lines.append(printed)
        if printed == line:
            process.kill()
    process.wait()
    return lines


def test_a_killed_producer_and_a_killed_consumer_lose_and_double_nothing(processes: Processes, tmp_path: Path) -> None:
    url = f"mcap:{tmp_path / 'results.mcap'}"
    follower = processes.start(CONSUMER, url, 0, "follow")
    killed = processes.start(CONSUMER, url, 0, "follow")
    producer = processes.start(PRODUCER, url, "run-0", COUNT)
    taken = kill_after(killed, "run-0 700")
    assert taken == [f"run-0 {n}" for n in range(len(taken))], "a result is missing or doubled before the kill"
    published = len(kill_after(producer, str(COUNT // 2)))

    followed = lines_of(follower)
    for sequence in range(published):
        assert next(followed) == f"run-0 {sequence}", "a result that was published is missing"
    assert processes.start(PRODUCER, url, "run-1", COUNT).wait(60) == 0
    rest = [next(followed)]
    if rest == [f"run-0 {published}"]:
        # Written whole, but killed before it could say so.
        rest = [next(followed)]
    rest += [next(followed) for _ in range(COUNT)]
    assert rest == [*(f"run-1 {n}" for n in range(COUNT)), "run-1 end"]

    resumed = lines_of(processes.start(CONSUMER, url, len(taken), "follow"))
    assert [next(resumed) for _ in range(published - len(taken))] == [
        f"run-0 {n}" for n in range(len(taken), published)
    ]
