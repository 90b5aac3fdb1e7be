"""MCAP drives that are cut short, damaged, foreign or made to do harm: a clear error, or what can be read."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from foxglove_schemas_protobuf.PointCloud_pb2 import PointCloud
from mcap.writer import Writer

from perception.core.errors import DriveError, PayloadError, PerceptionError
from perception.core.messages import LidarSweep, SweepMotion, Unreadable
from perception.formats.mcap_clouds import pack_sweep, read_sweep
from perception.formats.mcap_drive import DRIVE_RECORD, KIND, LIDAR, SENSOR, DriveRecord, pack_drive
from perception.sources.mcap import McapSource
from perception.sources.open import open_drive
from perception.sources.rosbag_blocks import MAX_BLOCK_BYTES
from perception.sources.synthetic import SyntheticSource
from tests.unit.small_mcap import record_drive

CHUNK = 0x06
Change = Callable[[bytearray, int, int], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "drive.mcap"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perception.recorders.mcap_files.CHUNK_BYTES", 100_000)
        record_drive(SyntheticSource(seed=1, duration_s=1.0), path)
    return path.read_bytes()


@pytest.fixture
def recorded(tmp_path: Path, whole: bytes) -> Path:
    path = tmp_path / "drive.mcap"
    path.write_bytes(whole)
    return path


def _chunks(data: bytes) -> list[tuple[int, int]]:
    """Position and length of the content of each chunk."""
    found, at = [], 8
    while at + 9 <= len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, at)
        if opcode == CHUNK:
            found.append((at + 9, length))
        at += 9 + length
    return found


@pytest.mark.parametrize("share", [0.4, 0.75, 0.97])
def test_a_file_that_was_cut_short_is_read_up_to_its_last_whole_chunk(recorded: Path, share: float) -> None:
    data = recorded.read_bytes()
    chunks = _chunks(data)
    length = round((chunks[-1][0] + chunks[-1][1]) * share)
    recorded.write_bytes(data[:length])
    source = open_drive(str(recorded))
    made = list(SyntheticSource(seed=1, duration_s=1.0).messages())
    read = list(source.messages())
    assert 0 < len(read) < len(made)
    assert [(m.sensor, m.arrival_ns) for m in read] == [(m.sensor, m.arrival_ns) for m in made[: len(read)]]
    (note,) = [note for note in source.notes if "cut short" in note]
    assert f"of its {length} bytes are left out" in note
    assert all(source.labels(time) is not None for time in source.label_times_ns)
    assert source.label_times_ns


@pytest.mark.parametrize("length", [0, 5, 8, 40, 2000])
def test_a_file_of_which_no_message_is_left_is_refused(recorded: Path, length: int) -> None:
    recorded.write_bytes(recorded.read_bytes()[:length])
    with pytest.raises(DriveError, match=r"drive\.mcap"):
        McapSource(recorded)


def _flip(data: bytearray, begin: int, length: int) -> None:
    data[begin + length // 2] ^= 0xFF


def _declare_terabytes(data: bytearray, begin: int, length: int) -> None:
    data[begin + 16 : begin + 24] = struct.pack("<Q", 2**40)


def _wrong_checksum(data: bytearray, begin: int, length: int) -> None:
    data[begin + 24 : begin + 28] = b"\x01\x02\x03\x04"


def _bomb(data: bytearray, begin: int, length: int) -> None:
    bomb = zstandard.compress(bytes(2**28))
    data[begin + 40 : begin + 40 + len(bomb)] = bomb


@pytest.mark.parametrize("change", [_flip, _declare_terabytes, _wrong_checksum, _bomb])
def test_a_damaged_chunk_is_unreadable_and_the_rest_goes_on(recorded: Path, change: Change) -> None:
    data = bytearray(recorded.read_bytes())
    begin, length = _chunks(bytes(data))[2]
    change(data, begin, length)
    recorded.write_bytes(bytes(data))
    tracemalloc.start()
    source = open_drive(str(recorded))
    messages = list(source.messages())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    bad = [message for message in messages if isinstance(message, Unreadable)]
    assert bad
    assert len(bad) < len(messages) / 2
    assert all("drive.mcap" in message.error for message in bad)
    arrivals = [message.arrival_ns for message in messages]
    assert arrivals == sorted(arrivals)
    assert peak < 2**26


def test_any_damage_is_an_error_of_ours_or_passed_over(recorded: Path) -> None:
    data = recorded.read_bytes()
    rng = np.random.default_rng(3)
    heads = rng.integers(0, 4000, 25).tolist()
    tails = (len(data) - rng.integers(1, 4000, 25)).tolist()
    anywhere = rng.integers(0, len(data), 10).tolist()
    for place in heads + tails + anywhere:
        noise = rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8).tobytes()
        recorded.write_bytes((data[:place] + noise + data[place + len(noise) :])[: len(data)])
        try:
            source = McapSource(recorded)
            for message in source.messages():
                assert message.arrival_ns >= message.capture_ns
            for time_ns in source.label_times_ns:
                source.labels(time_ns)
            assert source.span_ns is None or source.span_ns[0] <= source.span_ns[1]
        except PerceptionError:
            continue


def test_a_record_that_declares_too_much_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    head = b"\x89MCAP0\r\n" + struct.pack("<BQ", 1, 8) + bytes(8)
    with path.open("wb") as file:
        file.write(head + struct.pack("<BQ", 0x0C, 2**34))
        file.truncate(2**34 + 100)
    tracemalloc.start()
    with pytest.raises(DriveError, match=r"no metadata record|no message"):
        open_drive(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_BLOCK_BYTES / 16


def test_foreign_files_say_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "foreign.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(library="test")
        schema = writer.register_schema("foxglove.PointCloud", "protobuf", b"")
        channel = writer.register_channel("/points", "protobuf", schema)
        writer.add_message(channel, 1, PointCloud().SerializeToString(), 1)
        writer.finish()  # type: ignore[no-untyped-call]
    with pytest.raises(DriveError, match=r"'perception\.drive' in this file of foxglove\.PointCloud.*calibration"):
        open_drive(str(path))


def test_channels_that_do_not_fit_the_rig_are_left_out(tmp_path: Path) -> None:
    rig = SyntheticSource(seed=1, duration_s=0.3).rig
    sweep = next(m for m in SyntheticSource(seed=1, duration_s=0.3).messages() if isinstance(m, LidarSweep))
    path = tmp_path / "drive.mcap"
    record = DriveRecord(drive_id="a", rig=rig, recording="r", part=0)
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        writer.add_metadata(DRIVE_RECORD, pack_drive(record, {}))
        schema = writer.register_schema("foxglove.PointCloud", "protobuf", b"")
        for sensor in ("LIDAR_TOP", "CAM_FRONT", "nobody"):
            channel = writer.register_channel(f"/{sensor}", "protobuf", schema, {KIND: LIDAR, SENSOR: sensor})
            for data in (pack_sweep(sweep), b"\xff\xff", b""):
                writer.add_message(channel, sweep.arrival_ns, data, sweep.capture_ns)
        writer.finish()  # type: ignore[no-untyped-call]
    source = McapSource(path)
    assert sum("is left out" in note for note in source.notes) == 2
    kinds = [type(message).__name__ for message in source.messages()]
    assert kinds == ["LidarSweep", "Unreadable", "Unreadable"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "9"}, "version '9'; 1 is known"),
        ({"rig": "[]"}, "malformed"),
        ({"rig": "[1e999"}, "malformed"),
        ({"calibration_hash": "0" * 16}, "the file was changed"),
        ({"part": "first"}, "malformed"),
    ],
)
def test_a_drive_record_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    record = DriveRecord(drive_id="a", rig=SyntheticSource(seed=1, duration_s=0.3).rig, recording="r", part=0)
    path = tmp_path / "drive.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        writer.add_metadata(DRIVE_RECORD, {**pack_drive(record, {}), **change})
        writer.finish()  # type: ignore[no-untyped-call]
    with pytest.raises(DriveError, match=message):
        open_drive(str(path))


def test_clouds_of_a_wrong_shape_are_refused() -> None:
    cloud = PointCloud(point_stride=16, data=bytes(32))
    for change, message in (
        ({}, "no field x, y, z, intensity"),
        ({"point_stride": 0}, "rows of 0"),
        ({"point_stride": 2**32 - 1}, "rows of 4294967295"),
        ({"frame_id": "x" * 20_000}, "bytes besides its points"),
    ):
        changed = PointCloud()
        changed.CopyFrom(cloud)
        for name, value in change.items():
            setattr(changed, name, value)
        with pytest.raises(PayloadError, match=message):
            read_sweep(changed.SerializeToString(), "lidar", 0, SweepMotion.RAW)
    uneven = PointCloud(point_stride=16, data=bytes(33))
    for k, name in enumerate(("x", "y", "z", "intensity")):
        uneven.fields.add(name=name, offset=4 * k, type=7)
    with pytest.raises(PayloadError, match="do not come in rows of 16"):
        read_sweep(uneven.SerializeToString(), "lidar", 0, SweepMotion.RAW)
    for name in ("x", "y", "z", "intensity"):
        cloud.fields.add(name=name, offset=2**31, type=7)
    with pytest.raises(PayloadError, match="within 16 bytes"):
        read_sweep(cloud.SerializeToString(), "lidar", 0, SweepMotion.RAW)
