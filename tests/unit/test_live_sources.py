"""Sources that are live: a recording that is being written, and sensors that publish."""

import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.opcode import Opcode

from perception.core.errors import DriveError, PayloadError, UsageError
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, Unreadable
from perception.core.ports import LiveSource, Source
from perception.formats.sensor_wire import Head, pack_message, pack_part, read_message, read_part
from perception.queues.memory import MemoryQueue
from perception.queues.sensor_stream import SensorStream, SensorStreamSource, _settings
from perception.recorders.mcap import McapRecorder
from perception.recorders.mcap_files import Rotation
from perception.sources.mcap_chunks import MAGIC, RECORD_HEAD
from perception.sources.mcap_tail import McapTail
from perception.sources.synthetic import SyntheticSource
from tests.unit.service_parts import PATIENCE_S, until


@pytest.fixture(scope="module")
def drive() -> SyntheticSource:
    return SyntheticSource(duration_s=0.6)


@pytest.fixture(scope="module")
def messages(drive: SyntheticSource) -> list[AnyMessage]:
    return list(drive.messages())


def assert_equal(found: Sequence[AnyMessage], wanted: Sequence[AnyMessage]) -> None:
    assert [type(message) for message in found] == [type(message) for message in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert (one.sensor, one.capture_ns, one.arrival_ns) == (other.sensor, other.capture_ns, other.arrival_ns)
        if isinstance(one, CameraFrame) and isinstance(other, CameraFrame):
            assert bytes(one.data) == bytes(other.data)
        for name in ("points_m", "point_offset_ns", "velocity_mps", "world_SE3_ego", "rcs_dbsm"):
            if isinstance(getattr(other, name, None), np.ndarray):
                assert np.array_equal(getattr(one, name), getattr(other, name))


class Listening:
    """Reads a live source in a thread."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.found: list[AnyMessage] = []
        self.problem: Exception | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for message in self.source.messages():
                self.found.append(message)
        except Exception as error:
            self.problem = error

    def join(self) -> list[AnyMessage]:
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        return self.found


def record_of(path: Path, drive: Source, messages: Sequence[AnyMessage], **settings: Any) -> list[Path]:
    recorder = McapRecorder(path, drive.rig, drive.drive_id, **settings)
    for message in messages:
        recorder.write(message)
    recorder.close()
    return list(recorder.files)


def boundaries(data: bytes) -> list[int]:
    """Where the records of an MCAP file end, up to the end of its data."""
    places, position = [len(MAGIC)], len(MAGIC)
    while True:
        opcode, length = RECORD_HEAD.unpack_from(data, position)
        if opcode == Opcode.DATA_END:
            return places
        position += RECORD_HEAD.size + length
        places.append(position)


class Growing:
    """A file that grows as a recorder writes it."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self._data, self._size = path, data, 0

    def grow(self, to: int) -> None:
        with self.path.open("ab") as file:
            file.write(self._data[self._size : to])
        self._size = to


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception.recorders.mcap_files.CHUNK_BYTES", 100_000)


def test_a_recording_is_followed_while_it_is_written(
    tmp_path: Path, drive: SyntheticSource, messages: list[AnyMessage], small_chunks: None
) -> None:
    (whole,) = record_of(tmp_path / "whole.mcap", drive, messages)
    data = whole.read_bytes()
    ends = boundaries(data)
    assert len(ends) > 10
    growing = Growing(tmp_path / "growing.mcap", data)
    growing.grow(ends[4])
    source = McapTail(growing.path, from_start=True)
    assert isinstance(source, LiveSource)
    listening = Listening(source)
    for end in ends[5:]:
        growing.grow(end - 3)  # a record that is not whole yet
        growing.grow(end)
    until(lambda: len(listening.found) == len(messages))
    assert listening.thread.is_alive(), "the recording has not ended"
    growing.grow(len(data))
    assert_equal(listening.join(), messages)
    assert (source.drive_id, source.rig.calibration_hash()) == (drive.drive_id, drive.rig.calibration_hash())


def test_what_was_there_before_is_passed_over(
    tmp_path: Path, drive: SyntheticSource, messages: list[AnyMessage], small_chunks: None
) -> None:
    (whole,) = record_of(tmp_path / "whole.mcap", drive, messages)
    data = whole.read_bytes()
    ends = boundaries(data)
    growing = Growing(tmp_path / "growing.mcap", data)
    growing.grow(ends[len(ends) // 2])
    source = McapTail(growing.path)
    listening = Listening(source)
    until(lambda: listening.thread.is_alive())
    following = threading.Event()
    while not following.wait(0.01) and not listening.found:
        growing.grow(min(len(data), growing._size + 50_000))
    growing.grow(len(data))
    found = listening.join()
    assert 0 < len(found) < len(messages)
    assert_equal(found, messages[-len(found) :])


def test_a_recording_that_rotates_is_gone_on_with(
    tmp_path: Path, drive: SyntheticSource, messages: list[AnyMessage]
) -> None:
    files = record_of(tmp_path / "drive.mcap", drive, messages, rotation=Rotation(max_ns=200_000_000))
    assert len(files) > 2
    later = [(file, file.read_bytes()) for file in files[1:]]
    for file, _ in later:
        file.unlink()
    listening = Listening(McapTail(files[0], from_start=True))
    for file, data in later:
        file.write_bytes(data)
    assert_equal(listening.join(), messages)


def test_a_wait_for_more_can_be_interrupted(
    tmp_path: Path, drive: SyntheticSource, messages: list[AnyMessage], small_chunks: None
) -> None:
    (whole,) = record_of(tmp_path / "whole.mcap", drive, messages)
    data = whole.read_bytes()
    path = tmp_path / "cut.mcap"
    path.write_bytes(data[: boundaries(data)[6]])
    source = McapTail(path)
    listening = Listening(source)
    source.interrupt()
    assert listening.join() == []
    assert listening.problem is None


def test_files_that_cannot_be_followed_say_why(
    tmp_path: Path, drive: SyntheticSource, messages: list[AnyMessage], small_chunks: None
) -> None:
    with pytest.raises(DriveError, match="no drive that is being recorded here"):
        McapTail(tmp_path / "missing.mcap")
    (whole,) = record_of(tmp_path / "whole.mcap", drive, messages)
    with pytest.raises(DriveError, match="has ended; play it as a drive"):
        McapTail(whole)
    data = whole.read_bytes()
    path = tmp_path / "shrinks.mcap"
    path.write_bytes(data[: boundaries(data)[8]])
    listening = Listening(McapTail(path, from_start=True))
    until(lambda: bool(listening.found))
    path.write_bytes(data[:50])
    listening.join()
    assert isinstance(listening.problem, DriveError)


def test_every_kind_of_message_survives_the_wire(drive: SyntheticSource, messages: list[AnyMessage]) -> None:
    seen = {type(message) for message in messages}
    assert {CameraFrame, LidarSweep, RadarScan, EgoState} <= seen
    camera = next(message for message in messages if isinstance(message, CameraFrame))
    sensor = drive.rig[camera.sensor]
    viewed = CameraFrame(
        sensor=camera.sensor, capture_ns=camera.capture_ns, arrival_ns=camera.arrival_ns, data=camera.data,
        calibration=sensor.camera, ego_SE3_sensor=sensor.ego_SE3_sensor,
    )  # fmt: skip
    lost = Unreadable(sensor="LIDAR_TOP", capture_ns=5, arrival_ns=6, error="cut short")
    sent = [*messages, viewed, lost]
    found = [read_message(*read_part(pack_message(message, 0)), now_ns=0) for message in sent]
    assert_equal(found, sent)
    last_image = found[-2]
    assert isinstance(last_image, CameraFrame)
    assert last_image.calibration is not None
    assert last_image.ego_SE3_sensor is not None
    assert np.array_equal(last_image.ego_SE3_sensor, sensor.ego_SE3_sensor)


def test_messages_without_an_arrival_arrive_when_they_are_received() -> None:
    part = pack_message(CameraFrame(sensor="CAM", capture_ns=3, arrival_ns=3, data=b"jpeg"), 0)
    head, body = read_part(part)
    unstamped = Head(kind=head.kind, number=0, sensor="CAM", capture_ns=3)
    assert read_message(unstamped, body, now_ns=9).arrival_ns == 9


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(PayloadError):
        read_message(*read_part(data), now_ns=1)


def connected(url: str, drive: Source) -> tuple[SensorStream, SensorStreamSource]:
    """A stream and its reader, whose first message it was told already."""
    stream = SensorStream(url, drive.rig, drive.drive_id)
    opened: list[SensorStreamSource] = []
    opening = threading.Thread(target=lambda: opened.append(SensorStreamSource(url, wait_s=PATIENCE_S)))
    opening.start()
    while opening.is_alive():
        stream._said_at_s = float("-inf")
        stream.write(
            EgoState(
                sensor="ego", capture_ns=0, arrival_ns=0, world_SE3_ego=None, velocity_mps=None, yaw_rate_radps=None
            )
        )
        opening.join(0.05)
    return stream, opened[0]


@pytest.mark.parametrize("url", ["memory:test-live-sources", "zenoh:test/live/sources"])
def test_sensors_that_publish_are_a_live_source(url: str, drive: SyntheticSource, messages: list[AnyMessage]) -> None:
    stream, source = connected(url, drive)
    with closing(source):
        assert isinstance(source, LiveSource)
        assert (source.drive_id, source.rig.calibration_hash()) == (drive.drive_id, drive.rig.calibration_hash())
        listening = Listening(source)
        for message in messages:
            stream.write(message)
        stream.close()
        found = [message for message in listening.join() if message.arrival_ns >= messages[0].arrival_ns]
        assert listening.problem is None
        recent = [message for message in found if message.capture_ns]
        assert_equal(recent, messages)
        assert source.lost == 0


def test_a_reader_that_falls_behind_counts_what_it_lost(drive: SyntheticSource) -> None:
    stream, source = connected("memory:test-lost", drive)
    with closing(source):
        state = EgoState(
            sensor="ego", capture_ns=1, arrival_ns=1, world_SE3_ego=None, velocity_mps=None, yaw_rate_radps=None
        )
        listened = iter(source.messages())
        next(listened)
        for _ in range(1000):
            stream.write(state)
        stream.close()
        got = len(list(listened))
        assert source.lost > 0
        assert got + source.lost >= 1000


def test_nobody_who_publishes_is_a_clear_error() -> None:
    with pytest.raises(DriveError, match=r"nobody published sensor messages within 0\.1 s"):
        SensorStreamSource("memory:test-nobody", wait_s=0.1)
    with pytest.raises(UsageError, match="carries no sensor messages"):
        SensorStreamSource("redis://localhost/x")


def test_another_publisher_ends_the_messages(drive: SyntheticSource) -> None:
    stream, source = connected("memory:test-takeover", drive)
    with closing(source):
        other = SensorStream("memory:test-takeover", drive.rig, "another drive")
        other.write(
            EgoState(
                sensor="ego", capture_ns=1, arrival_ns=1, world_SE3_ego=None, velocity_mps=None, yaw_rate_radps=None
            )
        )
        with pytest.raises(DriveError, match="another publisher took over"):
            list(source.messages())
        other.close()
        stream.close()


def test_what_is_no_stream_is_a_clear_error() -> None:
    queue = MemoryQueue("test-no-stream", _settings(None))
    problem: list[Exception] = []

    def read() -> None:
        try:
            SensorStreamSource("memory:test-no-stream", wait_s=PATIENCE_S)
        except DriveError as error:
            problem.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    while reading.is_alive():
        queue.send(pack_part(Head(kind="drive", number=0), b"{}"))
        reading.join(0.02)
    assert "no version" in str(problem[0]) or "version" in str(problem[0])
    queue.close()
