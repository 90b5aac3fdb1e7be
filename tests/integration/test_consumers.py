"""The consumers of docs/consumers, as processes, on real queues: what the page promises of each."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.config.schema import QueueConfig
from perception.core.ports import ResultQueue
from perception.core.results import EndOfRun, PathHints, PerceptionResult
from perception.queues.contract import CHECKS, QueueKit
from perception.queues.open import ENTRY_POINTS, open_queue
from perception.queues.samples import sample_result
from tests.contract.brokers import SERVERS

ROOT = Path(__file__).resolve().parents[2]
CONSUMERS = ROOT / "docs" / "consumers"
PLUGIN = CONSUMERS / "queue_plugin"
PATIENCE_S = 60.0
COMMAND = "from perception.cli.main import main; main()"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run() -> Iterator[Start]:
    """Starts `python ARGUMENTS`; whatever is left at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def url() -> str:
    return f"zenoh:test/{uuid.uuid4().hex}"


def produce(url: str) -> ResultQueue:
    return open_queue(url, QueueConfig(url=url, linger_s=PATIENCE_S))


def await_consumer(queue: ResultQueue) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not queue.has_consumer():
        assert time.monotonic() < deadline, "no consumer came"
        time.sleep(0.01)


def end(run_id: str, count: int) -> EndOfRun:
    return EndOfRun(drive_id="sample-drive", run_id=run_id, count=count, reason="completed")


def finish(process: "subprocess.Popen[str]", code: int = 0) -> list[str]:
    """The lines that a process printed. Asserts that it ended as expected."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out.splitlines()


def scene(
    sequence: int, *, box_y_m: float | None, box_vy_mps: float = 0.0, is_tracked: bool = True
) -> PerceptionResult:
    """Straight on (likely) or 6 m to the left; perhaps one box, 12 m ahead and `box_y_m` to the left, at 1 s."""
    result = sample_result(np.random.default_rng(0), sequence=sequence, detections=1, modes=1)
    times_s = np.array([0.5, 1.0, 1.5], dtype=np.float32)
    hints = PathHints(
        confidence=np.array([0.75, 0.25], dtype=np.float32),
        waypoints_m=np.array([[[6, 0], [12, 0], [18, 0]], [[6, 2], [12, 6], [18, 6]]], dtype=np.float32),
        times_s=times_s,
        target_speed_mps=8.0,
    )
    boxes = replace(
        result.detections,
        center_m=np.array([[12, (box_y_m or 0) - box_vy_mps, 1]], dtype=np.float32),
        size_m=np.array([[4, 2, 1.5]], dtype=np.float32),
        yaw_rad=np.zeros(1, dtype=np.float32),
        velocity_mps=np.array([[0, box_vy_mps]], dtype=np.float32),
        track_id=np.array([5 if is_tracked else -1]),
    )
    seen = boxes if box_y_m is not None else boxes.rows(np.zeros(1, dtype=bool))
    return replace(result, detections=seen, path_hints=hints, published_ns=time.time_ns())


@pytest.mark.parametrize("flags", [(), ("--asyncio",)], ids=["sync", "asyncio"])
def test_the_planner_takes_the_likeliest_free_path(run: Start, url: str, flags: tuple[str, ...]) -> None:
    queue = produce(url)
    planner = run(CONSUMERS / "planner.py", url, "--max-age", "20", *flags)
    await_consumer(queue)
    both = scene(5, box_y_m=3.0)
    wide = replace(both, detections=replace(both.detections, size_m=np.array([[4, 12, 1.5]], dtype=np.float32)))
    for result in (
        scene(0, box_y_m=None),
        scene(1, box_y_m=0.0),
        scene(2, box_y_m=0.0, box_vy_mps=9.0),
        scene(3, box_y_m=0.0, is_tracked=False),
        replace(scene(4, box_y_m=None), published_ns=time.time_ns() - 30 * 10**9),
        wide,
    ):
        queue.publish(result)
    queue.publish(end("run-0", 6))
    lines = finish(planner)
    queue.close()
    assert lines == [
        "0 mode 0 curvature +0.0000 1/m speed 8.00 m/s",
        "1 mode 1 curvature +0.1000 1/m speed 8.00 m/s",
        "2 mode 1 curvature +0.1000 1/m speed 8.00 m/s",
        "3 mode 0 curvature +0.0000 1/m speed 8.00 m/s",
        "5 stop: no path is free",
        "1 results were too old, 0 were lost",
    ]


def recorded(path: Path) -> list[int | str]:
    """What a recorder's file holds: sequences, and `end`. A torn last line, as a kill leaves it, counts as nothing."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    items: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return ["end" if "end_of_run" in item else item["sequence"] for item in items]


