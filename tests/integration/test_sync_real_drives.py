"""The synchronizer and the ego-motion estimators on recorded drives."""

from pathlib import Path

import numpy as np
import pytest

from perception.config.schema import SyncConfig
from perception.core.bundle import SensorBundle, Stamp
from perception.core.messages import CameraFrame, EgoState, LidarSweep, RadarScan
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
    assert motion.velocity_mps[0] == pytest.approx(30.1, abs=1.0)


def test_deskewing_makes_two_sweeps_agree(drive_data: Path) -> None:
    """Overlapping 100 ms sweeps at 15 Hz see the same points up to 67 ms apart: they meet only where motion is undone."""
    source = AiMotiveSource(drive_data / "aimotive-night")
    estimator = EgoMotionEstimator(source.rig)
    sweeps: list[LidarSweep] = []
    for message in source.messages():
        estimator.observe(message)
        if isinstance(message, LidarSweep):
            sweeps.append(message)
    motion = estimator.motion_at(sweeps[7].capture_ns, SPAN_NS)
    moved = [sweep_at_reference(sweep, np.eye(4), motion).points_ego_m for sweep in sweeps[7:9]]
    left_alone = [sweep.points_m for sweep in sweeps[7:9]]
    assert _disagreement(moved) < 0.6 * _disagreement(left_alone)


def _disagreement(clouds: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> float:
    """Share of the occupied 0.5 m columns above ground of the first cloud that the second leaves empty."""
    cells = []
    for points in clouds:
        tall = points[(points[:, 2] > 0.7) & (np.abs(points[:, :2]).max(axis=1) < 60)]
        cells.append({tuple(cell) for cell in np.floor(tall[:, :2] / 0.5).astype(int).tolist()})
    return len(cells[0] - cells[1]) / len(cells[0])


def test_poses_come_before_all_else(drive_data: Path) -> None:
    source = PandaSetSource(drive_data / "pandaset-002")
    estimator = EgoMotionEstimator(source.rig)
    for message in source.messages():
        if isinstance(message, EgoState | LidarSweep):
            estimator.observe(message)
            motion = estimator.motion_at(message.capture_ns, SPAN_NS)
            assert motion.source is MotionSource.POSES
            assert motion.world_SE3_ego is not None
