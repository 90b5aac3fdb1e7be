"""The synchronizer and the ego-motion estimators on recorded drives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from perception.config.schema import SyncConfig
from perception.core.bundle import SensorBundle, Stamp
from perception.core.messages import CameraFrame, EgoState, LidarSweep, RadarScan, SweepMotion
from perception.core.motion import MotionSource
from perception.core.ports import Source
from perception.core.rig import Modality, SensorRig
from perception.sources.aimotive import AiMotiveSource
from perception.sources.nuscenes import NuScenesSource
from perception.sources.pandaset import PandaSetSource
from perception.sync.compensation import sweep_at_reference
from perception.sync.ego_estimator import EgoMotionEstimator
from perception.sync.synchronizer import Synchronizer

pytestmark = pytest.mark.data

Points = NDArray[np.float32]

SPAN_NS = 150_000_000


def bundles_of(source: Source) -> list[SensorBundle]:
    synchronizer = Synchronizer(source.rig, SyncConfig())
    bundles: list[SensorBundle] = []
    sensor_messages = (m for m in source.messages() if isinstance(m, CameraFrame | LidarSweep | RadarScan))
    for index, message in enumerate(sensor_messages):
        bundles += synchronizer.push(
            Stamp(arrival_ns=message.arrival_ns, index=index, sensor=message.sensor, capture_ns=message.capture_ns)
        )
    bundles += synchronizer.flush()
    assert synchronizer.take_dropped().total() == 0
    return bundles


@pytest.mark.parametrize(
    ("make", "folder", "count"),
    [
        (AiMotiveSource, "aimotive-night", 15),
        (PandaSetSource, "pandaset-002", 8),
        (NuScenesSource, "nuscenes-mini-1kf", 1),
    ],
)
def test_each_reference_comes_out_once_with_all_sensors(
    drive_data: Path, make: type[AiMotiveSource], folder: str, count: int
) -> None:
    bundles = bundles_of(make(drive_data / folder))
    assert len(bundles) == count
    assert all(bundle.misses == () for bundle in bundles)
    assert [bundle.sequence for bundle in bundles] == list(range(count))


def test_doppler_tells_thirty_metres_a_second_on_the_motorway(drive_data: Path) -> None:
    source = AiMotiveSource(drive_data / "aimotive-night")
    estimator = EgoMotionEstimator(source.rig)
    speeds = []
    for message in source.messages():
        if isinstance(message, RadarScan):
            estimator.observe(message)
            motion = estimator.motion_at(message.capture_ns, SPAN_NS)
            assert motion.source is MotionSource.RADAR
            assert abs(motion.velocity_mps[1]) < 0.6
            assert abs(motion.yaw_rate_radps) < 0.06
            speeds.append(motion.velocity_mps[0])
    assert len(speeds) == 30
    np.testing.assert_allclose(speeds, 30.1, atol=0.15)


def test_lidar_odometry_agrees_with_doppler(drive_data: Path) -> None:
    source = AiMotiveSource(drive_data / "aimotive-night")
    lidars = SensorRig(sensors=source.rig.of(Modality.LIDAR))
    estimator = EgoMotionEstimator(lidars)
    sweeps = [message for message in source.messages() if isinstance(message, LidarSweep)][:9]
    for sweep in sweeps:
        estimator.observe(sweep)
    motion = estimator.motion_at(sweeps[-1].capture_ns, SPAN_NS)
    assert motion.source is MotionSource.LIDAR
    assert motion.velocity_mps[0] == pytest.approx(30.1, abs=0.8)


def test_deskewing_makes_two_sweeps_agree(drive_data: Path) -> None:
    source = AiMotiveSource(drive_data / "aimotive-night")
    estimator = EgoMotionEstimator(source.rig)
    sweeps: list[LidarSweep] = []
    for message in source.messages():
        estimator.observe(message)
        if isinstance(message, LidarSweep):
            sweeps.append(message)
    first, second = sweeps[7:9]
    motion = estimator.motion_at(first.capture_ns, SPAN_NS)
    mount = source.rig[first.sensor].ego_SE3_sensor
    deskewed = [sweep_at_reference(sweep, mount, motion).points_ego_m for sweep in (first, second)]
    as_a_whole = [
        sweep_at_reference(replace(sweep, motion=SweepMotion.COMPENSATED), mount, motion).points_ego_m
        for sweep in (first, second)
    ]
    # The sweeps overlap in time; what is in both would agree however it is moved.
    assert first.point_offset_ns is not None
    assert second.point_offset_ns is not None
    end_ns = first.capture_ns + int(first.point_offset_ns.max())
    is_new = second.capture_ns + second.point_offset_ns.astype(np.int64) > end_ns
    assert _agreement(deskewed[0], deskewed[1][is_new]) > 1.3 * _agreement(as_a_whole[0], as_a_whole[1][is_new])


def _agreement(target: Points, source: Points) -> float:
    """Share of the upright points of a cloud that lie within 0.2 m of another cloud."""
    tall = [points[(points[:, 2] > 0.7) & (np.abs(points[:, :2]).max(axis=1) < 50)] for points in (target, source)]
    distances, _ = cKDTree(tall[0]).query(tall[1])
    return float(np.mean(np.asarray(distances) < 0.2))


def test_poses_come_before_all_else(drive_data: Path) -> None:
    source = PandaSetSource(drive_data / "pandaset-002")
    estimator = EgoMotionEstimator(source.rig)
    for message in source.messages():
        if isinstance(message, EgoState | LidarSweep):
            estimator.observe(message)
            motion = estimator.motion_at(message.capture_ns, SPAN_NS)
            assert motion.source is MotionSource.POSES
            assert motion.world_SE3_ego is not None
