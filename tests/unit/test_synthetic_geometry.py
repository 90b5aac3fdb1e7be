"""The synthetic drive is exact: points lie in their boxes, painted objects where they project, Doppler is geometry."""

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
import pytest

from perception.core.errors import DriveError
from perception.core.geometry import invert, quaternion_to_rotation, transform_points
from perception.core.labels import Labels, points_in_box
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan
from perception.core.ports import Source
from perception.core.rig import Sensor, SensorRig
from perception.core.taxonomy import CLASSES
from perception.sources.synthetic import SyntheticSource
from perception.sources.synthetic_camera import COLOURS
from tests.unit.nuscenes_roots import small_rig


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(seed=3, duration_s=1.1)


@pytest.fixture(scope="module")
def drive(source: SyntheticSource) -> list[AnyMessage]:
    return list(source.messages())


def _labels(source: SyntheticSource, number: int = 1) -> Labels:
    labels = source.labels(source.label_times_ns[number])
    assert labels is not None
    return labels


def _pose(drive: list[AnyMessage], time_ns: int) -> EgoState:
    return next(m for m in drive if isinstance(m, EgoState) and m.capture_ns == time_ns)


def test_it_is_a_source_with_every_class_and_sensor(source: SyntheticSource, drive: list[AnyMessage]) -> None:
    assert isinstance(source, Source)
    assert {CLASSES[i] for i in _labels(source).class_index} == set(CLASSES)
    assert {m.sensor for m in drive} == {s.name for s in source.rig.sensors} | {"ego", "route"}
    arrivals = [m.arrival_ns for m in drive]
    assert arrivals == sorted(arrivals)
    assert all(m.capture_ns % 1000 == 0 for m in drive)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    def payloads(seed: int) -> Iterator[bytes]:
        for message in SyntheticSource(seed=seed, duration_s=0.1, rig=small_rig()).messages():
            if isinstance(message, CameraFrame):
                yield message.data
            elif isinstance(message, LidarSweep | RadarScan):
                yield message.points_m.tobytes()

    first = list(payloads(7))
    assert first == list(payloads(7))
    assert first != list(payloads(8))


def test_lidar_points_above_ground_lie_in_boxes_and_match_the_counts(
    source: SyntheticSource, drive: list[AnyMessage]
) -> None:
    labels = _labels(source)
    sweep = next(m for m in drive if isinstance(m, LidarSweep) and m.capture_ns == labels.reference_ns)
    points = transform_points(source.rig["LIDAR_TOP"].ego_SE3_sensor, sweep.points_m.astype(np.float64))
    rotations = quaternion_to_rotation(labels.quaternion_wxyz)
    inside = np.stack(
        [points_in_box(points, *box) for box in zip(labels.center_m, labels.size_m, rotations, strict=True)]
    )
    is_close = np.linalg.norm(points[:, :2], axis=1) < 40.0
    assert np.all(np.any(inside, axis=0)[is_close & (points[:, 2] > 0.05)])
    assert np.all(np.sum(inside, axis=0) <= 1)
    assert np.array_equal(np.sum(inside, axis=1), labels.num_lidar_points)
    assert np.sum(labels.num_lidar_points > 5) >= 10


def test_returns_lie_on_surfaces_that_face_the_lidar(source: SyntheticSource, drive: list[AnyMessage]) -> None:
    labels = _labels(source)
    sweep = next(m for m in drive if isinstance(m, LidarSweep) and m.capture_ns == labels.reference_ns)
    mount = source.rig["LIDAR_TOP"].ego_SE3_sensor
    points = transform_points(mount, sweep.points_m.astype(np.float64))
    k = int(np.argmax(labels.num_lidar_points))
    rotation = quaternion_to_rotation(labels.quaternion_wxyz[k])
    hits = points[points_in_box(points, labels.center_m[k], labels.size_m[k], rotation)]
    local = (hits - labels.center_m[k]) @ rotation
    depth = np.min(labels.size_m[k] / 2 - np.abs(local), axis=1)
    assert np.max(depth) < 0.03
    assert np.all(np.linalg.norm(hits - mount[:3, 3], axis=1) < np.linalg.norm(labels.center_m[k] - mount[:3, 3]) + 4)


