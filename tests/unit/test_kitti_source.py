"""The KITTI reader on a small split that the test writes: frames, calibration by frame, labels and bad input."""

from pathlib import Path

import numpy as np
import pytest

from perception.core.errors import DriveError, PayloadError
from perception.core.messages import CameraFrame, LidarSweep, Unreadable
from perception.sources.kitti import PERIOD_NS, KittiSource
from tests.unit.small_kitti import BASELINE_M, CAR_AHEAD, LABELS, write_calibration, write_split


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_split(tmp_path)
    return tmp_path


def test_frames_get_nominal_times_and_notes_say_so(root: Path) -> None:
    source = KittiSource(root)
    assert source.drive_id == "kitti/training"
    sweeps = [m for m in source.messages() if isinstance(m, LidarSweep)]
    assert [sweep.capture_ns for sweep in sweeps] == [0, PERIOD_NS, 2 * PERIOD_NS]
    assert source.label_times_ns == (0, PERIOD_NS, 2 * PERIOD_NS)
    assert "no times" in source.notes[0]
    assert sweeps[0].points_m.tolist() == [[10, 1, -0.5], [5, -1, 0]]
    assert sweeps[0].point_offset_ns is None


def test_the_mount_holds_the_baseline_beside_the_grey_camera(root: Path) -> None:
    mount = KittiSource(root).rig["image_2"].ego_SE3_sensor
    # 0.76 m + 0.3 m ahead; P2's last column puts the camera 6 cm to the left of the labels' frame.
    assert np.allclose(mount[:3, 3], [1.06, BASELINE_M, 1.73], atol=1e-6)
    assert np.allclose(mount[:3, 2], [1, 0, 0], atol=1e-9)


def test_a_frame_carries_its_own_camera_where_it_differs(root: Path) -> None:
    frames = [m for m in KittiSource(root).messages() if isinstance(m, CameraFrame)]
    assert [frame.calibration is None for frame in frames] == [True, True, False]
    own = frames[2].calibration
    assert own is not None
    assert (own.width_px, own.height_px, own.intrinsic[0, 0]) == (80, 50, 45.0)


def test_labels_are_box_centres_in_the_ego_frame(root: Path) -> None:
    labels = KittiSource(root).labels(PERIOD_NS)
    assert labels is not None
    assert labels.category == ("Car", "Person_sitting")
    assert labels.class_index.tolist() == [0, 5]
    assert labels.attribute_index.tolist() == [-1, 7]
    # Camera x -1 m is 1 m left; bottom at y 1.65 m, half of 1.5 m up; 10 m ahead of a camera at 1.06 m.
    assert np.allclose(labels.center_m[0], [11.06, 1.0, 1.73 - 0.9], atol=1e-6)
    assert labels.size_m[0].tolist() == [4.0, 1.8, 1.5]
    assert labels.yaw_rad[0] == pytest.approx(0, abs=1e-4)
    assert labels.yaw_rad[1] == pytest.approx(-np.pi / 2)
    assert np.all(np.isnan(labels.velocity_mps))
    assert len(set(labels.track_id)) == 2


def test_labels_use_the_calibration_of_their_frame_and_notes_tell(root: Path) -> None:
    write_calibration(root / "training", 1, pitch_rad=np.radians(1.0))
    source = KittiSource(root)
    assert any("1.00 degrees" in note for note in source.notes)
    first, second = source.labels(0), source.labels(PERIOD_NS)
    assert first is not None
    assert second is not None
    assert np.linalg.norm(first.center_m[0] - second.center_m[0]) == pytest.approx(10 * np.radians(1.0), rel=0.1)


def test_broken_payloads_are_unreadable_and_the_rest_goes_on(root: Path) -> None:
    folder = root / "training"
    (folder / "velodyne/000000.bin").write_bytes(bytes(17))
    (folder / "velodyne/000001.bin").write_bytes(np.full((3, 4), np.nan, dtype="<f4").tobytes())
    (folder / "image_2/000001.png").write_bytes((folder / "image_2/000001.png").read_bytes()[:-40])
    write_calibration(folder, 2, leave_out="P2")
    source = KittiSource(root)
    messages = list(source.messages())
    bad = [(m.sensor, m.capture_ns // PERIOD_NS) for m in messages if isinstance(m, Unreadable)]
    assert sorted(bad) == [("image_2", 1), ("image_2", 2), ("velodyne", 0), ("velodyne", 1)]
    assert len(messages) == 6
    assert any("000002" in note for note in source.notes)
    with pytest.raises(PayloadError, match="P2 is missing"):
        source.labels(2 * PERIOD_NS)


def test_a_broken_first_frame_leaves_the_rig_to_the_next(root: Path) -> None:
    (root / "training/calib/000000.txt").write_text("P2: 1 2 3")
    assert any("frame 000001" in n or "000000" in n for n in KittiSource(root).notes)
    for frame in (1, 2):
        (root / f"training/calib/{frame:06d}.txt").unlink()
    with pytest.raises(DriveError, match="no frame has a calibration"):
        KittiSource(root)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CAR_AHEAD.rsplit(" ", 1)[0], "14 columns"),
        (CAR_AHEAD.replace("4.00", "four"), "four"),
        (CAR_AHEAD.replace("1.80", "-1.80"), "positive dimensions"),
        (CAR_AHEAD.replace("10.00", "nan"), "finite"),
    ],
)
def test_broken_labels_name_the_line(root: Path, text: str, reason: str) -> None:
    (root / "training/label_2/000001.txt").write_text(LABELS + text)
    source = KittiSource(root)
    with pytest.raises(PayloadError, match=reason) as caught:
        source.labels(PERIOD_NS)
    assert "line 4" in str(caught.value)


def test_testing_has_no_labels(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "testing")
    for path in (folder / "label_2").iterdir():
        path.unlink()
    source = KittiSource(tmp_path)
    assert source.drive_id == "kitti/testing"
    assert source.label_times_ns == ()
    assert source.labels(0) is None


def test_a_split_without_sweeps_has_no_lidar(root: Path) -> None:
    for path in (root / "training/velodyne").iterdir():
        path.unlink()
    assert [sensor.name for sensor in KittiSource(root).rig.sensors] == ["image_2"]
