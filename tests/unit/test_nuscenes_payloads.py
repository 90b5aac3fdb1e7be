"""Sensor files that are broken become `Unreadable`, and the drive goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan, Unreadable
from perception.sources.nuscenes import NuScenesSource
from perception.sources.synthetic import SyntheticSource
from tests.unit.nuscenes_roots import record, rewrite, sensor_files, small_rig, table

CHANNELS = ("CAM_FRONT", "LIDAR_TOP", "RADAR_FRONT")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(SyntheticSource(duration_s=0.3, rig=small_rig()), tmp_path_factory.mktemp("drive"))


@pytest.fixture
def root(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "root"))


def _messages(root: Path, channel: str) -> list[AnyMessage]:
    return [message for message in NuScenesSource(root).messages() if message.sensor == channel]


def _damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize(
    "change", [lambda data: b"", lambda data: data[:401], lambda data: b"garbage"], ids=["empty", "cut", "foreign"]
)
def test_an_empty_cut_or_foreign_file_is_unreadable(root: Path, channel: str, change: Callable[[bytes], bytes]) -> None:
    path = sensor_files(root, channel)[1]
    _damage(path, change)
    first, second, *rest = _messages(root, channel)
    assert isinstance(second, Unreadable)
    assert path.name in second.error
    assert not any(isinstance(message, Unreadable) for message in (first, *rest))


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_missing_file_is_unreadable(root: Path, channel: str) -> None:
    whole = NuScenesSource(root)
    sensor_files(root, channel)[0].unlink()
    broken = list(whole.messages())
    lost = [message for message in broken if isinstance(message, Unreadable)]
    assert [message.sensor for message in lost] == [channel]
    assert "No such file" in lost[0].error
    assert (lost[0].capture_ns, lost[0].arrival_ns) in [(m.capture_ns, m.arrival_ns) for m in whole.messages()]


@pytest.mark.parametrize("filename", ["../../secret.jpg", "/etc/passwd", "samples/../../x.jpg"])
def test_a_table_cannot_name_files_outside_the_drive(root: Path, filename: str) -> None:
    rows = table(root, "sample_data")
    row = next(row for row in rows if "/CAM_FRONT/" in row["filename"])
    row["filename"] = filename
    rewrite(root, "sample_data", rows)
    lost = [message for message in NuScenesSource(root).messages() if isinstance(message, Unreadable)]
    assert len(lost) == 1
    assert "leads out of" in lost[0].error


def test_an_image_cut_before_its_end_marker_is_unreadable(root: Path) -> None:
    _damage(sensor_files(root, "CAM_FRONT")[0], lambda data: data[:-2])
    _damage(sensor_files(root, "CAM_FRONT")[1], lambda data: data + bytes(3000))
    first, second, *_ = _messages(root, "CAM_FRONT")
    assert isinstance(first, Unreadable)
    assert "cut short" in first.error
    assert isinstance(second, CameraFrame)


def test_an_image_of_another_size_than_its_table_says_is_unreadable(root: Path) -> None:
    small = cv2.imencode(".jpg", np.zeros((20, 30, 3), dtype=np.uint8))[1].tobytes()
    sensor_files(root, "CAM_FRONT")[0].write_bytes(small)
    first = _messages(root, "CAM_FRONT")[0]
    assert isinstance(first, Unreadable)
    assert "30x20" in first.error


def test_points_that_are_not_finite_are_left_out(root: Path) -> None:
    path = sensor_files(root, "LIDAR_TOP")[0]
    rows = np.fromfile(path, dtype="<f4").reshape(-1, 5)
    broken = rows.copy()
    broken[3, 0], broken[5, 2], broken[7, 3] = np.nan, np.inf, np.nan
    broken.tofile(path)
    sweep = _messages(root, "LIDAR_TOP")[0]
    assert isinstance(sweep, LidarSweep)
    assert np.array_equal(sweep.points_m, np.delete(rows[:, :3], [3, 5, 7], axis=0))
    np.full_like(rows, np.nan).tofile(path)
    assert isinstance(_messages(root, "LIDAR_TOP")[0], Unreadable)


def test_intensity_and_ring_beyond_their_range_are_clipped(root: Path) -> None:
    path = sensor_files(root, "LIDAR_TOP")[0]
    rows = np.fromfile(path, dtype="<f4").reshape(-1, 5)
    rows[0, 3:], rows[1, 3:] = (1e9, 1e9), (-5.0, -5.0)
    rows.tofile(path)
    sweep = _messages(root, "LIDAR_TOP")[0]
    assert isinstance(sweep, LidarSweep)
    assert sweep.ring is not None
    assert sweep.intensity[:2].tolist() == [1.0, 0.0]
    assert sweep.ring[:2].tolist() == [255, 0]


def test_a_scan_without_returns_is_a_message(root: Path) -> None:
    path = sensor_files(root, "RADAR_FRONT")[0]
    header = path.read_bytes().split(b"DATA binary\n")[0]
    count = header.split(b"POINTS ")[1].split()[0]
    path.write_bytes(header.replace(b"POINTS " + count, b"POINTS 0") + b"DATA binary\n")
    scan = _messages(root, "RADAR_FRONT")[0]
    assert isinstance(scan, RadarScan)
    assert len(scan.points_m) == 0
