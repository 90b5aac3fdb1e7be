"""A real nuScenes keyframe and original radar files, read as their conventions say."""

from pathlib import Path

import numpy as np
import pytest

from perception.core.geometry import invert, quaternion_to_rotation, transform_points
from perception.core.labels import Labels, points_in_box
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, Unreadable
from perception.core.rig import Modality
from perception.core.taxonomy import ATTRIBUTES, CLASSES
from perception.sources.nuscenes import NuScenesSource
from perception.sources.radar_pcd import parse_radar_pcd

pytestmark = pytest.mark.data

KEYFRAME_NS = 1_532_402_927_647_951_000
BOXES_SEEN = {
    "CAM_FRONT": 48,
    "CAM_FRONT_RIGHT": 18,
    "CAM_BACK": 10,
    "CAM_BACK_RIGHT": 5,
    "CAM_FRONT_LEFT": 2,
    "CAM_BACK_LEFT": 2,
}


@pytest.fixture(scope="module")
def source(drive_data: Path) -> NuScenesSource:
    return NuScenesSource(drive_data / "nuscenes-mini-1kf")


@pytest.fixture(scope="module")
def drive(source: NuScenesSource) -> list[AnyMessage]:
    return list(source.messages())


@pytest.fixture(scope="module")
def labels(source: NuScenesSource) -> Labels:
    found = source.labels(KEYFRAME_NS)
    assert found is not None
    return found


def test_what_is_there_and_what_is_missing(source: NuScenesSource, drive: list[AnyMessage]) -> None:
    assert source.drive_id == "nuscenes/scene-0061"
    assert source.label_times_ns == (KEYFRAME_NS,)
    assert len(source.rig.of(Modality.CAMERA)) == 6
    assert "RADAR_FRONT_LEFT" not in source.rig
    assert any("RADAR_BACK_LEFT" in note for note in source.notes)
    assert not any(isinstance(message, Unreadable) for message in drive)
    assert sorted(m.sensor for m in drive if not isinstance(m, EgoState)) == sorted(s.name for s in source.rig.sensors)
    assert source.rig["CAM_FRONT_LEFT"].offset_ns == -43_107_000


def test_the_ego_drives_at_9_metres_a_second(drive: list[AnyMessage]) -> None:
    states = [message for message in drive if isinstance(message, EgoState)]
    assert len(states) == 8
    for state in states:
        assert state.velocity_mps is not None
        assert state.velocity_mps[0] == pytest.approx(9.2, abs=0.1)
        assert abs(state.velocity_mps[1]) < 0.15


def test_lidar_points_in_each_box_are_as_many_as_annotated(
    source: NuScenesSource, drive: list[AnyMessage], labels: Labels
) -> None:
    sweep = next(message for message in drive if isinstance(message, LidarSweep))
    assert len(sweep.points_m) == 34_688
    assert sweep.ring is not None
    assert sweep.ring.max() == 31
    assert 0.0 <= sweep.intensity.min() < sweep.intensity.max() <= 1.0
    points = transform_points(source.rig["LIDAR_TOP"].ego_SE3_sensor, sweep.points_m.astype(np.float64))
    rotations = quaternion_to_rotation(labels.quaternion_wxyz)
    inside = [
        int(np.sum(points_in_box(points, center, size, rotation)))
        for center, size, rotation in zip(labels.center_m, labels.size_m, rotations, strict=True)
    ]
    assert len(labels) == 69
    assert inside == labels.num_lidar_points.tolist()


def test_boxes_project_into_the_cameras_that_see_them(
    source: NuScenesSource, drive: list[AnyMessage], labels: Labels
) -> None:
    """Visible: a corner inside the image at more than a metre, and none nearer than 0.1 m (as the devkit counts)."""
    pose_at = {m.capture_ns: m.world_SE3_ego for m in drive if isinstance(m, EgoState)}
    signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    rotations = quaternion_to_rotation(labels.quaternion_wxyz)
    corners = labels.center_m[:, None] + np.einsum("kij,kcj->kci", rotations, signs * labels.size_m[:, None])
    world_SE3_reference = pose_at[KEYFRAME_NS]
    assert world_SE3_reference is not None
    seen = {}
    for frame in drive:
        if not isinstance(frame, CameraFrame):
            continue
        sensor = source.rig[frame.sensor]
        world_SE3_ego = pose_at[frame.capture_ns]
        assert sensor.camera is not None
        assert world_SE3_ego is not None
        camera_SE3_reference = invert(world_SE3_ego @ sensor.ego_SE3_sensor) @ world_SE3_reference
        points = transform_points(camera_SE3_reference, corners.reshape(-1, 3))
        _, is_visible = sensor.camera.project(points)
        any_corner = np.any((is_visible & (points[:, 2] > 1.0)).reshape(-1, 8), axis=1)
        in_front = np.all((points[:, 2] > 0.1).reshape(-1, 8), axis=1)
        seen[frame.sensor] = int(np.sum(any_corner & in_front))
    assert seen == BOXES_SEEN


def test_classes_and_attributes(labels: Labels) -> None:
    counts = {name: int(np.sum(labels.class_index == i)) for i, name in enumerate(CLASSES)}
    assert counts["pedestrian"] == 30
    assert counts["barrier"] == 22
    assert counts["car"] == 8
    assert [labels.category[k] for k in np.flatnonzero(labels.class_index < 0)] == ["movable_object.pushable_pullable"]
    assert int(np.sum(labels.attribute_index >= 0)) == 43
    walking = labels.attribute_index == ATTRIBUTES.index("pedestrian.moving")
    assert set(labels.class_index[walking].tolist()) == {CLASSES.index("pedestrian")}
    assert np.all(np.isnan(labels.velocity_mps))
    truck = int(np.argmax(labels.num_lidar_points))
    assert CLASSES[labels.class_index[truck]] == "truck"
    assert labels.size_m[truck, 0] > 5 > labels.size_m[truck, 1]


def test_standing_targets_show_the_ego_motion_and_none_over_ground(drive: list[AnyMessage]) -> None:
    scan = next(message for message in drive if isinstance(message, RadarScan))
    assert len(scan.points_m) == 74
    assert np.all(scan.is_valid)
    assert scan.compensated_mps is not None
    standing = np.abs(scan.compensated_mps) < 0.3
    assert np.sum(standing) > 20
    azimuth = np.arctan2(scan.points_m[standing, 1], scan.points_m[standing, 0])
    assert np.allclose(scan.radial_mps[standing], -9.2 * np.cos(azimuth), atol=0.5)


def test_original_radar_files_have_125_returns_and_bytes_behind_them(drive_data: Path) -> None:
    files = sorted((drive_data / "nuscenes-radar").glob("*.pcd"))
    assert len(files) == 2
    for path in files:
        scan = parse_radar_pcd(path.read_bytes())
        assert len(scan.points_m) == 125
        assert 10 < np.sum(scan.is_valid) < 125
        assert np.linalg.norm(scan.points_m[:, :2], axis=1).min() > 0.2
        assert np.linalg.norm(scan.points_m[:, :2], axis=1).max() < 260
        assert -10 <= scan.rcs_dbsm.min() <= scan.rcs_dbsm.max() <= 60