def test_boxes_project_onto_painted_objects(source: SyntheticSource, drive: list[AnyMessage]) -> None:
    """At the centre of the nearest visible box of each camera there is its colour, at some shade."""
    labels = _labels(source)
    checked = 0
    for frame in drive:
        if not isinstance(frame, CameraFrame) or frame.capture_ns != labels.reference_ns:
            continue
        sensor = source.rig[frame.sensor]
        assert sensor.camera is not None
        centers = transform_points(invert(sensor.ego_SE3_sensor), labels.center_m)
        pixels, is_visible = sensor.camera.project(centers)
        if not np.any(is_visible):
            continue
        k = int(np.argmin(np.where(is_visible, np.linalg.norm(centers, axis=1), np.inf)))
        image = cv2.imdecode(np.frombuffer(frame.data, dtype=np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape[:2] == (sensor.camera.height_px, sensor.camera.width_px)
        u, v = np.round(pixels[k]).astype(int)
        seen = image[v, u].astype(float)
        wanted = np.array(COLOURS[CLASSES[labels.class_index[k]]], dtype=float)
        shade = float(seen @ wanted / (wanted @ wanted))
        assert 0.5 < shade < 1.1
        assert np.max(np.abs(seen - shade * wanted)) < 20
        checked += 1
    assert checked >= 3


def test_range_rate_is_the_derivative_of_the_range(source: SyntheticSource, drive: list[AnyMessage]) -> None:
    """Move box and radar by their velocities for a millisecond: the change in range is the range rate."""
    labels = _labels(source, 0)
    step_s = 1e-3
    ego = _pose(drive, labels.reference_ns)
    assert ego.velocity_mps is not None
    assert ego.yaw_rate_radps is not None
    checked = 0
    for scan in drive:
        if not isinstance(scan, RadarScan) or scan.capture_ns != labels.reference_ns:
            continue
        mount = source.rig[scan.sensor].ego_SE3_sensor
        points = transform_points(mount, scan.points_m.astype(np.float64))
        turn = ego.yaw_rate_radps * np.array([-mount[1, 3], mount[0, 3]])
        later_xy = mount[:2, 3] + (ego.velocity_mps + turn) * step_s
        for k, rotation in enumerate(quaternion_to_rotation(labels.quaternion_wxyz)):
            inside = points_in_box(points, labels.center_m[k], labels.size_m[k], rotation) & scan.is_valid
            before = np.linalg.norm(points[inside, :2] - mount[:2, 3], axis=1)
            moved = points[inside, :2] + labels.velocity_mps[k] * step_s
            rate = (np.linalg.norm(moved - later_xy, axis=1) - before) / step_s
            assert np.allclose(scan.radial_mps[inside], rate, atol=0.02)
            assert scan.compensated_mps is not None
            over_ground = (np.linalg.norm(moved - mount[:2, 3], axis=1) - before) / step_s
            assert np.allclose(scan.compensated_mps[inside], over_ground, atol=0.02)
            checked += int(np.sum(inside))
    assert checked >= 10


def test_poses_move_as_the_velocity_says(drive: list[AnyMessage]) -> None:
    states = [m for m in drive if isinstance(m, EgoState)]
    for before, after in pairwise(states):
        assert before.world_SE3_ego is not None
        assert after.world_SE3_ego is not None
        assert before.velocity_mps is not None
        step_s = (after.capture_ns - before.capture_ns) / 1e9
        moved = (invert(before.world_SE3_ego) @ after.world_SE3_ego)[:2, 3]
        assert np.allclose(moved / step_s, before.velocity_mps, atol=0.01)


def test_every_box_moves_at_its_labelled_velocity(source: SyntheticSource, drive: list[AnyMessage]) -> None:
    first, second = _labels(source, 0), _labels(source, 1)
    world = []
    for labels in (first, second):
        pose = _pose(drive, labels.reference_ns).world_SE3_ego
        assert pose is not None
        velocity = labels.velocity_mps @ pose[:2, :2].T
        centers = transform_points(pose, labels.center_m)
        world.append({track: (centers[k], velocity[k]) for k, track in enumerate(labels.track_id)})
    step_s = (second.reference_ns - first.reference_ns) / 1e9
    both = world[0].keys() & world[1].keys()
    assert len(both) >= 10
    for track in both:
        moved = (world[1][track][0] - world[0][track][0])[:2]
        assert np.allclose(moved / step_s, world[0][track][1], atol=1e-6)
        assert np.allclose(world[0][track][1], world[1][track][1], atol=1e-9)


def test_a_rig_of_one_camera_works_and_a_fisheye_is_refused() -> None:
    camera = small_rig()["CAM_FRONT"]
    alone = SyntheticSource(duration_s=0.2, rig=SensorRig(sensors=(camera,)))
    labels = alone.labels(alone.label_times_ns[0])
    assert labels is not None
    assert not np.any(labels.num_lidar_points)
    assert camera.camera is not None
    fisheye = type(camera.camera)(
        width_px=100,
        height_px=100,
        intrinsic=camera.camera.intrinsic,
        projection=type(camera.camera.projection)("kannala_brandt"),
        distortion=np.zeros(4),
    )
    bent = Sensor(name="EYE", modality=camera.modality, ego_SE3_sensor=np.eye(4), frequency_hz=10.0, camera=fisheye)
    with pytest.raises(DriveError, match=r"EYE.*pinhole"):
        SyntheticSource(rig=SensorRig(sensors=(bent,)))
