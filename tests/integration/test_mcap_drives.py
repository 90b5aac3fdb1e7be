"""Drives as MCAP from end to end: recorded by the command line, killed, and real pieces."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perception.core.results import EndOfRun, PerceptionResult
from perception.queues.codec import decode
from perception.queues.open import subscribe
from perception.sources.mcap import McapSource
from perception.sources.open import open_drive
from perception.sources.synthetic import SyntheticSource
from tests.unit.small_mcap import assert_same, assert_same_drives, record_drive

Start = Callable[..., "subprocess.Popen[str]"]
REAL = ("aimotive-night", "pandaset-002", "nuscenes-mini-1kf", "kitti-object", "av2-7fab2350")

ENDLESS = """
import itertools, sys
from dataclasses import replace
from perception.recorders.mcap import McapRecorder
from perception.sources.synthetic import SyntheticSource

source = SyntheticSource(seed=1, duration_s=0.5)
messages = list(source.messages())
recorder = McapRecorder(sys.argv[1], source.rig, source.drive_id)
for lap in itertools.count():
    for message in messages:
        shift = lap * 1_000_000_000
        recorder.write(replace(message, capture_ns=message.capture_ns + shift, arrival_ns=message.arrival_ns + shift))
"""


def _run(start: Start, *arguments: str) -> Any:
    process = start(*arguments, "--placement", "local", "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return json.loads(out)


def _results(path: Path) -> list[PerceptionResult]:
    found = list(subscribe(f"mcap:{path}", timeout_s=20.0))
    assert isinstance(found[-1], EndOfRun)
    return [item for item in found if isinstance(item, PerceptionResult)]


@pytest.mark.ray
def test_a_recorded_replay_gives_the_results_of_the_replay_itself(start: Start, tmp_path: Path) -> None:
    first, second, recorded = tmp_path / "first.mcap", tmp_path / "second.mcap", tmp_path / "drive.mcap"
    drive = "synthetic:seed=1,duration=1"
    account = _run(start, "replay", drive, "--queue", f"mcap:{first}", "--record", str(recorded))
    again = _run(start, "replay", str(recorded), "--queue", f"mcap:{second}")
    assert (again["drive_id"], again["frames"]) == (account["drive_id"], account["frames"])
    for one, other in zip(_results(first), _results(second), strict=True):
        assert one.reference_ns == other.reference_ns
        assert_same(one.detections, other.detections)
        assert_same(one.path_hints, other.path_hints)
        assert_same(one.sensors, other.sensors)
    source = open_drive(str(recorded))
    assert isinstance(source, McapSource)
    assert_same_drives(SyntheticSource(seed=1, duration_s=1.0), source)
    *kept, end = [decode(payload) for payload in source.results()]
    assert isinstance(end, EndOfRun)
    assert end.count == len(kept)
    for published, item in zip(_results(first), kept, strict=True):
        assert isinstance(item, PerceptionResult)
        assert item.sequence == published.sequence
        assert_same(item.detections, published.detections)


def test_what_a_killed_recorder_leaves_is_read(tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)]) as process:
        deadline = time.monotonic() + 120
        while not path.exists() or path.stat().st_size < 3_000_000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    source = open_drive(str(path))
    assert any("drive.mcap: it " in note for note in source.notes)
    made = list(SyntheticSource(seed=1, duration_s=0.5).messages())
    read = list(source.messages())
    assert len(read) > len(made)
    for k, message in enumerate(read):
        given = made[k % len(made)]
        lap_ns = k // len(made) * 1_000_000_000
        assert (message.sensor, message.arrival_ns) == (given.sensor, given.arrival_ns + lap_ns)


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_drives_come_back_bit_by_bit(drive_data: Path, tmp_path: Path, name: str) -> None:
    source = open_drive(str(drive_data / name))
    record_drive(source, tmp_path / "drive.mcap")
    assert_same_drives(source, open_drive(str(tmp_path / "drive.mcap")))
