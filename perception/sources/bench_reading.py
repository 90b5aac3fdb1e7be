"""How fast recordings are read to our types, over the bare `mcap` reader and `rosbags` on the same file."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcap.reader import make_reader
from rosbags.rosbag2 import Reader

from perception.core.errors import DriveError
from perception.formats import mcap_drive as names
from perception.sources.mcap import McapSource
from perception.sources.nuscenes_bench import peak_mib
from perception.sources.rosbag import RosbagSource
from perception.sources.rosbag_types import typestore

OURS: Final = "perception"
SEEK_SHARE: Final = 0.9
_ASIDE: Final = frozenset({"/tf_static", "/tf"})
"""Topics of a bag that a drive takes its calibration from, before its messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """One reading of a file: messages handed out, seconds by the wall, seconds of this process on all cores."""

    messages: int
    wall_s: float
    cpu_s: float


def drive_reading_speed(path: Path, rounds: int) -> dict[str, Any]:
    """An MCAP drive as its source reads it, over `mcap`, which hands out the bytes of the same topics."""
    topics, content_bytes = _topics_of(path)

    def bare() -> Iterator[Any]:
        with path.open("rb") as file:
            yield from make_reader(file).iter_messages(topics=topics)

    source = McapSource(path)
    return _compare({"mcap": bare, OURS: source.messages}, rounds, content_bytes)


def bag_reading_speed(folder: Path, rounds: int) -> dict[str, Any]:
    """A ROS 2 bag in MCAP as its source reads it, over `mcap`, `rosbags`, and `rosbags` with its own decoding."""
    source = RosbagSource(folder)
    (path,) = folder.glob("*.mcap")
    with Reader(folder) as reader:
        topics = [
            found.topic
            for found in reader.connections
            if found.topic not in _ASIDE and "camera_info" not in found.topic
        ]
        content_bytes = sum(len(data) for found, _, data in reader.messages() if found.topic in topics)

    def bare() -> Iterator[Any]:
        with path.open("rb") as file:
            yield from make_reader(file).iter_messages(topics=topics)

    def rosbags() -> Iterator[Any]:
        with Reader(folder) as reader:
            yield from reader.messages([found for found in reader.connections if found.topic in topics])

    def decoded() -> Iterator[Any]:
        store = typestore(is_ros1=False)
        for connection, _, data in rosbags():
            yield store.deserialize_cdr(data, connection.msgtype)

    readers = {"mcap": bare, "rosbags": rosbags, "rosbags, decoded": decoded, OURS: source.messages}
    return _compare(readers, rounds, content_bytes)


def large_file_reading(path: Path) -> dict[str, Any]:
    """Read a large MCAP drive in a process of its own: time to open, to seek to 90 %, to read; memory at its peak.

    Raises DriveError where that process fails.
    """
    code = "import sys; from perception.sources.bench_reading import report_reading; report_reading(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.run(
        (sys.executable, "-c", code, str(path)), capture_output=True, text=True, env=environment, check=False
    )
    if child.returncode:
        raise DriveError(f"reading {path} failed: {child.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def report_reading(path: str) -> None:
    """Read a drive and print what it took as JSON; runs in the child process."""
    baseline_mib = peak_mib()
    begun = time.perf_counter()
    source = McapSource(path)
    span = source.span_ns
    assert span is not None, "the file was written with messages"
    opened = time.perf_counter()
    first = next(source.messages_from(span[0] + round(SEEK_SHARE * (span[1] - span[0]))))
    sought = time.perf_counter()
    count = sum(1 for _ in source.messages())
    read = time.perf_counter()
    figures = {
        "open_s": opened - begun,
        "seek_s": sought - opened,
        "sought_share": (first.arrival_ns - span[0]) / (span[1] - span[0]),
        "read_s": read - sought,
        "messages": count,
        "baseline_mib": baseline_mib,
        "peak_mib": peak_mib(),
    }
    print(json.dumps(figures))


def _topics_of(path: Path) -> tuple[list[str], int]:
    """Topics with what is not made for viewers alone, and the bytes of their messages."""
    with path.open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        if summary is None or summary.statistics is None:
            raise DriveError(f"{path}: it has no index; only a whole recording can be measured")
        kinds = {channel.topic: channel.metadata.get(names.KIND) for channel in summary.channels.values()}
        topics = [topic for topic, kind in kinds.items() if kind in names.MESSAGE_KINDS - {names.VIEW}]
        return topics, sum(len(message.data) for _, _, message in reader.iter_messages(topics=topics))


def _compare(readers: Mapping[str, Callable[[], Iterator[Any]]], rounds: int, content_bytes: int) -> dict[str, Any]:
    """Each reader once to warm up, then in turn; rates by the median lap, ratios by the median of the rounds' own."""
    laps: dict[str, list[Lap]] = {name: [] for name in readers}
    for number in range(rounds + 1):
        for name, read in readers.items():
            lap = _lap(read)
            if number:
                laps[name].append(lap)
    counts = {name: lap[0].messages for name, lap in laps.items()}
    if len(set(counts.values())) > 1:
        raise DriveError(f"the readers do not hand out the same messages: {counts}")
    figures: dict[str, Any] = {"messages": counts[OURS], "content_bytes": content_bytes, "rounds": rounds}
    for name, found in laps.items():
        wall_s = statistics.median(lap.wall_s for lap in found)
        figures[name] = {"messages_per_s": counts[OURS] / wall_s, "mb_per_s": content_bytes / 1e6 / wall_s}
    for name in readers:
        if name != OURS:
            pairs = list(zip(laps[name], laps[OURS], strict=True))
            figures[f"over {name}"] = statistics.median(other.wall_s / own.wall_s for other, own in pairs)
            figures[f"over {name}, CPU time"] = statistics.median(other.cpu_s / own.cpu_s for other, own in pairs)
    return figures


def _lap(read: Callable[[], Iterator[Any]]) -> Lap:
    wall, cpu = time.perf_counter(), time.process_time()
    count = sum(1 for _ in read())
    return Lap(messages=count, wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)
