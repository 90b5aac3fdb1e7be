"""Doppler ego velocity: exact worlds with moving traffic, noise, one radar or several."""

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.geometry import invert, se3_from_yaw, transform_points
from perception.core.messages import RadarScan
from perception.sync.compensation import mount_velocity
from perception.sync.ego_motion_doppler import DopplerOdometry, fit_ego_velocity, stack_returns

Float = NDArray[np.float64]

MS = 1_000_000
FRONT = se3_from_yaw(0.0, (3.8, 0.0, 0.5))
LEFT = se3_from_yaw(1.4, (2.5, 0.9, 0.5))
REAR = se3_from_yaw(np.pi, (-1.1, 0.0, 0.6))


def scan(
    mount: Float,
    velocity: tuple[float, float],
    yaw_rate: float,
    *,
    seed: int = 0,
    name: str = "front",
    time_ms: int = 0,
    count: int = 60,
    moving: int = 15,
    half_angle_rad: float = 0.8,
) -> RadarScan:
    """Returns of standing targets ahead of a mount, some of moving ones, with noise of 0.1 m/s."""
    rng = np.random.default_rng(seed)
    azimuth, ranges = rng.uniform(-half_angle_rad, half_angle_rad, count), rng.uniform(5, 100, count)
    points = np.stack([ranges * np.cos(azimuth), ranges * np.sin(azimuth), rng.uniform(-1, 1, count)], axis=1)
    direction = points / np.linalg.norm(points, axis=1, keepdims=True) @ mount[:3, :3].T
    targets = np.zeros((count, 3))
    targets[:moving, 0] = rng.uniform(5, 35, moving) * rng.choice([-1, 1], moving)
    relative = targets - mount_velocity(mount, np.array(velocity), yaw_rate)
    radial = np.sum(direction * relative, axis=1) + rng.normal(0, 0.1, count)
    return RadarScan(
        sensor=name,
        capture_ns=time_ms * MS,
        arrival_ns=time_ms * MS,
        points_m=points.astype(np.float32),
        rcs_dbsm=np.zeros(count, np.float32),
        radial_mps=radial.astype(np.float32),
        compensated_mps=None,
        is_valid=np.ones(count, dtype=bool),
    )


@pytest.mark.parametrize(("speed", "yaw_rate"), [(30.0, 0.0), (8.0, 0.4), (8.0, -0.4), (0.0, 0.0), (-2.0, 0.1)])
def test_one_radar_tells_speed_and_turn_over_the_rear_axle(speed: float, yaw_rate: float) -> None:
    for seed in range(5):
        fit = fit_ego_velocity(stack_returns([scan(FRONT, (speed, 0.0), yaw_rate, seed=seed)], [FRONT]))
        assert fit is not None
        assert fit.twist[0] == pytest.approx(speed, abs=0.15)
        assert fit.twist[2] == pytest.approx(yaw_rate, abs=0.06)
        assert fit.static >= 40


def test_several_radars_tell_sideways_slip_from_turning() -> None:
    mounts = [FRONT, LEFT, REAR]
    truth = (15.0, 0.35)
    scans = [scan(mount, truth, 0.1, seed=i, count=150, moving=20) for i, mount in enumerate(mounts)]
    fit = fit_ego_velocity(stack_returns(scans, mounts))
    assert fit is not None
    assert (np.abs(fit.twist - np.array([*truth, 0.1])) < np.array([0.08, 0.1, 0.03])).all()


def test_the_fit_survives_more_moving_than_standing_targets() -> None:
    fit = fit_ego_velocity(stack_returns([scan(FRONT, (20.0, 0.0), 0.0, count=80, moving=48)], [FRONT]))
    assert fit is not None
    assert fit.twist[0] == pytest.approx(20.0, abs=0.2)


