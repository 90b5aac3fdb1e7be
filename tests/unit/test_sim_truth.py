"""Labels against geometry worked out by hand, from an ego that moves and turns."""

import math
from dataclasses import replace

import numpy as np
import pytest

from perception.core.geometry import invert, transform_points
from perception.core.labels import points_in_box
from perception.core.messages import LidarSweep, RadarScan, SweepMotion
from perception.core.rig import Modality, Sensor, SensorRig
from perception.core.taxonomy import NO_CLASS
from sim.truth import boxes_at, count_inside, drivable_raster, future_path, labels_at, line_ahead, swept_points
from tests.unit.sim_situations import StraightWorld

MOUNT = np.eye(4)
MOUNT[:3, 3] = (1.0, 0.0, 1.8)
RIG = SensorRig(
    sensors=(
        Sensor(name="lidar", modality=Modality.LIDAR, ego_SE3_sensor=MOUNT, frequency_hz=10.0),
        Sensor(name="radar", modality=Modality.RADAR, ego_SE3_sensor=MOUNT, frequency_hz=10.0),
    )
)
REFERENCE_NS = 2_000_000_000


def _sweep(world: StraightWorld, points_world: np.ndarray, span_ns: int = 100_000_000) -> LidarSweep:
    """What a turning, moving lidar sees of points that stand still: each from its own place and time, raw."""
    offsets = np.linspace(-span_ns, 0, len(points_world)).astype(np.int32)
    seen = [
        transform_points(invert(world.ego_at(REFERENCE_NS + int(dt)).world_SE3_ego @ MOUNT), point[None])[0]
        for dt, point in zip(offsets, points_world, strict=True)
    ]
    return LidarSweep(
        sensor="lidar",
        capture_ns=REFERENCE_NS,
        arrival_ns=REFERENCE_NS,
        points_m=np.array(seen, dtype=np.float32),
        intensity=np.zeros(len(seen), dtype=np.float32),
        motion=SweepMotion.RAW,
        point_offset_ns=offsets,
    )


def test_boxes_are_seen_from_the_ego_at_the_reference() -> None:
    world = StraightWorld([(1, "car", 40.0, 6.0, math.pi / 2, 3.0)], yaw_rate=0.2)
    labels = labels_at(world, REFERENCE_NS, RIG, [], [])
    angle = 0.4
    away = np.array([40.0 - 20.0, 6.0 + 6.0])
    expected = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) @ away
    assert np.allclose(labels.center_m[0], [*expected, 0.75], atol=1e-9)
    assert math.isclose(float(labels.yaw_rad[0]), math.pi / 2 - angle, abs_tol=1e-9)
    assert np.allclose(labels.velocity_mps[0], [3.0 * math.sin(angle), 3.0 * math.cos(angle)])
    assert (labels.track_id, labels.category) == (("actor-1",), ("test.car",))
    assert labels.size_m.tolist() == [[4.5, 1.8, 1.5]]


def test_lidar_points_are_counted_after_deskewing() -> None:
    world = StraightWorld([(1, "car", 30.0, 4.0, 0.0, 0.0), (2, "car", 45.0, 4.0, 0.0, 0.0)], yaw_rate=0.5)
    rng = np.random.default_rng(3)
    inside = np.array([30.0, 4.0, 0.75]) + rng.uniform(-0.5, 0.5, (50, 3)) * [4.4, 1.7, 1.4]
    outside = np.array([30.0, 4.0, 0.75]) + np.array([[2.4, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.9]])
    sweep = _sweep(world, np.concatenate([inside, outside]))
    labels = labels_at(world, REFERENCE_NS, RIG, [sweep], [])
    assert labels.num_lidar_points.tolist() == [50, 0]
    skewed = transform_points(MOUNT, sweep.points_m.astype(np.float64))
    boxes = boxes_at(world, REFERENCE_NS)
    assert count_inside(skewed, boxes.ego_SE3_box, boxes.size_m)[0] < 45


