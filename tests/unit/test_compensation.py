"""Sweeps and scans at the reference time: a standing world stands still in them, and nothing is moved twice."""

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.geometry import integrate_twist, invert, se3_from_yaw, transform_points
from perception.core.messages import LidarSweep, RadarScan, SweepMotion
from perception.core.motion import EgoMotion, MotionSource
from perception.sync.compensation import mount_velocity, scan_at_reference, sweep_at_reference

Float = NDArray[np.float64]

MS = 1_000_000
T0 = 1_700_000_000_000_000_000
VELOCITY = np.array([30.0, 0.4])
YAW_RATE_RADPS = 0.2
MOUNT = se3_from_yaw(0.6, (1.2, -0.3, 1.8))


def motion() -> EgoMotion:
    knots = T0 + np.arange(-150, 151, 10, dtype=np.int64) * MS
    return EgoMotion(
        reference_ns=T0,
        knots_ns=knots,
        reference_SE3_ego=integrate_twist(VELOCITY, YAW_RATE_RADPS, (knots - T0) / 1e9),
        velocity_mps=VELOCITY,
        yaw_rate_radps=YAW_RATE_RADPS,
        world_SE3_ego=None,
        source=MotionSource.ODOMETRY,
    )


def world(count: int = 500) -> Float:
    """Standing points (N, 3), given in the ego frame at the reference."""
    return np.random.default_rng(0).uniform([-60, -60, 0], [60, 60, 4], (count, 3))


def seen_at(points: Float, times_ns: NDArray[np.int64]) -> NDArray[np.float32]:
    """What a sensor at MOUNT measures of standing points (N, 3), each at its own time."""
    reference_SE3_sensor = motion().at_many(times_ns) @ MOUNT
    sensor_SE3_reference = invert(reference_SE3_sensor)
    moved: Float = np.einsum("nij,nj->ni", sensor_SE3_reference[:, :3, :3], points) + sensor_SE3_reference[:, :3, 3]
    return moved.astype(np.float32)


def sweep_of(points: NDArray[np.float32], kind: SweepMotion, capture_ms: int, offsets_ns: object = None) -> LidarSweep:
    return LidarSweep(
        sensor="lidar",
        capture_ns=T0 + capture_ms * MS,
        arrival_ns=T0 + 90 * MS,
        points_m=points,
        intensity=np.linspace(0, 1, len(points), dtype=np.float32),
        motion=kind,
        point_offset_ns=None if offsets_ns is None else np.asarray(offsets_ns, dtype=np.int32),
    )


def test_a_raw_sweep_is_deskewed_point_by_point() -> None:
    points = world()
    offsets = np.random.default_rng(1).integers(-68 * MS, 32 * MS, len(points))
    raw = sweep_of(seen_at(points, T0 - 20 * MS + offsets), SweepMotion.RAW, -20, offsets)
    moved = sweep_at_reference(raw, MOUNT, motion())
    np.testing.assert_allclose(moved.points_ego_m, points, atol=1e-3)
    np.testing.assert_allclose(moved.offset_s, (offsets - 20 * MS) / 1e9, atol=1e-6)
    assert moved.is_deskewed
    assert moved.points_ego_m.dtype == moved.offset_s.dtype == np.float32


def test_a_compensated_sweep_is_moved_once_and_as_a_whole() -> None:
    points = world()
    offsets = np.random.default_rng(1).integers(-50 * MS, 0, len(points))
    at_capture = seen_at(points, np.full(len(points), T0 - 40 * MS))
    moved = sweep_at_reference(sweep_of(at_capture, SweepMotion.COMPENSATED, -40, offsets), MOUNT, motion())
    np.testing.assert_allclose(moved.points_ego_m, points, atol=1e-3)
    np.testing.assert_allclose(moved.offset_s, (offsets - 40 * MS) / 1e9, atol=1e-6)
    assert moved.is_deskewed


def test_a_raw_sweep_without_point_times_says_that_it_is_not_deskewed() -> None:
    points = world()
    at_capture = seen_at(points, np.full(len(points), T0 - 40 * MS))
    moved = sweep_at_reference(sweep_of(at_capture, SweepMotion.RAW, -40), MOUNT, motion())
    np.testing.assert_allclose(moved.points_ego_m, points, atol=1e-3)
    assert not moved.is_deskewed
    assert np.unique(moved.offset_s) == np.float32(-0.04)


