"""The PandaSet reader on a small sequence that the test writes: frames, times, labels and bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from perception.core.errors import DriveError, PayloadError
from perception.core.labels import Labels
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, SweepMotion, Unreadable
from perception.sources.pandaset import PandaSetSource
from tests.unit.small_pandaset import (
    CAR_SPEED_MPS,
    ROAD_M,
    SPEED_MPS,
    cuboids,
    jpeg,
    points,
    write_sequence,
    write_table,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sequence(tmp_path / "007")


def _of(folder: Path, sensor: str) -> list[AnyMessage]:
    return [message for message in PandaSetSource(folder).messages() if message.sensor == sensor]


def _labels(folder: Path, index: int = 0) -> Labels:
    source = PandaSetSource(folder)
    labels = source.labels(source.label_times_ns[index])
    assert labels is not None
    return labels


def test_only_the_frames_on_disk_are_replayed(folder: Path) -> None:
    source = PandaSetSource(folder)
    assert source.drive_id == "pandaset/007"
    assert [sensor.name for sensor in source.rig.sensors] == ["pandar64", "pandar_gt", "front_camera", "back_camera"]
    sweeps = _of(folder, "pandar64")
    assert [sweep.capture_ns for sweep in sweeps] == [1_557_539_956_600_022_000, 1_557_539_956_700_022_000]
    assert any("front_left_camera" in note for note in source.notes)


def test_ego_frame_is_forward_left_up_on_the_road(folder: Path) -> None:
    sweep = _of(folder, "pandar64")[0]
    assert isinstance(sweep, LidarSweep)
    mount = PandaSetSource(folder).rig["pandar64"].ego_SE3_sensor
    assert np.allclose(mount[:3, 3], [0, 0, -ROAD_M], atol=0.01)
    ego = sweep.points_m @ mount[:3, :3].T + mount[:3, 3]
    assert np.allclose(ego[:, 2], 0, atol=0.01)
    assert ego[:, 0].min() == pytest.approx(-12, abs=1e-3)
    assert np.abs(ego[:, 1]).max() == pytest.approx(1, abs=1e-3)


def test_sweeps_are_compensated_with_point_times(folder: Path) -> None:
    first, forward = _of(folder, "pandar64")[0], _of(folder, "pandar_gt")[0]
    assert isinstance(first, LidarSweep)
    assert isinstance(forward, LidarSweep)
    assert first.motion is SweepMotion.COMPENSATED
    assert first.point_offset_ns is not None
    assert forward.point_offset_ns is not None
    assert first.point_offset_ns.min() == pytest.approx(-100_000_000, abs=1000)
    assert np.allclose(forward.point_offset_ns, 20_000_000, atol=1000)
    assert first.arrival_ns == first.capture_ns + 10_000_000
    assert forward.arrival_ns == pytest.approx(forward.capture_ns + 30_000_000, abs=1000)
    assert np.allclose(first.intensity, 0.2)


def test_ego_moves_forward(folder: Path) -> None:
    states = _of(folder, "ego")
    assert len(states) == 4
    for state in states:
        assert isinstance(state, EgoState)
        assert state.velocity_mps is not None
        assert state.velocity_mps.tolist() == pytest.approx([SPEED_MPS, 0], abs=1e-3)
        assert state.yaw_rate_radps == pytest.approx(0)


def test_cameras_are_mounted_where_they_look(folder: Path) -> None:
    rig = PandaSetSource(folder).rig
    assert rig["front_camera"].offset_ns == pytest.approx(-50_000_000, abs=1000)
    ahead, behind = rig["front_camera"].ego_SE3_sensor, rig["back_camera"].ego_SE3_sensor
    assert np.allclose(ahead[:3, 3], [1, 0, 1.5 - ROAD_M], atol=0.02)
    assert np.allclose(ahead[:3, 2], [1, 0, 0], atol=1e-6)
    assert np.allclose(behind[:3, 2], [-1, 0, 0], atol=1e-6)
    assert np.allclose(ahead[:3, 1], [0, 0, -1], atol=1e-6)


def test_labels_are_in_the_ego_frame_with_velocity(folder: Path) -> None:
    labels = _labels(folder)
    assert labels.category == ("Car", "Pedestrian", "Animals - Bird")
    assert labels.class_index.tolist() == [0, 5, -1]
    assert np.allclose(labels.center_m[0], [20.3, -2.0, 0.8], atol=0.02)
    assert np.allclose(labels.size_m[0], [4.5, 2.0, 1.6])
    assert np.allclose(labels.yaw_rad[:2], [0.0, 0.5], atol=1e-9)
    assert np.allclose(labels.velocity_mps[:2], np.array([[CAR_SPEED_MPS, 0.0], [0.0, 0.0]]), atol=1e-6)
    assert labels.attribute_index.tolist() == [0, 6, -1]
    assert labels.track_id == ("car-0", "walker", "bird")


def test_of_two_cuboids_the_first_lidars_is_kept(folder: Path) -> None:
    table = cuboids(1)
    table["cuboids.sibling_id"] = ["car-0", "car-0", "-", "-"]
    write_table(folder / "annotations/cuboids/01.pkl.gz", table)
    assert _labels(folder).track_id == ("car-0", "walker", "bird")
    table["cuboids.sibling_id"] = ["-", "gone", "-", "-"]
    write_table(folder / "annotations/cuboids/01.pkl.gz", table)
    assert _labels(folder).track_id == ("car-0", "car-1", "walker", "bird")


def test_a_track_in_one_frame_alone_has_no_velocity_unless_it_stands(folder: Path) -> None:
    (folder / "annotations/cuboids/02.pkl.gz").unlink()
    velocity = _labels(folder).velocity_mps
    assert np.all(np.isnan(velocity[0]))
    assert velocity[1].tolist() == [0, 0]


def test_broken_payloads_are_unreadable_and_the_rest_goes_on(folder: Path) -> None:
    (folder / "lidar/01.pkl.gz").write_bytes(b"\x1f\x8b")
    (folder / "camera/front_camera/01.jpg").write_bytes(jpeg(1)[:-30])
    (folder / "camera/back_camera/02.jpg").write_bytes(jpeg(1, (32, 32)))
    messages = list(PandaSetSource(folder).messages())
    bad = {(m.sensor, m.capture_ns): m.error for m in messages if isinstance(m, Unreadable)}
    assert sorted(sensor for sensor, _ in bad) == ["back_camera", "front_camera", "pandar64", "pandar_gt"]
    assert any("32x32" in error for error in bad.values())
    assert sum(isinstance(m, CameraFrame | LidarSweep) for m in messages) == 4
    assert [m.arrival_ns for m in messages] == sorted(m.arrival_ns for m in messages)


def test_points_that_are_not_finite_are_left_out(folder: Path) -> None:
    table = points(1, 1_557_539_956.600022)
    table["x"][:7] = np.nan
    write_table(folder / "lidar/01.pkl.gz", table)
    sweep = _of(folder, "pandar64")[0]
    assert isinstance(sweep, LidarSweep)
    assert len(sweep.points_m) == 485 - 7
    table["x"][:] = np.inf
    write_table(folder / "lidar/01.pkl.gz", table)
    assert isinstance(_of(folder, "pandar64")[0], Unreadable)


@pytest.mark.parametrize("column", ["t", "d"])
def test_missing_and_absurd_columns_are_unreadable(folder: Path, column: str) -> None:
    table = points(1, 1_557_539_956.600022)
    if column == "t":
        table["t"] = table["t"] + 60.0
    else:
        del table["d"]
    write_table(folder / "lidar/01.pkl.gz", table)
    assert isinstance(_of(folder, "pandar64")[0], Unreadable)
    assert isinstance(_of(folder, "pandar64")[1], LidarSweep)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("lidar/poses.json", None, "No such file"),
        ("lidar/poses.json", "[]", "0 poses"),
        ("lidar/poses.json", '[{"position": {"x": 1, "y": 2}}]', "missing required field"),
        ("lidar/timestamps.json", '["a"]', "Expected `float`"),
        ("lidar/timestamps.json", "[1, 2, 3, 2.5, 4]", "does not rise"),
        ("camera/front_camera/intrinsics.json", '{"fx": 0, "fy": 1, "cx": 1, "cy": 1}', "focal"),
        ("camera/front_camera/intrinsics.json", '{"fx": 1', "not valid JSON"),
    ],
)
def test_a_broken_drive_names_file_and_reason(folder: Path, file: str, text: str | None, reason: str) -> None:
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(DriveError, match=reason) as caught:
        PandaSetSource(folder)
    assert Path(file).name in str(caught.value) or file in str(caught.value) or "poses" in str(caught.value)


def test_a_camera_that_is_not_rigid_is_refused(folder: Path) -> None:
    path = folder / "camera/front_camera/poses.json"
    poses = json.loads(path.read_text())
    poses[3]["position"]["y"] += 0.5
    path.write_text(json.dumps(poses))
    with pytest.raises(DriveError, match="moves on the vehicle"):
        PandaSetSource(folder)


def test_broken_labels_are_an_error_of_their_frame(folder: Path) -> None:
    table = cuboids(1)
    table["dimensions.x"] = [2.0, 2.0, -1.0, 0.2]
    write_table(folder / "annotations/cuboids/01.pkl.gz", table)
    source = PandaSetSource(folder)
    with pytest.raises(PayloadError, match="positive dimensions"):
        source.labels(source.label_times_ns[0])
    assert source.labels(source.label_times_ns[1]) is not None
    assert source.labels(source.label_times_ns[0] + 1) is None


def test_a_root_of_sequences_opens_the_first_or_the_named(tmp_path: Path) -> None:
    write_sequence(tmp_path / "001")
    shutil.copytree(tmp_path / "001", tmp_path / "002")
    assert PandaSetSource(tmp_path).drive_id == "pandaset/001"
    assert "001, 002" in PandaSetSource(tmp_path).notes[0]
    assert PandaSetSource(tmp_path, scene="002").drive_id == "pandaset/002"
    with pytest.raises(DriveError, match="it has 001, 002"):
        PandaSetSource(tmp_path, scene="003")
