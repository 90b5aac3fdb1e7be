"""The KITTI raw reader on a small drive that the test writes: times, poses, calibration, tracklets and bad input."""

from pathlib import Path

import numpy as np
import pytest

from perception.core.errors import DriveError, PayloadError
from perception.core.messages import CameraFrame, EgoState, LidarSweep, SweepMotion, Unreadable
from perception.sources.kitti_raw import LIDAR, KittiRawSource
from perception.sources.kitti_raw_files import read_timestamps
from perception.sources.open import open_drive
from tests.unit.small_kitti_raw import (
    BASELINE_M,
    CAR_AT_M,
    DRIVE,
    FIRST_NS,
    FRAMES,
    IMU_IN_VELODYNE_M,
    POINTS,
    SPEED_MPS,
    oxts,
    stamp,
    tracklets,
    write_calibration,
    write_drive,
)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_drive(tmp_path)


def _states(drive: Path) -> list[EgoState]:
    return [message for message in KittiRawSource(drive).messages() if isinstance(message, EgoState)]


def test_a_drive_is_found_in_its_day_and_in_the_data_set(drive: Path) -> None:
    for path in (drive, drive.parent, drive.parent.parent):
        assert open_drive(str(path)).drive_id == f"kitti_raw/{DRIVE}"


def test_messages_have_the_times_of_their_sensors(drive: Path) -> None:
    messages = list(KittiRawSource(drive).messages())
    sweeps = [message for message in messages if isinstance(message, LidarSweep)]
    frames = [message for message in messages if isinstance(message, CameraFrame) and message.sensor == "image_02"]
    assert [sweep.capture_ns for sweep in sweeps] == [FIRST_NS + k * 100_000_000 for k in range(FRAMES)]
    assert [frame.capture_ns for frame in frames] == [FIRST_NS + k * 100_000_000 + 10_000_000 for k in range(FRAMES)]
    # A sweep arrives after its end, of which there is a file of times.
    assert all(sweep.arrival_ns >= sweep.capture_ns + 48_000_000 for sweep in sweeps)
    assert np.array_equal(sweeps[0].points_m, POINTS[:, :3])
    assert sweeps[0].motion is SweepMotion.RAW
    assert sweeps[0].point_offset_ns is None


def test_the_rig_hangs_together(drive: Path) -> None:
    source = KittiRawSource(drive)
    assert [sensor.name for sensor in source.rig.sensors] == [LIDAR, "image_02", "image_03"]
    left, right = source.rig["image_02"], source.rig["image_03"]
    assert np.allclose(left.ego_SE3_sensor[:3, 3], (0.76 + 0.3, BASELINE_M, 1.73), atol=1e-9)
    assert np.allclose(right.ego_SE3_sensor[:3, 3], (0.76 + 0.3, BASELINE_M - 0.54, 1.73), atol=1e-9)
    assert np.allclose(left.ego_SE3_sensor[:3, 2], (1, 0, 0), atol=1e-9)
    assert left.camera is not None
    assert (left.camera.width_px, left.camera.height_px, left.camera.intrinsic[0, 0]) == (64, 48, 40.0)
    assert left.frequency_hz == pytest.approx(10.0)


def test_poses_are_metres_east_and_north_of_the_first(drive: Path) -> None:
    states = _states(drive)
    places = np.array([state.world_SE3_ego[:3, 3] for state in states if state.world_SE3_ego is not None])
    assert np.allclose(np.diff(places, axis=0), [[SPEED_MPS * 0.1, 0, 0]] * (FRAMES - 1), atol=1e-6)
    # The unit, not the ego's origin, starts at the origin of the world.
    x, y, z = IMU_IN_VELODYNE_M
    assert np.allclose(places[0], (-(0.76 + x), -y, -(1.73 + z)), atol=1e-9)
    assert states[0].velocity_mps is not None
    assert states[0].velocity_mps.tolist() == pytest.approx([SPEED_MPS, 0.0])


def test_yaw_counts_from_east_to_the_left_and_a_turn_moves_the_origin(drive: Path) -> None:
    (drive / "oxts" / "data" / "0000000002.txt").write_text(oxts(2, yaw_rad=np.pi / 2, turn_radps=0.5))
    state = _states(drive)[2]
    assert state.world_SE3_ego is not None
    assert state.velocity_mps is not None
    assert np.allclose(state.world_SE3_ego[:3, 0], (0, 1, 0), atol=1e-9)
    assert state.yaw_rate_radps == pytest.approx(0.5)
    # The unit sits at (-0.05, 0.32) in the ego frame, so the origin at (0.05, -0.32) from it turns along.
    assert state.velocity_mps.tolist() == pytest.approx([SPEED_MPS + 0.5 * 0.32, 0.5 * 0.05])