@pytest.mark.parametrize("kind", list(SweepMotion))
def test_points_that_are_not_finite_go_with_all_that_belongs_to_them(kind: SweepMotion) -> None:
    points = world().astype(np.float32)
    points[3, 1], points[7] = np.nan, np.inf
    offsets = np.arange(len(points))
    moved = sweep_at_reference(sweep_of(points, kind, 0, offsets), np.eye(4), EgoMotion.standing(T0))
    kept = np.delete(np.arange(len(points)), [3, 7])
    np.testing.assert_array_equal(moved.points_ego_m, points[kept])
    np.testing.assert_array_equal(moved.intensity, np.linspace(0, 1, len(points), dtype=np.float32)[kept])
    np.testing.assert_allclose(moved.offset_s, offsets[kept] / 1e9)
    assert moved.nonfinite == 2


def test_an_empty_sweep_stays_empty() -> None:
    moved = sweep_at_reference(sweep_of(np.zeros((0, 3), np.float32), SweepMotion.RAW, 0), MOUNT, motion())
    assert moved.points_ego_m.shape == (0, 3)
    assert moved.offset_s.shape == moved.intensity.shape == (0,)


def scan_of(points: NDArray[np.float32], radial: Float, compensated: Float | None = None) -> RadarScan:
    return RadarScan(
        sensor="radar",
        capture_ns=T0 - 30 * MS,
        arrival_ns=T0,
        points_m=points,
        rcs_dbsm=np.arange(len(points), dtype=np.float32),
        radial_mps=radial.astype(np.float32),
        compensated_mps=None if compensated is None else compensated.astype(np.float32),
        is_valid=np.ones(len(points), dtype=bool),
    )


def range_rates(points_sensor: NDArray[np.float32], velocity_ego: Float) -> Float:
    """Range rates (N,) of targets that move over ground at `velocity_ego` (3,), by differencing their ranges."""
    seconds = 1e-4
    ego_SE3_later = integrate_twist(VELOCITY, YAW_RATE_RADPS, seconds)
    points_ego = transform_points(MOUNT, points_sensor.astype(np.float64))
    later = transform_points(invert(MOUNT) @ invert(ego_SE3_later), points_ego + velocity_ego * seconds)
    rates: Float = (np.linalg.norm(later, axis=1) - np.linalg.norm(points_sensor.astype(np.float64), axis=1)) / seconds
    return rates


@pytest.mark.parametrize("velocity", [(0.0, 0.0, 0.0), (12.0, -3.0, 0.0)])
def test_range_rates_are_compensated_for_the_motion_of_the_mount(velocity: tuple[float, float, float]) -> None:
    points = seen_at(world(), np.full(500, T0 - 30 * MS))
    moved = scan_at_reference(scan_of(points, range_rates(points, np.array(velocity))), MOUNT, motion())
    np.testing.assert_allclose(moved.points_ego_m, world(), atol=1e-3)
    turned = motion().at(T0 - 30 * MS)[:3, :3] @ np.array(velocity)
    np.testing.assert_allclose(moved.compensated_mps, moved.direction @ turned, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(moved.direction, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(moved.offset_s, -0.03, atol=1e-6)


def test_what_a_radar_compensated_itself_is_left_alone() -> None:
    points = world(20).astype(np.float32)
    own = np.linspace(-5, 5, 20)
    moved = scan_at_reference(scan_of(points, np.zeros(20), own), MOUNT, motion())
    np.testing.assert_array_equal(moved.compensated_mps, own.astype(np.float32))


def test_invalid_and_broken_returns_are_left_out() -> None:
    points = world(6).astype(np.float32)
    points[1] = np.nan
    scan = scan_of(points, np.array([0, 0, np.nan, 0, 0, 0.0]))
    scan.is_valid[4] = False
    moved = scan_at_reference(scan, np.eye(4), EgoMotion.standing(T0))
    np.testing.assert_array_equal(moved.rcs_dbsm, [0, 3, 5])
    assert len(moved.points_ego_m) == len(moved.direction) == len(moved.offset_s) == 3


def test_the_mount_moves_with_the_lever_arm() -> None:
    velocity = mount_velocity(se3_from_yaw(1.0, (3.0, -1.0, 0.5)), np.array([10.0, 0.0]), 0.5)
    np.testing.assert_allclose(velocity, [10.5, 1.5, 0.0])