def test_a_queue_of_returns_without_a_standing_world_tells_nothing() -> None:
    rng = np.random.default_rng(0)
    noise = scan(FRONT, (10.0, 0.0), 0.0, count=40)
    scattered = RadarScan(
        sensor="front",
        capture_ns=0,
        arrival_ns=0,
        points_m=noise.points_m,
        rcs_dbsm=noise.rcs_dbsm,
        radial_mps=rng.uniform(-60, 60, 40).astype(np.float32),
        compensated_mps=None,
        is_valid=noise.is_valid,
    )
    assert fit_ego_velocity(stack_returns([scattered], [FRONT])) is None
    few = scan(FRONT, (10.0, 0.0), 0.0, count=4, moving=0)
    assert fit_ego_velocity(stack_returns([few], [FRONT])) is None
    assert fit_ego_velocity(stack_returns([], [])) is None


def test_the_order_of_returns_changes_nothing() -> None:
    returns = stack_returns([scan(FRONT, (12.0, 0.0), 0.2, count=40)], [FRONT])
    order = np.random.default_rng(1).permutation(40)
    shuffled = type(returns)(rates=returns.rates[order], radial_mps=returns.radial_mps[order])
    first, second = fit_ego_velocity(returns), fit_ego_velocity(shuffled)
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first.twist, second.twist, atol=1e-9)


def test_invalid_and_broken_returns_do_not_count() -> None:
    broken = scan(FRONT, (12.0, 0.0), 0.0)
    broken.is_valid[:10] = False
    broken.points_m[10:12] = np.nan
    broken.radial_mps[12:15] = np.nan
    assert len(stack_returns([broken], [FRONT]).radial_mps) == 45


def test_the_stream_follows_acceleration_and_joins_radars() -> None:
    odometry = DopplerOdometry()
    state = None
    for step in range(30):
        time_ms = 70 * step
        truth = (5.0 + 3.0 * time_ms / 1e3, 0.0)
        odometry.observe(scan(FRONT, truth, 0.15, seed=step, time_ms=time_ms), FRONT)
        state = odometry.observe(scan(REAR, truth, 0.15, seed=100 + step, name="rear", time_ms=time_ms + 5), REAR)
        assert state is not None
        assert state.velocity_mps is not None
        assert state.velocity_mps[0] == pytest.approx(truth[0], abs=0.15)
    assert state is not None
    assert state.yaw_rate_radps == pytest.approx(0.15, abs=0.05)


def test_a_misaligned_mount_does_not_pass_for_turning() -> None:
    odometry = DopplerOdometry()
    believed, true_mount = FRONT, FRONT @ se3_from_yaw(np.deg2rad(0.5))
    state = None
    for step in range(15):
        measured = scan(true_mount, (30.0, 0.0), 0.0, seed=step, time_ms=70 * step, half_angle_rad=0.4)
        state = odometry.observe(measured, believed)
    assert state is not None
    assert state.yaw_rate_radps == pytest.approx(0.0, abs=0.05)


def test_scans_from_before_a_gap_are_forgotten() -> None:
    odometry = DopplerOdometry()
    odometry.observe(scan(FRONT, (30.0, 0.0), 0.0), FRONT)
    state = odometry.observe(scan(FRONT, (2.0, 0.0), 0.0, time_ms=5_000), FRONT)
    assert state is not None
    assert state.velocity_mps is not None
    assert state.velocity_mps[0] == pytest.approx(2.0, abs=0.15)


def test_range_rates_have_the_sign_of_the_contract() -> None:
    ahead = transform_points(invert(FRONT), np.array([[50.0, 0.0, 0.5]]))
    returns = stack_returns(
        [
            RadarScan(
                sensor="front",
                capture_ns=0,
                arrival_ns=0,
                points_m=ahead.astype(np.float32),
                rcs_dbsm=np.zeros(1, np.float32),
                radial_mps=np.array([-30.0], np.float32),
                compensated_mps=None,
                is_valid=np.ones(1, dtype=bool),
            )
        ],
        [FRONT],
    )
    np.testing.assert_allclose(returns.residuals(np.array([30.0, 0.0, 0.0])), [0.0], atol=1e-3)
