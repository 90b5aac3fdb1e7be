"""Which source of ego motion is taken: poses before odometry before radar before lidar before nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.geometry import integrate_twist, invert, transform_points
from perception.core.messages import EgoState, LidarSweep, RadarScan, SweepMotion
from perception.core.motion import MotionSource
from perception.core.rig import Modality, Sensor, SensorRig
from perception.sync.ego_estimator import EgoMotionEstimator

Float = NDArray[np.float64]

MS = 1_000_000
T0 = 1_700_000_000_000_000_000
SPAN_NS = 100 * MS
SPEED_MPS, YAW_RATE_RADPS = 14.0, 0.1


def rig(*modalities: Modality) -> SensorRig:
    return SensorRig(
        sensors=tuple(
            Sensor(name=modality.value, modality=modality, ego_SE3_sensor=np.eye(4), frequency_hz=10.0)
            for modality in modalities
        )
    )


def state(time_ms: int, *, pose: bool, speed: float | None = None) -> EgoState:
    return EgoState(
        capture_ns=T0 + time_ms * MS,
        arrival_ns=T0 + time_ms * MS,
        world_SE3_ego=integrate_twist([SPEED_MPS, 0.0], 0.0, time_ms / 1e3) if pose else None,
        velocity_mps=None if speed is None else np.array([speed, 0.0]),
        yaw_rate_radps=None if speed is None else 0.0,
    )


def radar(time_ms: int, speed: float) -> RadarScan:
    azimuth = np.linspace(-0.7, 0.7, 30)
    direction = np.stack([np.cos(azimuth), np.sin(azimuth), np.zeros(30)], axis=1)
    return RadarScan(
        sensor="radar",
        capture_ns=T0 + time_ms * MS,
        arrival_ns=T0 + time_ms * MS,
        points_m=(direction * 30).astype(np.float32),
        rcs_dbsm=np.zeros(30, np.float32),
        radial_mps=(-speed * direction[:, 0]).astype(np.float32),
        compensated_mps=None,
        is_valid=np.ones(30, dtype=bool),
    )


def street() -> Float:
    """Points (N, 3) on a ground plane, two broken house fronts and poles."""
    rng = np.random.default_rng(0)
    ground = np.stack([rng.uniform(-50, 70, 6000), rng.uniform(-12, 12, 6000), np.zeros(6000)], axis=1)
    x = rng.uniform(-50, 70, 8000)
    side = rng.choice([-1, 1], 8000)
    front = np.stack([x, side * (11 + 2 * (np.floor(x / 7) % 2)), rng.uniform(0, 6, 8000)], axis=1)
    gable = np.stack([7 * rng.integers(-7, 10, 3000), side[:3000] * rng.uniform(11, 13, 3000), front[:3000, 2]], axis=1)
    return np.concatenate([ground, front, gable])


def sweep(time_ms: int) -> LidarSweep:
    """A raw sweep of the street from a vehicle on an arc, each point at its own time."""
    rng = np.random.default_rng(time_ms)
    world = street() + rng.normal(0, 0.02, (17_000, 3))
    offsets = np.sort(rng.integers(-80 * MS, 0, len(world)))
    points = np.empty((len(world), 3), dtype=np.float32)
    for rows in np.array_split(np.arange(len(world)), 40):
        at_s = time_ms / 1e3 + float(offsets[rows].mean()) / 1e9
        offsets[rows] = round(offsets[rows].mean())
        world_SE3_ego = integrate_twist([SPEED_MPS, 0.0], YAW_RATE_RADPS, at_s)
        points[rows] = transform_points(invert(world_SE3_ego), world[rows] - [0, 0, 1.8])
    return LidarSweep(
        sensor="lidar",
        capture_ns=T0 + time_ms * MS,
        arrival_ns=T0 + time_ms * MS,
        points_m=points,
        intensity=np.zeros(len(points), np.float32),
        motion=SweepMotion.RAW,
        point_offset_ns=offsets.astype(np.int32),
    )


def test_the_best_source_that_speaks_is_taken() -> None:
    estimator = EgoMotionEstimator(rig(Modality.RADAR))
    assert estimator.motion_at(T0, SPAN_NS).source is MotionSource.NONE
    estimator.observe(radar(0, 9.0))
    by_radar = estimator.motion_at(T0 + 20 * MS, SPAN_NS)
    assert by_radar.source is MotionSource.RADAR
    assert by_radar.speed_mps == pytest.approx(9.0, abs=0.05)
    estimator.observe(state(30, pose=False, speed=10.0))
    assert estimator.motion_at(T0 + 40 * MS, SPAN_NS).source is MotionSource.ODOMETRY
    for time in (50, 100, 150):
        estimator.observe(state(time, pose=True))
    by_poses = estimator.motion_at(T0 + 120 * MS, SPAN_NS)
    assert by_poses.source is MotionSource.POSES
    assert by_poses.speed_mps == pytest.approx(SPEED_MPS, abs=0.01)


def test_radar_steps_in_when_poses_stop() -> None:
    estimator = EgoMotionEstimator(rig(Modality.RADAR))
    for time in range(0, 3000, 50):
        if time < 1000:
            estimator.observe(state(time, pose=True))
        estimator.observe(radar(time, SPEED_MPS))
    assert estimator.motion_at(T0 + 900 * MS, SPAN_NS).source is MotionSource.POSES
    late = estimator.motion_at(T0 + 2940 * MS, SPAN_NS)
    assert late.source is MotionSource.RADAR
    assert late.speed_mps == pytest.approx(SPEED_MPS, abs=0.1)


def test_lidar_odometry_finds_speed_and_turn_where_nothing_else_tells() -> None:
    estimator = EgoMotionEstimator(rig(Modality.LIDAR))
    for time in (0, 100, 250, 350, 450, 550):
        estimator.observe(sweep(time))
    motion = estimator.motion_at(T0 + 540 * MS, SPAN_NS)
    assert motion.source is MotionSource.LIDAR
    assert motion.velocity_mps[0] == pytest.approx(SPEED_MPS, abs=0.4)
    assert motion.velocity_mps[1] == pytest.approx(0.0, abs=0.4)
    assert motion.yaw_rate_radps == pytest.approx(YAW_RATE_RADPS, abs=0.03)


def test_lidar_odometry_stays_away_where_radar_or_poses_speak() -> None:
    for other in (radar(100, 9.0), state(100, pose=True)):
        estimator = EgoMotionEstimator(rig(Modality.LIDAR, Modality.RADAR))
        for time in (0, 100):
            estimator.observe(sweep(time))
        estimator.observe(other)
        for time in (300, 400):
            estimator.observe(sweep(time))
        assert estimator.motion_at(T0 + 1_000 * MS, SPAN_NS).source is MotionSource.NONE