def test_tracklets_are_boxes_with_velocities_over_ground(drive: Path) -> None:
    source = KittiRawSource(drive)
    assert source.label_times_ns == tuple(FIRST_NS + k * 100_000_000 for k in range(FRAMES))
    first, third = source.labels(FIRST_NS), source.labels(FIRST_NS + 200_000_000)
    assert first is not None
    assert third is not None
    assert (first.category, third.category) == (("Van",), ("Car",))
    assert first.yaw_rad[0] == pytest.approx(np.pi / 2)
    assert np.all(np.isnan(first.velocity_mps))
    x, y, z = CAR_AT_M
    assert third.center_m[0].tolist() == pytest.approx([x + 0.76, y, z + 1.73 + 0.75])
    assert third.size_m[0].tolist() == [4.0, 1.8, 1.5]
    assert third.velocity_mps[0].tolist() == pytest.approx([SPEED_MPS, 0.0], abs=1e-6)
    assert third.class_index.tolist() == [0]
    assert source.labels(FIRST_NS + 1) is None


def test_a_frame_that_is_missing_leaves_the_others_at_their_times(drive: Path) -> None:
    (drive / LIDAR / "data" / "0000000001.bin").unlink()
    sweeps = [message for message in KittiRawSource(drive).messages() if isinstance(message, LidarSweep)]
    assert [(sweep.capture_ns - FIRST_NS) // 100_000_000 for sweep in sweeps] == [0, 2, 3]


def test_broken_payloads_are_unreadable_and_the_rest_goes_on(drive: Path) -> None:
    (drive / LIDAR / "data" / "0000000000.bin").write_bytes(bytes(17))
    (drive / "oxts" / "data" / "0000000000.txt").write_text("49.0 8.4")
    (drive / "oxts" / "data" / "0000000003.txt").write_text(oxts(3).replace("49", "490", 1))
    image = drive / "image_03" / "data" / "0000000002.png"
    image.write_bytes(image.read_bytes()[:-40])
    messages = list(KittiRawSource(drive).messages())
    bad = {(message.sensor, message.capture_ns // 100_000_000 % 10) for message in messages
           if isinstance(message, Unreadable)}  # fmt: skip
    assert bad == {(LIDAR, 0), ("ego", 0), ("ego", 3), ("image_03", 2)}
    assert len(messages) == 4 * FRAMES


def test_a_drive_without_poses_or_labels_is_read(drive: Path) -> None:
    for path in (drive / "oxts" / "data").iterdir():
        path.unlink()
    (drive / "tracklet_labels.xml").unlink()
    source = KittiRawSource(drive)
    assert source.label_times_ns == ()
    assert source.labels(FIRST_NS) is None
    assert not any(isinstance(message, EgoState) for message in source.messages())
    assert any("no oxts/data" in note for note in source.notes)


@pytest.mark.parametrize("name", ["P_rect_02", "S_rect_02", "R_rect_00"])
def test_calibration_that_is_missing_is_named(drive: Path, name: str) -> None:
    write_calibration(drive.parent, leave_out=name)
    with pytest.raises(DriveError, match=f"calib_cam_to_cam.txt: {name} is missing"):
        KittiRawSource(drive)


def test_calibration_of_the_day_is_asked_for(drive: Path) -> None:
    for path in drive.parent.glob("calib_*.txt"):
        path.unlink()
    with pytest.raises(DriveError, match="unpack the calibration archive of the day 2011_09_26"):
        KittiRawSource(drive)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2011-09-26 13:02:25.1\n2011-13-26 13:02:25.2\n", "line 2 is no time"),
        ("25.1\n", "line 1 is no time"),
        ("\n".join(stamp(frame) for frame in (0, 2, 1, 3)), "time does not rise from frame 1 to 2"),
        (stamp(0), "1 times, but there is a file of frame 3"),
    ],
)
def test_broken_times_are_named(drive: Path, text: str, reason: str) -> None:
    (drive / LIDAR / "timestamps.txt").write_text(text)
    with pytest.raises(DriveError, match=reason) as caught:
        KittiRawSource(drive)
    assert "timestamps.txt" in str(caught.value)


def test_times_have_any_number_of_decimals(tmp_path: Path) -> None:
    path = tmp_path / "timestamps.txt"
    path.write_text("2011-09-26 13:02:25\n2011-09-26 13:02:25.5\n2011-09-26 13:02:25.594360375\n\n")
    assert read_timestamps(path) == [FIRST_NS, FIRST_NS + 500_000_000, FIRST_NS + 594_360_375]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (tracklets(tail=""), "no valid XML"),
        (tracklets(height="-1"), "object 0 has no positive size"),
        (tracklets(height="tall"), "object 0: could not convert"),
        ('<!DOCTYPE b [<!ENTITY a "aaaa">]><b>&a;</b>', "declares entities"),
    ],
)
def test_broken_tracklets_are_refused_when_they_are_asked_for(drive: Path, text: str, reason: str) -> None:
    (drive / "tracklet_labels.xml").write_text(text)
    source = KittiRawSource(drive)
    with pytest.raises(PayloadError, match=reason):
        source.labels(FIRST_NS)
