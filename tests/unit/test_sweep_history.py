"""Several sweeps of a lidar as one cloud."""

from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from perception.config.schema import ModelConfig
from perception.core.messages import LidarSweep, SweepMotion
from perception.core.motion import EgoMotion, MotionSource
from perception.core.rig import Modality
from perception.core.stages import EncodeRequest, LidarRequest, ModelInfo
from perception.models.preprocess import LIDAR_FIELDS
from perception.pipeline.feature_cache import FeatureCache, SweepHistory
from perception.pipeline.preprocess import preprocess_lidar
from sim.rig import load_rig

THREE = ModelConfig.model_validate({"lidar": {"sweeps": 3, "max_points": 64}})
STEP_NS = 50_000_000


def sweep(time_ns: int, points: list[list[float]], sensor: str = "lidar") -> LidarSweep:
    cloud = np.array(points, dtype=np.float32).reshape(-1, 3)
    return LidarSweep(
        sensor=sensor,
        capture_ns=time_ns,
        arrival_ns=time_ns + 1,
        points_m=cloud,
        intensity=np.full(len(cloud), 0.5, dtype=np.float32),
        point_offset_ns=None,
        motion=SweepMotion.COMPENSATED,
    )


def driving(reference_ns: int, speed_mps: float) -> EgoMotion:
    """Straight ahead: a knot every sweep."""
    knots = reference_ns + np.arange(-4, 5) * STEP_NS
    track = np.tile(np.eye(4), (len(knots), 1, 1))
    track[:, 0, 3] = speed_mps * (knots - reference_ns) * 1e-9
    return replace(
        EgoMotion.standing(reference_ns),
        knots_ns=knots,
        reference_SE3_ego=track,
        velocity_mps=np.array([speed_mps, 0.0]),
        source=MotionSource.ODOMETRY,
    )


def test_a_standing_object_is_one_spot_in_all_sweeps() -> None:
    speed, times = 20.0, [0, STEP_NS, 2 * STEP_NS]
    sweeps = [sweep(time, [[30.0 - speed * time * 1e-9, 2.0, 0.5]]) for time in times]
    request = LidarRequest(
        key="",
        sweep=sweeps[2],
        ego_SE3_sensor=np.eye(4),
        motion=driving(times[2], speed),
        earlier=(sweeps[1], sweeps[0]),
    )
    packed = preprocess_lidar(request, THREE)
    assert int(packed.count) == 3
    rows = packed.points[:3]
    np.testing.assert_allclose(rows[:, :3], [[28.0, 2.0, 0.5]] * 3, atol=1e-4)
    np.testing.assert_allclose(rows[:, LIDAR_FIELDS.index("offset_s")], [0.0, -0.05, -0.1], atol=1e-6)


def test_a_model_of_one_sweep_takes_one() -> None:
    newest, before = sweep(STEP_NS, [[5.0, 0.0, 0.0]]), sweep(0, [[9.0, 0.0, 0.0]])
    request = LidarRequest(
        key="", sweep=newest, ego_SE3_sensor=np.eye(4), motion=EgoMotion.standing(STEP_NS), earlier=(before,)
    )
    assert int(preprocess_lidar(request, ModelConfig()).count) == 1
    alone = preprocess_lidar(replace(request, earlier=()), ModelConfig())
    np.testing.assert_array_equal(alone.points, preprocess_lidar(request, ModelConfig()).points)


def test_the_history_is_of_one_lidar_newest_first_and_of_the_last_second() -> None:
    history = SweepHistory(4)
    top = [sweep(i * STEP_NS, []) for i in range(30)]
    for one in top:
        history.add(one)
        history.add(sweep(one.capture_ns, [], sensor="front"))
    assert history.before(top[20]) == (top[19], top[18])  # older ones are gone
    assert [one.capture_ns // STEP_NS for one in history.before(top[29])] == [28, 27, 26]
    assert all(one.sensor == "lidar" for one in history.before(top[29]))
    late = sweep(top[29].capture_ns + 900_000_000, [])
    assert [one.capture_ns // STEP_NS for one in history.before(late)] == [29, 28, 27]
    assert history.before(sweep(top[29].capture_ns + 1_200_000_000, [])) == ()
    assert history.before(sweep(0, [])) == ()


def test_nothing_is_kept_for_a_model_of_one_sweep() -> None:
    history = SweepHistory(1)
    history.add(sweep(0, []))
    assert history.before(sweep(STEP_NS, [])) == ()


@pytest.mark.parametrize("count", [1, 3])
def test_the_session_hands_earlier_sweeps_on(count: int) -> None:
    class Keeping:
        placement = "test"
        model = ModelInfo(name="keeping", hash="0" * 16, trained=False, lidar_sweeps=count)

        def __init__(self) -> None:
            self.requests: list[LidarRequest] = []

        def encode(self, request: EncodeRequest) -> object:
            assert isinstance(request, LidarRequest)
            self.requests.append(request)
            return request

        def fuse(self, request: object, features: object) -> Future[object]:
            return Future()

        def release(self, features: object) -> None: ...

        def close(self) -> None: ...

    engine = Keeping()
    rig = load_rig("nuscenes").sensor_rig
    name = rig.of(Modality.LIDAR)[0].name
    cache = FeatureCache(rig, [engine])  # type: ignore[list-item]
    for i in range(4):
        cache.add(i, sweep(i * STEP_NS, [], sensor=name))
        cache.release([i - 1])
        cache.encode_lidar(i, EgoMotion.standing(i * STEP_NS))
    assert [len(request.earlier) for request in engine.requests] == [min(i, count - 1) for i in range(4)]
    cache.clear()
    cache.add(9, sweep(4 * STEP_NS, [], sensor=name))
    cache.encode_lidar(9, EgoMotion.standing(4 * STEP_NS))
    assert engine.requests[-1].earlier == ()
