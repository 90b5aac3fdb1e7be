"""EgoTracker: motion from poses, from velocities, at the edges of what is known, and from nothing."""

import numpy as np
import pytest

from perception.core.geometry import integrate_twist, se3_from_yaw
from perception.core.messages import EgoState
from perception.core.motion import MotionSource
from perception.sync.ego_track import HISTORY_NS, MAX_EXTRAPOLATION_NS, EgoTracker

MS = 1_000_000
T0 = 1_700_000_000_000_000_000
SPAN_NS = 150 * MS
SPEED_MPS, YAW_RATE_RADPS = 12.0, 0.3
WORLD_SE3_START = se3_from_yaw(0.5, (1000.0, 2000.0, 3.0))


def pose_at(time_ms: float) -> EgoState:
    world_SE3_ego = WORLD_SE3_START @ integrate_twist([SPEED_MPS, 0.0], YAW_RATE_RADPS, time_ms / 1e3)
    return EgoState(
        capture_ns=T0 + round(time_ms * MS), arrival_ns=T0 + round(time_ms * MS), world_SE3_ego=world_SE3_ego
    )


def twist_at(time_ms: float, speed: float = SPEED_MPS) -> EgoState:
    return EgoState(
        capture_ns=T0 + round(time_ms * MS),
        arrival_ns=T0 + round(time_ms * MS),
        world_SE3_ego=None,
        velocity_mps=np.array([speed, 0.0]),
        yaw_rate_radps=YAW_RATE_RADPS,
    )


def tracker_of(states: list[EgoState]) -> EgoTracker:
    tracker = EgoTracker()
    for state in states:
        tracker.observe(state)
    return tracker


@pytest.mark.parametrize("step_ms", [1, 10, 100])
def test_poses_give_track_velocity_and_yaw_rate(step_ms: int) -> None:
    motion = tracker_of([pose_at(time) for time in range(0, 1001, step_ms)]).motion_at(T0 + 503 * MS, SPAN_NS)
    assert motion.source is MotionSource.POSES
    np.testing.assert_allclose(motion.velocity_mps, [SPEED_MPS, 0.0], atol=0.02)
    assert motion.yaw_rate_radps == pytest.approx(YAW_RATE_RADPS, abs=1e-3)
    recorded = pose_at(503).world_SE3_ego
    assert motion.world_SE3_ego is not None
    assert recorded is not None
    np.testing.assert_allclose(motion.world_SE3_ego, recorded, atol=5e-3)
    for offset_ms in (-150, -68, 0, 32, 150):
        expected = integrate_twist([SPEED_MPS, 0.0], YAW_RATE_RADPS, offset_ms / 1e3)
        np.testing.assert_allclose(motion.at(T0 + (503 + offset_ms) * MS), expected, atol=1e-2)


def test_velocities_give_the_same_track_without_a_world() -> None:
    motion = tracker_of([twist_at(time) for time in range(0, 1001, 20)]).motion_at(T0 + 503 * MS, SPAN_NS)
    assert motion.source is MotionSource.ODOMETRY
    assert motion.world_SE3_ego is None
    assert motion.yaw_rate_radps == pytest.approx(YAW_RATE_RADPS)
    for offset_ms in (-150, -68, 0, 32, 150):
        expected = integrate_twist([SPEED_MPS, 0.0], YAW_RATE_RADPS, offset_ms / 1e3)
        np.testing.assert_allclose(motion.at(T0 + (503 + offset_ms) * MS), expected, atol=1e-4)


def test_changing_velocities_are_integrated() -> None:
    braking = [twist_at(time, 20.0 - time / 100) for time in range(0, 1001, 10)]
    motion = tracker_of(braking).motion_at(T0 + 500 * MS, SPAN_NS)
    assert motion.velocity_mps[0] == pytest.approx(15.0, abs=1e-6)
    travelled = np.linalg.norm(motion.at(T0 + 400 * MS)[:2, 3])
    assert travelled == pytest.approx(0.1 * 15.5, abs=2e-3)


def test_recorded_velocities_come_before_differenced_poses() -> None:
    states = [pose_at(time) for time in range(0, 1001, 10)] + [twist_at(time, 12.5) for time in range(0, 1001, 10)]
    motion = tracker_of(states).motion_at(T0 + 500 * MS, SPAN_NS)
    assert motion.source is MotionSource.POSES
    assert motion.velocity_mps[0] == pytest.approx(12.5)


@pytest.mark.parametrize("make", [pose_at, twist_at])
def test_a_track_goes_on_for_a_while_after_its_end(make: type[EgoState]) -> None:
    tracker = tracker_of([make(time) for time in range(0, 1001, 10)])  # type: ignore[call-arg,arg-type]
    assert tracker.extrapolation_ns(T0 + 500 * MS) == 0
    assert tracker.extrapolation_ns(T0 + 1300 * MS) == 300 * MS
    motion = tracker.motion_at(T0 + 1300 * MS, SPAN_NS)
    assert motion.velocity_mps[0] == pytest.approx(SPEED_MPS, abs=0.05)
    expected = integrate_twist([SPEED_MPS, 0.0], YAW_RATE_RADPS, -0.1)
    np.testing.assert_allclose(motion.at(T0 + 1200 * MS), expected, atol=0.02)
    assert tracker.motion_at(T0 + 1000 * MS + MAX_EXTRAPOLATION_NS + 1, SPAN_NS).source is MotionSource.NONE


def test_states_may_come_in_any_order_and_twice() -> None:
    states = [pose_at(time) for time in range(0, 1001, 10)]
    shuffled = [states[i] for i in np.random.default_rng(0).permutation(len(states))] + states[:5]
    ordered = tracker_of(states).motion_at(T0 + 503 * MS, SPAN_NS)
    mixed = tracker_of(shuffled).motion_at(T0 + 503 * MS, SPAN_NS)
    np.testing.assert_array_equal(mixed.reference_SE3_ego, ordered.reference_SE3_ego)


def test_a_single_pose_is_a_place_without_motion() -> None:
    motion = tracker_of([pose_at(0)]).motion_at(T0 + 20 * MS, SPAN_NS)
    assert motion.source is MotionSource.POSES
    assert motion.speed_mps == 0.0
    np.testing.assert_allclose(motion.at(T0 - 50 * MS), np.eye(4), atol=1e-9)


def test_nothing_known_is_standing() -> None:
    assert EgoTracker().extrapolation_ns(T0) is None
    assert EgoTracker().motion_at(T0, SPAN_NS).source is MotionSource.NONE


def test_what_is_not_finite_counts_as_unknown() -> None:
    state = EgoState(
        capture_ns=T0, arrival_ns=T0, world_SE3_ego=np.full((4, 4), np.nan), velocity_mps=np.array([np.inf, 0.0])
    )
    assert tracker_of([state]).is_empty


def test_a_clock_set_back_starts_afresh_and_history_is_bounded() -> None:
    tracker = tracker_of([twist_at(time) for time in range(0, 30_000, 50)])
    assert tracker.motion_at(T0 + 30_000 * MS - HISTORY_NS - 2 * MAX_EXTRAPOLATION_NS, SPAN_NS).source is (
        MotionSource.NONE
    )
    tracker.observe(twist_at(-20_000, 3.0))
    assert tracker.motion_at(T0 - 20_000 * MS, SPAN_NS).velocity_mps[0] == 3.0
    assert tracker.motion_at(T0 + 29_000 * MS, SPAN_NS).source is MotionSource.NONE