@pytest.fixture(params=["zenoh", "mcap", *SERVERS])
def address(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[str]:
    """A queue of each kind that reaches another process."""
    if request.param not in SERVERS:
        yield url if request.param == "zenoh" else f"mcap:{tmp_path}/queue.mcap"
        return
    server = SERVERS[request.param](tmp_path)
    server.start()
    yield f"{request.param}://127.0.0.1:{server.port}/results"
    server.kill()


def test_a_killed_recorder_goes_on_where_it_stopped(run: Start, address: str, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    group = ("--group", "logger") if "//" in address else ()
    queue = produce(address)
    rng = np.random.default_rng(0)
    sequence = 0
    for lap in range(3):
        recorder = run(CONSUMERS / "recorder.py", address, file, *group)
        deadline = time.monotonic() + PATIENCE_S
        while len(recorded(file)) < 20 * lap + 10:
            assert time.monotonic() < deadline, recorder.stderr
            queue.publish(sample_result(rng, sequence=sequence, detections=5))
            sequence += 1
            time.sleep(0.01)
        recorder.send_signal(signal.SIGKILL)
        recorder.wait()
    with file.open("ab") as torn:
        torn.write(b'{"drive_id":"sample-drive","run_id":"run-0","sequ')
    queue.publish(end("run-0", sequence))
    lines = finish(run(CONSUMERS / "recorder.py", address, file, *group))
    queue.close()
    assert recorded(file) == [*range(sequence), "end"]
    assert lines[-1].endswith("0 results missing")


def test_the_recorder_says_what_is_missing(run: Start, url: str, tmp_path: Path) -> None:
    queue = produce(url)
    recorder = run(CONSUMERS / "recorder.py", url, tmp_path / "results.jsonl")
    await_consumer(queue)
    rng = np.random.default_rng(0)
    for sequence in (0, 1, 4):
        queue.publish(sample_result(rng, sequence=sequence))
    queue.publish(end("run-0", 5))
    lines = finish(recorder, code=3)
    queue.close()
    assert lines == ["4 lines written, 2 results missing"]
    assert recorded(tmp_path / "results.jsonl") == [0, 1, 4, "end"]


@pytest.fixture
def sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worked example, found as an installed package would be."""
    monkeypatch.syspath_prepend(PLUGIN)
    point = EntryPoint(name="sqlite", value="sqlite_queue", group=ENTRY_POINTS)
    monkeypatch.setattr("perception.queues.open.entry_points", lambda group: [point] if group == ENTRY_POINTS else [])


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_worked_example_of_a_queue_keeps_the_contract(check: Callable[[QueueKit], None], tmp_path: Path) -> None:
    check(QueueKit(url=f"sqlite:{tmp_path}/results.db"))


def test_the_worked_example_installs_as_a_package(run: Start, tmp_path: Path) -> None:
    source = shutil.copytree(PLUGIN, tmp_path / "source")
    pip = run("-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", source)
    _, complaint = pip.communicate(timeout=PATIENCE_S)
    if pip.returncode:
        pytest.skip(f"pip could not build it here: {complaint[-300:]}")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); from perception import open_queue; "
        f"queue = open_queue('sqlite:{tmp_path}/results.db'); print(type(queue).__name__); queue.close()"
    )
    assert finish(run("-c", script)) == ["SqliteQueue"]


def test_the_schema_comes_with_the_command(run: Start) -> None:
    schema = ROOT / "perception" / "queues" / "perception_result.proto"
    assert finish(run("-c", COMMAND, "consume", "--schema")) == schema.read_text().splitlines()


def test_a_run_becomes_a_bag_for_ros(run: Start, url: str, tmp_path: Path) -> None:
    highlevel = pytest.importorskip("rosbags.highlevel")
    queue = produce(url)
    bag = tmp_path / "bag"
    consumer = run("-c", COMMAND, "ros2", url, "--bag", bag, "--timeout", PATIENCE_S)
    await_consumer(queue)
    rng = np.random.default_rng(0)
    for sequence in range(12):
        queue.publish(sample_result(rng, sequence=sequence, modes=3))
    queue.publish(end("run-0", 12))
    assert finish(consumer) == [f"12 results in {bag}"]
    queue.close()
    with highlevel.AnyReader([bag]) as reader:
        assert reader.message_count == 12 * 5, "boxes, three paths and a transform each"
    assert finish(run("-c", COMMAND, "ros2", url), code=2) == []
    assert finish(run("-c", COMMAND, "ros2", url, "--bag", bag), code=2) == []
