"""`perception replay` and `perception consume` as the processes that users start."""

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

Start = Callable[..., "subprocess.Popen[str]"]
pytestmark = pytest.mark.ray

SENSORS = {
    "aimotive-night": (15, 7),
    "pandaset-002": (8, 8),
    "nuscenes-mini-1kf": (1, 8),
    "kitti-object": (3, 2),
}
"""Reference frames and sensors of each recorded piece."""


@pytest.fixture
def url() -> str:
    return f"zenoh:test/{uuid.uuid4().hex}/results"


def finish(process: "subprocess.Popen[str]", timeout_s: float = 200) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def consumed(process: "subprocess.Popen[str]") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    code, out, err = finish(process)
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    return lines[:-1], lines[-1]["end_of_run"]


@pytest.mark.parametrize("placement", ["local", "colocated", "split"])
def test_a_consumer_in_another_process_gets_every_result_once(start: Start, url: str, placement: str) -> None:
    consumer = start("consume", url, "--json", "--timeout", "120")
    producer = start(
        "replay", "synthetic:duration=1", "--queue", url, "--placement", placement, "--wait-for-consumer", "--json"
    )
    code, out, err = finish(producer)
    assert code == 0, err
    account = json.loads(out)
    results, end = consumed(consumer)
    assert [result["sequence"] for result in results] == list(range(20))
    assert end == {
        "drive_id": account["drive_id"],
        "run_id": account["run_id"],
        "count": account["frames"],
        "reason": "completed",
    }
    times = [result["reference_ns"] for result in results]
    assert times == sorted(set(times))
    assert all(result["provenance"]["placement"] == placement for result in results)
    assert "untrained" in err or results[0]["provenance"]["trained"]


def test_a_late_consumer_gets_the_whole_run(start: Start, url: str) -> None:
    producer = start(
        "replay", "synthetic:duration=0.5", "--queue", url, "--placement", "local", "--set", "queue.linger_s=60"
    )
    assert producer.stdout is not None
    assert "completed" in producer.stdout.readline()
    results, end = consumed(start("consume", url, "--json", "--timeout", "60"))
    assert [result["sequence"] for result in results] == list(range(10))
    assert end["count"] == 10
    os.killpg(producer.pid, signal.SIGINT)


@pytest.mark.data
@pytest.mark.parametrize("drive", list(SENSORS))
def test_recorded_drives_arrive_whole_and_in_order(start: Start, url: str, drive_data: Path, drive: str) -> None:
    frames, sensors = SENSORS[drive]
    consumer = start("consume", url, "--json", "--timeout", "120")
    producer = start("replay", str(drive_data / drive), "--queue", url, "--wait-for-consumer")
    code, _, err = finish(producer)
    assert code == 0, err
    results, end = consumed(consumer)
    assert [result["sequence"] for result in results] == list(range(frames))
    assert end["count"] == frames
    for result in results:
        assert len(result["sensors"]) == sensors
        assert any(sensor["present"] and sensor["modality"] == "lidar" for sensor in result["sensors"])
        for sensor in result["sensors"]:
            assert sensor["present"] == (sensor["age_ns"] is not None)
    if drive == "aimotive-night":
        assert {result["provenance"]["ego_motion"] for result in results[5:]} == {"radar"}


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_ends_the_run_and_leaves_no_process(start: Start, url: str, signal_number: int) -> None:
    consumer = start("consume", url, "--json", "--timeout", "120")
    producer = start(
        "replay", "synthetic:duration=5", "--queue", url, "--loop", "--rate", "1", "--wait-for-consumer",
        "--placement", "colocated", "--set", "queue.linger_s=1",
    )  # fmt: skip
    assert consumer.stdout is not None
    assert "sequence" in consumer.stdout.readline()
    family = psutil.Process(producer.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in family)
    producer.send_signal(signal_number)
    code, out, err = finish(producer, 60)
    assert code == 1, err
    assert "interrupted" in out + err
    assert "Traceback" not in err
    rest = consumer.communicate(timeout=60)[0].splitlines()
    assert json.loads(rest[-1])["end_of_run"]["reason"] == "interrupted"
    assert not psutil.wait_procs(family, timeout=60)[1]


def test_a_killed_producer_leaves_no_process(start: Start, url: str) -> None:
    consumer = start("consume", url, "--json", "--timeout", "120")
    producer = start("replay", "synthetic:duration=5", "--queue", url, "--loop", "--rate", "1", "--wait-for-consumer")
    assert consumer.stdout is not None
    assert "sequence" in consumer.stdout.readline()
    family = psutil.Process(producer.pid).children(recursive=True)
    producer.kill()
    producer.wait()
    assert not psutil.wait_procs(family, timeout=150)[1]  # Ray's agents notice only after a while


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("replay", "/no/such/drive"), 1, "/no/such/drive"),
        (("replay", "{empty}"), 1, "{empty}"),
        (("replay", "{empty}", "--format", "rosbag9"), 2, "nuscenes"),
        (("replay", "synthetic:duration=1", "--rate", "fast"), 2, "fast"),
        (("replay", "synthetic:duration=1", "--set", "sync.nonsense=1"), 2, "sync.nonsense"),
        (("replay", "synthetic:duration=1", "--queue", "carrier-pigeon:x"), 2, "zenoh"),
        (("replay", "synthetic:duration=1", "--model", "enormous", "--placement", "local"), 1, "tiny"),
        (("replay", "synthetic:duration=1", "--address", "127.0.0.1:1", "--placement", "local"), 2, "--address"),
        (("consume", "carrier-pigeon:x"), 2, "zenoh"),
        (("consume", "--from", "yesterday"), 2, "yesterday"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_wrong_use_gets_one_clear_line(
    start: Start, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    started = time.monotonic()
    returned, _, err = finish(start(*(argument.format(empty=tmp_path) for argument in arguments)))
    assert returned == code, err
    assert says.format(empty=tmp_path) in err
    assert "Traceback" not in err
    assert "raylet" not in err
    assert time.monotonic() - started < 120


def test_a_consumer_without_producer_gives_up_when_told(start: Start, url: str) -> None:
    code, out, err = finish(start("consume", url, "--timeout", "1"))
    assert code == 1
    assert not out
    assert "1" in err
    assert "Traceback" not in err


def test_inspect_and_doctor_speak_json(start: Start) -> None:
    code, out, err = finish(start("inspect", "synthetic:duration=1", "--json"))
    assert code == 0, err
    summary = json.loads(out)
    assert {sensor["modality"] for sensor in summary["sensors"]} == {"camera", "lidar", "radar"}
    assert summary["labelled_times"] == 2
    code, out, err = finish(start("doctor", "--json"))
    assert {"torch", "ray", "system libraries"} <= {finding["topic"] for finding in json.loads(out)}
    assert code == 0, out


def test_recording_a_replay_gives_a_drive_that_replays(start: Start, url: str, tmp_path: Path) -> None:
    folder = tmp_path / "recorded"
    code, _, err = finish(
        start("replay", "synthetic:duration=1", "--queue", url, "--placement", "local", "--record", str(folder),
              "--set", "queue.linger_s=0")
    )  # fmt: skip
    assert code == 0, err
    code, out, err = finish(start("inspect", str(folder), "--json"))
    assert code == 0, err
    assert len(json.loads(out)["sensors"]) == 12
