"""What the nuScenes recorder refuses, computes itself, and leaves behind when it is cut off."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from perception.core.cameras import CameraModel, Projection
from perception.core.errors import DriveError
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, SweepMotion, Unreadable
from perception.core.rig import SensorRig
from perception.recorders.nuscenes import FLUSH_KEYFRAMES, NuScenesRecorder
from perception.recorders.nuscenes_map import DrivableMask
from perception.sources.nuscenes import NuScenesSource
from perception.sources.synthetic import SyntheticSource
from tests.unit.nuscenes_roots import VERSION, record, sensor_files, small_rig, table


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(duration_s=1.1, rig=small_rig())


@pytest.fixture(scope="module")
def drive(source: SyntheticSource) -> list[AnyMessage]:
    return list(source.messages())


@pytest.fixture
def lidar_rig() -> SensorRig:
    return SensorRig(sensors=(small_rig()["LIDAR_TOP"],))


def _sweep(time_ns: int, **changes: Any) -> LidarSweep:
    fields: dict[str, Any] = {
        "sensor": "LIDAR_TOP",
        "capture_ns": time_ns,
        "arrival_ns": time_ns,
        "points_m": np.ones((4, 3), dtype=np.float32),
        "intensity": np.zeros(4, dtype=np.float32),
        "motion": SweepMotion.COMPENSATED,
    }
    return LidarSweep(**(fields | changes))


def _ego(time_ns: int) -> EgoState:
    return EgoState(capture_ns=time_ns, arrival_ns=time_ns, world_SE3_ego=np.eye(4))


def test_a_folder_that_was_recorded_to_is_refused(source: SyntheticSource, tmp_path: Path) -> None:
    record(source, tmp_path)
    with pytest.raises(DriveError, match="exists already; record to another folder"):
        NuScenesRecorder(tmp_path, source.rig, source.drive_id)


def test_a_camera_that_is_no_pinhole_is_refused(tmp_path: Path) -> None:
    camera = CameraModel(
        width_px=10, height_px=10, intrinsic=np.eye(3), projection=Projection.BROWN, distortion=np.zeros(4)
    )
    rig = SensorRig(sensors=(replace(small_rig()["CAM_FRONT"], camera=camera),))
    with pytest.raises(DriveError, match=r"CAM_FRONT: nuScenes stores pinhole cameras only, not brown; record to a"):
        NuScenesRecorder(tmp_path, rig, "drive")


def test_a_sensor_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    rig = SensorRig(sensors=(replace(small_rig()["LIDAR_TOP"], name="../lidar"),))
    with pytest.raises(DriveError, match="becomes a folder's"):
        NuScenesRecorder(tmp_path, rig, "drive")


def test_a_raw_sweep_needs_the_callers_compensation(lidar_rig: SensorRig, tmp_path: Path) -> None:
    raw = _sweep(0, motion=SweepMotion.RAW, point_offset_ns=np.zeros(4, dtype=np.int32))
    with pytest.raises(DriveError, match=r"LIDAR_TOP: a raw sweep .*pass `compensate`"):
        NuScenesRecorder(tmp_path / "a", lidar_rig, "drive").write(raw)

    def compensate(sweep: LidarSweep) -> LidarSweep:
        return _sweep(sweep.capture_ns, points_m=sweep.points_m + np.float32(1.0))

    recorder = NuScenesRecorder(tmp_path / "b", lidar_rig, "drive", compensate=compensate)
    recorder.write(_ego(0))
    recorder.write(raw)
    recorder.close()
    sweep = next(m for m in NuScenesSource(tmp_path / "b").messages() if isinstance(m, LidarSweep))
    assert np.all(sweep.points_m == 2.0)


def test_a_drive_without_poses_is_refused_within_a_second(lidar_rig: SensorRig, tmp_path: Path) -> None:
    recorder = NuScenesRecorder(tmp_path, lidar_rig, "drive")
    for step in range(21):
        recorder.write(_sweep(step * 50_000_000))
    with pytest.raises(DriveError, match="no ego poses"):
        recorder.write(_sweep(21 * 50_000_000))


def test_a_sensor_outside_the_rig_is_refused(lidar_rig: SensorRig, tmp_path: Path) -> None:
    recorder = NuScenesRecorder(tmp_path, lidar_rig, "drive")
    with pytest.raises(DriveError, match="OTHER: not a sensor of the rig"):
        recorder.write(_sweep(0, sensor="OTHER"))


def test_nothing_written_leaves_no_tables(lidar_rig: SensorRig, tmp_path: Path) -> None:
    recorder = NuScenesRecorder(tmp_path, lidar_rig, "drive")
    recorder.write(Unreadable(sensor="LIDAR_TOP", capture_ns=0, arrival_ns=0, error="broken"))
    recorder.close()
    recorder.close()
    assert not (tmp_path / VERSION).exists()


def test_the_map_begins_at_the_origin_and_poses_are_shifted_with_it(lidar_rig: SensorRig, tmp_path: Path) -> None:
    is_drivable = np.zeros((40, 60), dtype=np.bool_)
    is_drivable[5, 10] = True
    mask = DrivableMask(is_drivable=is_drivable, corner_m=np.array([-3.0, 100.0]))
    recorder = NuScenesRecorder(tmp_path, lidar_rig, "drive", drivable=mask)
    recorder.write(_ego(0))
    recorder.write(_sweep(0))
    recorder.close()
    assert table(tmp_path, "ego_pose")[0]["translation"] == [3.0, -100.0, 0.0]
    image = cv2.imread(str(tmp_path / table(tmp_path, "map")[0]["filename"]), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert image.shape == (40, 60)
    # The devkit looks up y upwards from the bottom row.
    assert np.argwhere(image == 255).tolist() == [[40 - 1 - 5, 10]]


def test_range_rates_over_ground_are_computed_where_the_sensor_has_none(
    source: SyntheticSource, drive: list[AnyMessage], tmp_path: Path
) -> None:
    recorder = NuScenesRecorder(tmp_path, source.rig, source.drive_id)
    # Poses around each scan are known only once they have come.
    for message in sorted(drive, key=lambda message: not isinstance(message, EgoState)):
        recorder.write(replace(message, compensated_mps=None) if isinstance(message, RadarScan) else message)
    recorder.close()
    made = [m for m in drive if isinstance(m, RadarScan)]
    read = [m for m in NuScenesSource(tmp_path).messages() if isinstance(m, RadarScan)]
    assert len(made) == len(read) > 10
    for truth, found in zip(made, read, strict=True):
        assert truth.compensated_mps is not None
        assert found.compensated_mps is not None
        valid = truth.is_valid
        assert np.allclose(found.compensated_mps[valid], truth.compensated_mps[valid], atol=0.01)


def test_without_labels_every_half_second_has_a_keyframe(
    source: SyntheticSource, drive: list[AnyMessage], tmp_path: Path
) -> None:
    recorder = NuScenesRecorder(tmp_path, source.rig, source.drive_id)
    for message in drive:
        recorder.write(message)
    recorder.close()
    times = [row["timestamp"] for row in table(tmp_path, "sample")]
    assert np.diff(times).tolist() == [500_000, 500_000]
    assert NuScenesSource(tmp_path).label_times_ns == ()


def test_without_lidar_messages_the_camera_makes_the_keyframes(source: SyntheticSource, tmp_path: Path) -> None:
    record(source, tmp_path, keep=lambda message: message.sensor != "LIDAR_TOP")
    assert [row["timestamp"] for row in table(tmp_path, "sample")] == [
        int(path.stem.split("__")[2]) for path in sensor_files(tmp_path, "CAM_FRONT")[::6]
    ]


def test_a_second_message_of_the_same_time_is_not_written(lidar_rig: SensorRig, tmp_path: Path) -> None:
    recorder = NuScenesRecorder(tmp_path, lidar_rig, "drive")
    recorder.write(_ego(0))
    recorder.write(_sweep(0))
    recorder.write(_sweep(0, points_m=np.zeros((4, 3), dtype=np.float32)))
    recorder.close()
    sweeps = [m for m in NuScenesSource(tmp_path).messages() if isinstance(m, LidarSweep)]
    assert len(sweeps) == 1
    assert np.all(sweeps[0].points_m == 1.0)


def test_an_image_is_stored_under_its_own_format(source: SyntheticSource, tmp_path: Path) -> None:
    recorder = NuScenesRecorder(tmp_path, source.rig, "drive")
    png = b"\x89PNG\r\n\x1a\n" + bytes(50) + b"IEND\xaeB`\x82"
    recorder.write(_ego(0))
    recorder.write(CameraFrame(sensor="CAM_FRONT", capture_ns=0, arrival_ns=0, data=png))
    recorder.close()
    assert [path.suffix for path in sensor_files(tmp_path, "CAM_FRONT")] == [".png"]
    assert table(tmp_path, "sample_data")[0]["fileformat"] == "png"


def _feed(recorder: NuScenesRecorder, first: int, last: int) -> None:
    """Sweeps every 50 ms; unlabelled, so that every tenth is a keyframe."""
    for step in range(first, last):
        recorder.write(_ego(step * 50_000_000))
        recorder.write(_sweep(step * 50_000_000))


def test_a_drive_cut_off_keeps_what_the_last_flush_wrote(lidar_rig: SensorRig, tmp_path: Path) -> None:
    recorder = NuScenesRecorder(tmp_path, lidar_rig, "drive")
    _feed(recorder, 0, 10 * (FLUSH_KEYFRAMES + 3))
    source = NuScenesSource(tmp_path)
    sweeps = [m for m in source.messages() if m.sensor == "LIDAR_TOP"]
    assert all(isinstance(sweep, LidarSweep) for sweep in sweeps)
    assert len(table(tmp_path, "sample")) >= FLUSH_KEYFRAMES
    assert len(sweeps) >= 10 * (FLUSH_KEYFRAMES - 1) + 1
    _feed(recorder, 10 * (FLUSH_KEYFRAMES + 3), 10 * (FLUSH_KEYFRAMES + 5))
    recorder.close()
    assert len([m for m in NuScenesSource(tmp_path).messages() if m.sensor == "LIDAR_TOP"]) == 10 * (
        FLUSH_KEYFRAMES + 5
    )


def test_a_full_disk_leaves_the_tables_of_the_last_flush(
    lidar_rig: SensorRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = NuScenesRecorder(tmp_path, lidar_rig, "drive")
    _feed(recorder, 0, 10 * (FLUSH_KEYFRAMES + 3))
    before = {path.name: path.read_bytes() for path in (tmp_path / VERSION).iterdir()}
    room = [20_000]

    def write_bytes(path: Path, data: bytes) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            path.open("wb").close()
            raise OSError(errno.ENOSPC, "No space left on device")
        with path.open("wb") as file:
            return file.write(data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(DriveError, match="No space left on device"):
        _feed(recorder, 10 * (FLUSH_KEYFRAMES + 3), 1000)
    with pytest.raises(DriveError, match="tables cannot be written"):
        recorder.close()
    assert {path.name: path.read_bytes() for path in (tmp_path / VERSION).iterdir()} == before
    assert not list(tmp_path.rglob("*.tmp"))
    assert all(isinstance(m, EgoState | LidarSweep) for m in NuScenesSource(tmp_path).messages())


def test_tokens_depend_on_the_drive_alone(source: SyntheticSource, tmp_path: Path) -> None:
    record(source, tmp_path / "a")
    record(source, tmp_path / "b")
    for path in (tmp_path / "a" / VERSION).iterdir():
        assert path.read_bytes() == (tmp_path / "b" / VERSION / path.name).read_bytes()
    tokens = [
        row["token"] for name in ("sample", "sample_data", "sample_annotation") for row in table(tmp_path / "a", name)
    ]
    assert len(set(tokens)) == len(tokens)
