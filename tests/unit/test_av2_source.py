"""The Argoverse 2 reader on a small log that the test writes: sensors, times, frames, labels and bad input."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from perception.core.errors import DriveError, PayloadError
from perception.core.messages import CameraFrame, EgoState, LidarSweep, SweepMotion, Unreadable
from perception.sources.av2 import AXLE_M, BOXES, POSES, Argoverse2Source
from perception.sources.open import open_drive
from tests.unit.small_av2 import (
    CAMERA,
    CAR_SPEED_MPS,
    CAR_TRACK,
    LOG,
    PERIOD_NS,
    POINTS,
    SPEED_MPS,
    START_NS,
    SWEEPS,
    write_boxes,
    write_log,
    write_sweep,
    write_table,
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_log(tmp_path)


def test_the_log_and_its_split_are_found(log: Path) -> None:
    assert open_drive(str(log)).drive_id == open_drive(str(log.parent)).drive_id == f"av2/{LOG}"
    with pytest.raises(DriveError, match="no scene 'other'"):
        open_drive(str(log.parent), scene="other")


@pytest.mark.parametrize("compression", ["lz4", "zstd", "uncompressed"])
def test_a_sweep_is_compensated_and_stamped_at_its_begin(tmp_path: Path, compression: str) -> None:
    source = Argoverse2Source(write_log(tmp_path, compression=compression))
    sweeps = [message for message in source.messages() if isinstance(message, LidarSweep)]
    assert [sweep.capture_ns for sweep in sweeps] == [START_NS + k * PERIOD_NS for k in range(SWEEPS)]
    first = sweeps[0]
    assert first.motion is SweepMotion.COMPENSATED
    assert np.array_equal(first.points_m, POINTS.astype(np.float32))
    assert first.intensity.tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert first.point_offset_ns is not None
    assert first.point_offset_ns.tolist() == [2_654_000, 50_000_000, 100_000_000]
    assert first.ring is not None
    assert first.ring.tolist() == [0, 31, 63]
    assert first.arrival_ns >= first.capture_ns + 100_000_000
    assert source.rig["lidar"].ego_SE3_sensor[:3, 3].tolist() == [0.0, 0.0, AXLE_M]
    assert source.rig["lidar"].frequency_hz == pytest.approx(10.0)


def test_cameras_are_pinholes_in_the_ego_frame(log: Path) -> None:
    source = Argoverse2Source(log)
    sensor = source.rig[CAMERA]
    assert sensor.camera is not None
    # Images are undistorted already: k1 to k3 of the table must not be applied.
    assert (sensor.camera.projection, sensor.camera.width_px, sensor.camera.height_px) == ("pinhole", 64, 48)
    assert np.allclose(sensor.ego_SE3_sensor[:3, 3], (1.6, 0.0, 1.4 + AXLE_M))
    assert np.allclose(sensor.ego_SE3_sensor[:3, 2], (1.0, 0.0, 0.0), atol=1e-9)
    frames = [message for message in source.messages() if isinstance(message, CameraFrame)]
    assert [frame.capture_ns for frame in frames] == [START_NS + k * PERIOD_NS + 20_000_000 for k in range(SWEEPS)]


def test_poses_around_the_data_carry_the_motion(log: Path) -> None:
    states = [message for message in Argoverse2Source(log).messages() if isinstance(message, EgoState)]
    assert len(states) == 50
    state = next(state for state in states if state.capture_ns == START_NS + 100_000_000)
    assert state.world_SE3_ego is not None
    assert state.velocity_mps is not None
    assert state.world_SE3_ego[:3, 3].tolist() == pytest.approx([1.0, 5.0, -AXLE_M])
    assert state.velocity_mps.tolist() == pytest.approx([SPEED_MPS, 0.0])
    assert state.yaw_rate_radps == pytest.approx(0.0)


def test_labels_are_in_the_ego_frame_with_velocities_over_ground(log: Path) -> None:
    source = Argoverse2Source(log)
    assert source.label_times_ns == tuple(START_NS + k * PERIOD_NS for k in range(SWEEPS))
    labels = source.labels(START_NS)
    assert labels is not None
    assert labels.category == ("REGULAR_VEHICLE", "BICYCLIST")
    assert labels.class_index.tolist() == [0, -1]
    assert labels.center_m[0].tolist() == pytest.approx([20.0, 1.0, 0.5 + AXLE_M])
    assert labels.size_m[0].tolist() == [4.0, 2.0, 1.5]
    assert labels.yaw_rad[0] == pytest.approx(np.pi / 6)
    assert labels.velocity_mps[0].tolist() == pytest.approx([CAR_SPEED_MPS, 0.0])
    assert np.all(np.isnan(labels.velocity_mps[1]))
    assert labels.track_id[0] == CAR_TRACK
    assert labels.num_lidar_points.tolist() == [7, 7]
    assert source.labels(START_NS + 1) is None


def test_labels_without_a_sweep_are_told_and_left_out(log: Path) -> None:
    (log / "sensors" / "lidar" / f"{START_NS}.feather").unlink()
    source = Argoverse2Source(log)
    assert source.label_times_ns == (START_NS + PERIOD_NS, START_NS + 2 * PERIOD_NS)
    assert source.labels(START_NS) is None
    assert "2 of 3 labelled times have a sweep" in source.notes


def test_a_log_without_labels_or_images_is_read(log: Path) -> None:
    (log / BOXES).unlink()
    for path in (log / "sensors" / "cameras" / CAMERA).iterdir():
        path.unlink()
    source = Argoverse2Source(log)
    assert source.label_times_ns == ()
    assert [sensor.name for sensor in source.rig.sensors] == ["lidar"]
    assert "no camera images in this log" in source.notes


def test_broken_payloads_are_unreadable_and_the_rest_goes_on(log: Path) -> None:
    first = write_sweep(log, 0)
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    write_sweep(log, 1, leave_out="offset_ns")
    write_sweep(log, 2, late_ns=700_000_000)
    image = next((log / "sensors" / "cameras" / CAMERA).iterdir())
    image.write_bytes(image.read_bytes()[:-30])
    errors = [message.error for message in Argoverse2Source(log).messages() if isinstance(message, Unreadable)]
    assert len(errors) == 4
    for reason in ("no feather table", "column offset_ns is missing", "0.8 s from the time", "cut short"):
        assert any(reason in error for error in errors)


def test_points_that_are_not_finite_are_left_out(log: Path) -> None:
    points = POINTS.copy()
    points[1, 0] = np.inf
    write_sweep(log, 0, points=points)
    sweep = next(message for message in Argoverse2Source(log).messages() if isinstance(message, LidarSweep))
    assert len(sweep.points_m) == 2
    assert sweep.ring is not None
    assert sweep.ring.tolist() == [0, 63]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"timestamp_ns": [5, 5]}, "timestamp_ns rise"),
        ({"qw": [0.0, 1.0]}, "quaternion of length zero"),
        ({"tx_m": [float("nan"), 0.0]}, "not finite"),
        ({"tx_m": ["a", "b"]}, "column tx_m holds string"),
        ({"tx_m": [None, 0.0]}, "empty cells"),
    ],
)
def test_broken_poses_are_refused_by_name(log: Path, changes: dict[str, object], reason: str) -> None:
    columns: dict[str, object] = {name: [0.0, 0.0] for name in ("qx", "qy", "qz", "tx_m", "ty_m", "tz_m")}
    write_table(log / POSES, {"timestamp_ns": [5, 6], "qw": [1.0, 1.0], **columns, **changes})
    with pytest.raises(DriveError, match=reason) as caught:
        Argoverse2Source(log)
    assert POSES in str(caught.value)


def test_a_camera_without_calibration_is_named(log: Path) -> None:
    table = feather.read_table(log / "calibration" / "intrinsics.feather")
    renamed = table.set_column(0, "sensor_name", pa.array(["ring_front_left"]))
    feather.write_feather(renamed, log / "calibration" / "intrinsics.feather")
    with pytest.raises(DriveError, match=f"no calibration of camera {CAMERA}"):
        Argoverse2Source(log)


def test_broken_boxes_are_refused_when_they_are_asked_for(log: Path) -> None:
    write_boxes(log, length_m=-1.0)
    source = Argoverse2Source(log)
    with pytest.raises(PayloadError, match=r"annotations\.feather: a box is not finite or has no positive size"):
        source.labels(START_NS)


def test_a_folder_without_a_sensor_file_is_refused(log: Path) -> None:
    for path in [*(log / "sensors").rglob("*.feather"), *(log / "sensors").rglob("*.jpg")]:
        path.unlink()
    with pytest.raises(DriveError, match=r"no sensors/lidar/\*\.feather"):
        Argoverse2Source(log)
