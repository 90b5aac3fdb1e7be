"""Conventions of the Argoverse 2 reader, proved on a piece of a real log: two sweeps, all poses, all boxes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from perception.core.geometry import invert, quaternion_to_rotation, transform_points
from perception.core.labels import Labels, points_in_box
from perception.core.messages import Command, EgoState, LidarSweep, RouteCommand, SweepMotion, Unreadable
from perception.core.taxonomy import CLASS_INDEX
from perception.evaluation.future_path import exact_path
from perception.evaluation.planning import STEPS_S
from perception.sources.av2 import LIDAR, POSES, Argoverse2Source, MappedArgoverse2Source, open_log
from perception.sources.av2_files import read_poses
from perception.sources.av2_map import map_file, read_map
from perception.sources.av2_route import recorded_route

pytestmark = pytest.mark.data
F64 = NDArray[np.float64]


@pytest.fixture(scope="module")
def source(drive_data: Path) -> MappedArgoverse2Source:
    found = open_log(drive_data / "av2-7fab2350")
    assert isinstance(found, MappedArgoverse2Source)
    return found


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


def test_the_navigation_tells_of_the_left_turn(drive_data: Path, messages: list[object]) -> None:
    """The log waits at an intersection and turns left in it; the two sweeps that we have are of the waiting."""
    root = drive_data / "av2-7fab2350"
    poses, path = read_poses(root / POSES), map_file(root)
    assert path is not None
    route = recorded_route(read_map(path), poses.times_ns, poses.city_SE3_vehicle)
    assert [manoeuvre.command for manoeuvre in route.manoeuvres] == [Command.LEFT]
    turned = np.arctan2(poses.city_SE3_vehicle[:, 1, 0], poses.city_SE3_vehicle[:, 0, 0])
    before = np.searchsorted(route.arc_m, route.manoeuvres[0].begin_m - 5)
    assert np.rad2deg(turned[-1] - turned[before]) > 45
    assert np.abs(np.rad2deg(turned[:before] - turned[0])).max() < 15
    told = [message for message in messages if isinstance(message, RouteCommand)]
    assert {message.command for message in told} == {Command.LEFT}
    assert all(message.distance_m is not None and 3 < message.distance_m < 5 for message in told)


def test_the_road_of_the_map_lies_under_vehicles_that_drive(source: MappedArgoverse2Source) -> None:
    """And not under pedestrians: this also tells a mirrored map from the right one."""
    time_ns, half_m, cell_m = source.label_times_ns[0], 100.0, 0.5
    labels, area = _labels(source, time_ns), source.drivable(time_ns, half_m, cell_m)
    cells = np.floor((labels.center_m[:, :2] + half_m) / cell_m).astype(int)
    is_near = np.all((cells >= 0) & (cells < len(area)), axis=1)
    is_vehicle = (labels.class_index >= 0) & (labels.class_index < CLASS_INDEX["pedestrian"])
    driving = cells[is_near & is_vehicle & (np.hypot(*labels.velocity_mps.T) > 2)]
    walking = cells[is_near & (labels.class_index == CLASS_INDEX["pedestrian"])]
    assert (len(driving), len(walking)) == (10, 13)
    assert area[tuple(driving.T)].all()
    assert area[tuple(walking.T)].mean() < 0.1
    assert area[200, 200]
    assert not area[tuple(driving.T * np.array([[1], [-1]]))].all()
    assert 0.1 < area.mean() < 0.4


def test_the_path_ahead_stays_on_the_road(source: MappedArgoverse2Source) -> None:
    """Three seconds on, from poses that the sweeps do not reach."""
    time_ns = source.label_times_ns[0]
    path = source.future_path(time_ns, np.arange(0.5, 3.01, 0.5))
    assert 6 < path[-1, 0] < 7
    assert path[-1, 1] > 3
    area = source.drivable(time_ns, 50.0, 0.5)
    assert area[tuple(np.floor((path.T + 50.0) / 0.5).astype(int))].all()


def test_an_evaluation_knows_the_paths(source: MappedArgoverse2Source) -> None:
    for time_ns in source.label_times_ns:
        driven = exact_path(source, time_ns, STEPS_S)
        assert driven is not None
        assert driven.shape == (len(STEPS_S), 2)
