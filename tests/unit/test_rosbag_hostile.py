"""Bags that are cut short, damaged or made to do harm: a clear error, or what can be read, in bounded memory."""

import bz2
import sqlite3
import struct
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import lz4.frame  # type: ignore[import-untyped]
import numpy as np
import pytest
import zstandard
from mcap.writer import CompressionType, Writer

from perception.core.errors import DriveError, PayloadError, PerceptionError
from perception.core.geometry import se3
from perception.core.messages import AnyMessage, LidarSweep, Unreadable
from perception.sources import rosbag_blocks
from perception.sources.open import open_drive
from perception.sources.rosbag import RosbagSource
from perception.sources.rosbag_blocks import Block, Damage, Entry, in_log_order, unpack
from perception.sources.rosbag_types import POINT_CLOUD, TRANSFORMS
from tests.unit.small_bag import KINDS, Logged, Ros, write_bag

START_NS = 1_700_000_000_000_000_000
COUNT = 12
POINTS = 8000


def _logged(kind: str) -> list[Logged]:
    ros = Ros(kind)
    links = {("base_link", "lidar"): se3(translation=(1.0, 0.0, 2.0))}
    logged = [Logged("/tf_static", TRANSFORMS, START_NS, ros.transforms(START_NS, links))]
    rng = np.random.default_rng(5)
    for k in range(COUNT):
        rows = np.zeros(POINTS, dtype=[("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
        for axis in "xyz":
            rows[axis] = rng.uniform(1, 50, POINTS)
        time_ns = START_NS + k * 100_000_000
        logged.append(Logged("/points", POINT_CLOUD, time_ns, ros.cloud(time_ns, "lidar", rows)))
    return logged


def _file(path: Path) -> Path:
    return path if path.is_file() else next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))


def _sweeps(messages: list[AnyMessage]) -> list[int]:
    return [(message.capture_ns - START_NS) // 100_000_000 for message in messages if isinstance(message, LidarSweep)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", ["", "packed"])
def test_of_a_bag_that_was_cut_short_the_whole_part_is_read(tmp_path: Path, kind: str, compression: str) -> None:
    names = {"ros1": "LZ4", "sqlite3": "zstd", "mcap": "zstd"}
    path = write_bag(tmp_path, kind, _logged(kind), compression=names[kind] if compression else "")
    file = _file(path)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 3 // 4])
    source = open_drive(str(path))
    read = _sweeps(list(source.messages()))
    assert read == list(range(len(read)))
    assert 3 <= len(read) < COUNT
    assert any("cut short" in note for note in source.notes)
    assert source.span_ns is not None
    assert source.span_ns[0] == START_NS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [0, 5, 40, 120])
def test_a_bag_of_which_nothing_is_left_is_refused(tmp_path: Path, kind: str, length: int) -> None:
    path = write_bag(tmp_path, kind, _logged(kind))
    _file(path).write_bytes(_file(path).read_bytes()[:length])
    with pytest.raises(DriveError, match=_file(path).name):
        RosbagSource(path)


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_is_an_error_of_ours_or_passed_over(tmp_path: Path, kind: str) -> None:
    """Bytes are overwritten at places all over the file; nothing but our own errors may come out, and no hang."""
    path = write_bag(tmp_path, kind, _logged(kind)[:5])
    data = _file(path).read_bytes()
    rng = np.random.default_rng(7)
    heads = [int(place) for place in rng.integers(0, 2500, 25)]
    tails = [len(data) - int(place) for place in rng.integers(1, 2500, 25)]
    anywhere = [int(place) for place in rng.integers(0, len(data), 10)]
    for place in heads + tails + anywhere:
        length = int(rng.integers(1, 9))
        noise = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        _file(path).write_bytes((data[:place] + noise + data[place + length :])[: len(data)])
        try:
            for message in RosbagSource(path).messages():
                assert message.arrival_ns >= message.capture_ns
        except PerceptionError:
            continue


def test_a_damaged_block_is_unreadable_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write_bag(tmp_path, "mcap", _logged("mcap"), compression="zstd")
    data = bytearray(_file(path).read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"\x28\xb5\x2f\xfd"]
    assert len(starts) >= 2
    data[starts[1] + 4 : starts[1] + 24] = bytes(20)
    _file(path).write_bytes(bytes(data))
    messages = list(RosbagSource(path).messages())
    (bad,) = [message for message in messages if isinstance(message, Unreadable)]
    assert bad.sensor == "points"
    assert path.name in bad.error
    assert 3 <= len(_sweeps(messages)) < COUNT


@pytest.mark.parametrize("compression", ["zstd", "lz4", "bz2"])
def test_a_bomb_is_not_unfolded(compression: str) -> None:
    data = {"zstd": zstandard.compress, "lz4": lz4.frame.compress, "bz2": bz2.compress}[compression](bytes(2**26))
    tracemalloc.start()
    with pytest.raises(PayloadError, match="holds more than the 1000 bytes declared"):
        unpack(compression, data, 1000)
    with pytest.raises(PayloadError, match="declares"):
        unpack(compression, data, 2**40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_blocks_that_overlap_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rosbag_blocks, "MAX_WAITING_BYTES", 10_000)
    blocks = [Block(position=k, start_ns=0, end_ns=100, channels=frozenset({1})) for k in range(100)]
    entries = [Entry(log_ns=50, channel=1, data=memoryview(bytes(1000)))]
    with pytest.raises(DriveError, match="overlap"):
        list(in_log_order(blocks, frozenset({1}), lambda _: entries))


def test_blocks_that_overlap_are_merged_and_others_not_loaded() -> None:
    entries = {0: [0, 30, 60], 1: [20, 50], 2: [70, 65]}
    blocks = [Block(position=k, start_ns=min(t), end_ns=max(t), channels=frozenset({1})) for k, t in entries.items()]
    blocks.append(Block(position=9, start_ns=0, end_ns=100, channels=frozenset({2})))

    def load(block: Block) -> list[Entry]:
        return [Entry(log_ns=time, channel=1, data=memoryview(b"")) for time in entries[block.position]]

    found = list(in_log_order(blocks, frozenset({1}), load))
    assert not any(isinstance(entry, Damage) for entry in found)
    assert [entry.log_ns for entry in found] == [0, 20, 30, 50, 60, 65, 70]


def test_a_chunk_of_ros1_that_declares_too_much_is_passed_over(tmp_path: Path) -> None:
    path = write_bag(tmp_path, "ros1", _logged("ros1"), compression="LZ4")
    data = path.read_bytes()
    # The second chunk's header says how large it is unpacked.
    place = data.index(b"size=", data.index(b"size=") + 1) + 5
    path.write_bytes(data[:place] + struct.pack("<I", 2**32 - 1) + data[place + 4 :])
    messages = list(RosbagSource(path).messages())
    (bad,) = [message for message in messages if isinstance(message, Unreadable)]
    assert "declares 4294967295 bytes" in bad.error
    assert _sweeps(messages)


def test_another_definition_of_a_type_is_refused_by_the_topic(tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    definition = b"std_msgs/Header header\nfloat64 height\n"
    _write_mcap(path, "sensor_msgs/msg/PointCloud2", definition, bytes(64))
    with pytest.raises(DriveError, match="/points: its sensor_msgs/msg/PointCloud2 has other fields"):
        RosbagSource(path)


def test_a_bag_of_unknown_types_says_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    _write_mcap(path, "my_msgs/msg/Thing", b"int32 a\n", bytes(64))
    with pytest.raises(DriveError, match="types of sensors are sensor_msgs/msg/CompressedImage"):
        RosbagSource(path)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("indexed", [True, False])
def test_mcap_files_of_other_writers(tmp_path: Path, chunked: bool, indexed: bool) -> None:
    """The writer of Foxglove, with and without chunks and indices, ROS 1 messages in it included."""
    ros, path = Ros("ros1"), tmp_path / "drive.mcap"
    kinds = CompressionType.LZ4 if chunked else CompressionType.NONE
    options: dict[str, Any] = {"use_chunking": chunked, "compression": kinds, "chunk_size": 300_000}
    if not indexed:
        options |= {"use_statistics": False, "use_summary_offsets": False, "repeat_channels": False}
        options |= {"repeat_schemas": False}
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start(profile="ros1", library="test")
        channels: dict[str, int] = {}
        for item in _logged("ros1"):
            if item.topic not in channels:
                text = ros.store.generate_msgdef(item.type_name, ros_version=1)[0].encode()
                schema = writer.register_schema(item.type_name.replace("/msg/", "/"), "ros1msg", text)
                channels[item.topic] = writer.register_channel(item.topic, "ros1", schema)
            data = bytes(ros.store.serialize_ros1(item.message, item.type_name))
            writer.add_message(channels[item.topic], item.log_ns, data, item.log_ns)
        writer.finish()  # type: ignore[no-untyped-call]
    source = open_drive(str(path))
    assert _sweeps(list(source.messages())) == list(range(COUNT))


def test_a_broken_message_is_unreadable(tmp_path: Path) -> None:
    path = write_bag(tmp_path, "sqlite3", _logged("sqlite3"))
    with closing(sqlite3.connect(_file(path))) as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 60) WHERE id = 9")
        database.execute("UPDATE messages SET data = 'text' WHERE id = 10")
        database.commit()
    messages = list(RosbagSource(path).messages())
    errors = [message.error for message in messages if isinstance(message, Unreadable)]
    assert len(errors) == 2
    assert "no valid sensor_msgs/msg/PointCloud2" in errors[0]
    assert len(_sweeps(messages)) == COUNT - 2


def test_a_folder_whose_files_are_packed_says_how_to_unpack_them(tmp_path: Path) -> None:
    (tmp_path / "drive_0.db3.zstd").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(DriveError, match="zstd -d"):
        RosbagSource(tmp_path)


def test_several_files_of_one_bag_follow_each_other(tmp_path: Path) -> None:
    logged = _logged("mcap")
    folder = tmp_path / "split"
    folder.mkdir()
    for number, part in enumerate((logged[:6], logged[6:])):
        (tmp_path / str(number)).mkdir()
        made = _file(write_bag(tmp_path / str(number), "mcap", part))
        made.rename(folder / f"split_{1 - number}.mcap")
    source = open_drive(str(folder))
    assert _sweeps(list(source.messages())) == list(range(COUNT))
    assert source.span_ns == (START_NS, START_NS + (COUNT - 1) * 100_000_000)


def test_of_several_bags_of_ros1_one_is_chosen(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_bag(tmp_path / name, "ros1", _logged("ros1")[:3]).rename(tmp_path / f"{name}.bag")
    assert open_drive(str(tmp_path)).drive_id == "rosbag/a"
    assert open_drive(str(tmp_path), scene="b.bag").drive_id == "rosbag/b"
    with pytest.raises(DriveError, match=r"no scene 'c'; it has a\.bag, b\.bag"):
        open_drive(str(tmp_path), scene="c")


def _write_mcap(path: Path, type_name: str, definition: bytes, data: bytes) -> None:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2", library="test")
        schema = writer.register_schema(type_name, "ros2msg", definition)
        channel = writer.register_channel("/points", "cdr", schema)
        writer.add_message(channel, START_NS, data, START_NS)
        writer.finish()  # type: ignore[no-untyped-call]