def test_deskewed_wall_is_sharp_and_the_raw_one_is_not() -> None:
    world = StraightWorld([], yaw_rate=0.6)
    wall = np.stack([np.full(200, 40.0), np.linspace(-15, 15, 200), np.full(200, 1.0)], axis=1)
    sweep = _sweep(world, wall)
    sharp = swept_points(world, sweep, MOUNT, REFERENCE_NS)
    world_SE3_ego = world.ego_at(REFERENCE_NS).world_SE3_ego
    raw = transform_points(world_SE3_ego @ MOUNT, sweep.points_m.astype(np.float64))
    assert np.abs(transform_points(world_SE3_ego, sharp)[:, 0] - 40.0).max() < 2e-3
    assert np.abs(raw[:, 0] - 40.0).max() > 0.5


def test_counts_agree_with_a_plain_test_of_every_point() -> None:
    world = StraightWorld([(i, "car", 20.0 + 7 * i, (-1) ** i * 5.0, 0.3 * i, 0.0) for i in range(6)])
    boxes = boxes_at(world, REFERENCE_NS)
    points = np.random.default_rng(5).uniform([-10, -12, 0], [60, 12, 2], (20_000, 3))
    plain = [
        int(points_in_box(points, pose[:3, 3], size, pose[:3, :3]).sum())
        for pose, size in zip(boxes.ego_SE3_box, boxes.size_m, strict=True)
    ]
    assert min(plain) > 5
    assert count_inside(points, boxes.ego_SE3_box, boxes.size_m).tolist() == plain


def test_radar_returns_count_over_the_box_at_their_own_time() -> None:
    world = StraightWorld([(1, "car", 40.0, 0.0, 0.0, 15.0)])
    captured = REFERENCE_NS - 60_000_000
    x_ego = 40.0 + 15.0 * 1.94 - 19.4
    points = np.array([[x_ego - 2.3, 0.8, 0.0], [x_ego - 6.0, 0.0, 0.0]]) - MOUNT[:3, 3]
    scan = RadarScan(
        sensor="radar",
        capture_ns=captured,
        arrival_ns=captured,
        points_m=points.astype(np.float32),
        rcs_dbsm=np.zeros(2, dtype=np.float32),
        radial_mps=np.zeros(2, dtype=np.float32),
        compensated_mps=None,
        is_valid=np.ones(2, dtype=bool),
    )
    assert labels_at(world, REFERENCE_NS, RIG, [], [scan]).num_radar_points.tolist() == [1]


def test_actors_out_of_range_are_left_out_and_none_is_no_error() -> None:
    far = StraightWorld([(1, "car", 140.0, 0.0, 0.0, 0.0)])
    assert len(labels_at(far, REFERENCE_NS, RIG, [], [])) == 0
    assert len(labels_at(StraightWorld([]), REFERENCE_NS, RIG, [], [])) == 0


def test_what_has_no_class_is_scenery_and_gets_no_label() -> None:
    world = StraightWorld([(1, "car", 40.0, 0.0, 0.0, 0.0), (2, "car", 50.0, 0.0, 0.0, 0.0)])
    assert len(labels_at(world, REFERENCE_NS, RIG, [], [])) == 2
    head = replace(world.models["car"], category="static_object.signal", class_index=NO_CLASS)
    world.models = {**world.models, "car": head}
    assert len(labels_at(world, REFERENCE_NS, RIG, [], [])) == 0


def test_future_path_is_where_the_ego_will_be() -> None:
    world = StraightWorld([], yaw_rate=0.0)
    times = np.array([0.5, 1.0, 3.0])
    assert np.allclose(future_path(world, REFERENCE_NS, times), [[5.0, 0.0], [10.0, 0.0], [30.0, 0.0]])
    with pytest.raises(ValueError, match="known to"):
        future_path(world, 59_000_000_000, times)


def test_drivable_raster_turns_with_the_ego() -> None:
    world = StraightWorld([], yaw_rate=math.pi / 4)
    raster = drivable_raster(lambda points: np.abs(points[:, 1]) < 2.0, world.ego_at(REFERENCE_NS), 10.0, 0.5)
    # The ego looks along +y here, so that the road along x lies across: rows near the middle, all columns.
    assert raster.shape == (40, 40)
    assert raster[16:24].all()
    assert not raster[:15].any()
    assert not raster[25:].any()
    assert np.allclose(line_ahead(np.array([[20.0, 5.0, 0.0]]), world.ego_at(REFERENCE_NS)), [[5.0, 0.0]])
