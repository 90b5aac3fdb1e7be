"""Conventions of the Argoverse 2 reader, proved on a piece of a real log: two sweeps, all poses, all boxes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from perception.core.geometry import invert, quaternion_to_rotation, transform_points
from perception.core.labels import Labels, points_in_box
from perception.core.messages import EgoState, LidarSweep, SweepMotion, Unreadable
from perception.core.taxonomy import CLASS_INDEX
from perception.sources.av2 import LIDAR, Argoverse2Source

pytestmark = pytest.mark.data
F64 = NDArray[np.float64]


@pytest.fixture(scope="module")
def source(drive_data: Path) -> Argoverse2Source:
    return Argoverse2Source(drive_data / "av2-7fab2350")


@pytest.fixture(scope="module")
def messages(source: Argoverse2Source) -> list[object]:
    return list(source.messages())


def _sweeps(messages: list[object]) -> list[LidarSweep]:
    return [message for message in messages if isinstance(message, LidarSweep)]


def _labels(source: Argoverse2Source, time_ns: int) -> Labels:
    labels = source.labels(time_ns)
    assert labels is not None
    return labels


def _ego_points(source: Argoverse2Source, sweep: LidarSweep) -> F64:
    return transform_points(source.rig[LIDAR].ego_SE3_sensor, sweep.points_m.astype(np.float64))


def test_what_is_there(source: Argoverse2Source, messages: list[object]) -> None:
    assert source.label_times_ns == (315966265259836000, 315966265360032000)
    assert [sensor.name for sensor in source.rig.sensors] == [LIDAR]
    assert [len(sweep.points_m) for sweep in _sweeps(messages)] == [99229, 99466]
    assert not any(isinstance(message, Unreadable) for message in messages)
    assert sum(isinstance(message, EgoState) for message in messages) > 50


def test_points_in_boxes_are_those_that_the_labels_count(source: Argoverse2Source, messages: list[object]) -> None:
    for sweep in _sweeps(messages):
        labels, points = _labels(source, sweep.capture_ns), _ego_points(source, sweep)
        boxes = zip(labels.center_m, labels.size_m, quaternion_to_rotation(labels.quaternion_wxyz), strict=True)
        counts = np.array([points_in_box(points, *box).sum() for box in boxes])
        assert len(labels) == 81
        assert np.array_equal(counts, labels.num_lidar_points)


def test_boxes_stand_on_the_road(source: Argoverse2Source) -> None:
    labels = _labels(source, source.label_times_ns[0])
    is_near = np.hypot(*labels.center_m[:, :2].T) < 25
    bottom = labels.center_m[is_near, 2] - labels.size_m[is_near, 2] / 2
    assert len(bottom) > 15
    assert abs(np.median(bottom)) < 0.1


def test_the_road_beside_the_ego_is_at_height_zero(source: Argoverse2Source, messages: list[object]) -> None:
    for sweep in _sweeps(messages):
        points = _ego_points(source, sweep)
        is_beside = (np.abs(points[:, 0]) < 3) & (np.abs(points[:, 1]) > 1.5) & (np.abs(points[:, 1]) < 3)
        assert abs(np.percentile(points[is_beside, 2], 20)) < 0.1


def test_vehicles_move_along_their_heading(source: Argoverse2Source) -> None:
    labels = _labels(source, source.label_times_ns[0])
    speed = np.hypot(*labels.velocity_mps.T)
    is_moving = (speed > 2) & (labels.class_index >= 0) & (labels.class_index < CLASS_INDEX["pedestrian"])
    heading = np.stack([np.cos(labels.yaw_rad), np.sin(labels.yaw_rad)], axis=1)
    cosine = np.sum(heading * labels.velocity_mps, axis=1)[is_moving] / speed[is_moving]
    assert len(cosine) >= 10
    assert np.percentile(cosine, 10) > 0.98  # one turns
    assert cosine.min() > 0.9


def test_ego_drives_forward(messages: list[object]) -> None:
    states = [message for message in messages if isinstance(message, EgoState)]
    velocity = np.array([state.velocity_mps for state in states])
    assert velocity[:, 0].min() > 0.1
    assert np.abs(velocity[:, 1]).max() < 0.1


def test_what_stands_stays_where_it_is_in_the_city(source: Argoverse2Source, messages: list[object]) -> None:
    """Poses and points belong together: of two sweeps, moved by the poses of their stamps, surfaces coincide."""
    first, second = _sweeps(messages)
    assert first.motion is SweepMotion.COMPENSATED
    poses = {m.capture_ns: m.world_SE3_ego for m in messages if isinstance(m, EgoState) and m.world_SE3_ego is not None}
    first_SE3_second = invert(poses[first.capture_ns]) @ poses[second.capture_ns]
    fixed, points = cKDTree(_ego_points(source, first)), _ego_points(source, second)
    moved = transform_points(first_SE3_second, points)
    is_near = (np.hypot(moved[:, 0], moved[:, 1]) < 20) & (moved[:, 2] > 0.3)
    distance, unmoved = fixed.query(moved[is_near])[0], fixed.query(points[is_near])[0]
    assert np.median(distance) < 0.03
    assert np.median(unmoved) > 1.5 * np.median(distance)  # the ego drove 7 cm in between


def test_times_of_points_rise_through_the_sweep(messages: list[object]) -> None:
    for sweep in _sweeps(messages):
        assert sweep.point_offset_ns is not None
        assert sweep.ring is not None
        assert 0 < sweep.point_offset_ns.min() < 5_000_000
        assert 95_000_000 < sweep.point_offset_ns.max() < 110_000_000
        assert set(sweep.ring.tolist()) == set(range(64))
