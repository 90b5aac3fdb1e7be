"""EgoMotion: points moved in float32 agree with the exact motion, whatever the order of their times."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.core.geometry import integrate_twist, invert, se3_from_yaw, transform_points
from perception.core.motion import EgoMotion, MotionSource, relative_motion

REFERENCE_NS = 1_700_000_000_123_456_789


def arc(speed_mps: float, yaw_rate_radps: float, *, step_ms: int = 10, jitter: int = 0) -> EgoMotion:
    rng = np.random.default_rng(jitter)
    knots = REFERENCE_NS + np.arange(-150, 151, step_ms, dtype=np.int64) * 1_000_000
    knots = knots + (rng.integers(-2_000_000, 2_000_000, len(knots)) if jitter else 0)
    world_SE3_ego = se3_from_yaw(0.7, (500.0, -20.0, 1.0))
    return EgoMotion(
        reference_ns=REFERENCE_NS,
        knots_ns=knots,
        reference_SE3_ego=integrate_twist([speed_mps, 0.2], yaw_rate_radps, (knots - REFERENCE_NS) / 1e9),
        velocity_mps=np.array([speed_mps, 0.2]),
        yaw_rate_radps=yaw_rate_radps,
        world_SE3_ego=world_SE3_ego,
        source=MotionSource.POSES,
    )


@settings(deadline=None, max_examples=50)
@given(
    speed=st.floats(-10, 60),
    yaw_rate=st.floats(-3, 3),
    step_ms=st.sampled_from([10, 50, 150]),
    jitter=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_moved_points_are_within_a_millimetre(
    speed: float, yaw_rate: float, step_ms: int, jitter: int, seed: int
) -> None:
    motion = arc(speed, yaw_rate, step_ms=step_ms, jitter=jitter)
    rng = np.random.default_rng(seed)
    points = rng.uniform(-120, 120, (300, 3)).astype(np.float32)
    times = REFERENCE_NS + rng.integers(-147_000_000, 147_000_000, 300)
    reference_SE3_point = motion.at_many(times)
    exact = np.einsum("nij,nj->ni", reference_SE3_point[:, :3, :3], points) + reference_SE3_point[:, :3, 3]
    np.testing.assert_allclose(motion.move_points(points, times), exact, atol=1e-3)
    order = np.argsort(times)
    np.testing.assert_allclose(motion.move_points(points[order], times[order]), exact[order], atol=1e-3)


@settings(deadline=None)
@given(speed=st.floats(-10, 60), yaw_rate=st.floats(-1, 1), at_ms=st.floats(-250, 250))
def test_the_track_follows_the_arc_also_beyond_its_knots(speed: float, yaw_rate: float, at_ms: float) -> None:
    motion = arc(speed, yaw_rate)
    expected = integrate_twist([speed, 0.2], yaw_rate, round(at_ms * 1e6) / 1e9)
    np.testing.assert_allclose(motion.at(REFERENCE_NS + round(at_ms * 1e6)), expected, atol=0.4)
    if abs(at_ms) <= 150:
        np.testing.assert_allclose(motion.at(REFERENCE_NS + round(at_ms * 1e6)), expected, atol=2e-3)


def test_a_standing_target_stays_where_it_is_in_the_world() -> None:
    motion = arc(30.0, 0.3)
    target = np.array([[40.0, 5.0, 1.0]])
    for time_ns in REFERENCE_NS + np.array([-100_000_000, -33_000_000, 0, 60_000_000]):
        seen = transform_points(invert(motion.at(int(time_ns))), target)
        np.testing.assert_allclose(motion.move_points(seen, np.array([time_ns])), target, atol=1e-3)


def test_one_knot_moves_rigidly_and_no_points_stay_none() -> None:
    standing = EgoMotion.standing(REFERENCE_NS)
    points = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(standing.move_points(points, np.full(5, REFERENCE_NS + 10**9)), points)
    assert arc(10.0, 0.1).move_points(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)).shape == (0, 3)
    assert standing.speed_mps == 0.0


def test_relative_motion_agrees_with_and_without_poses() -> None:
    previous, current = arc(20.0, 0.2), arc(20.0, 0.2)
    earlier_ns = REFERENCE_NS - 50_000_000
    previous = EgoMotion(
        reference_ns=earlier_ns,
        knots_ns=previous.knots_ns,
        reference_SE3_ego=invert(current.at(earlier_ns)) @ current.reference_SE3_ego,
        velocity_mps=previous.velocity_mps,
        yaw_rate_radps=previous.yaw_rate_radps,
        world_SE3_ego=None,
        source=MotionSource.ODOMETRY,
    )
    np.testing.assert_allclose(relative_motion(previous, current), current.at(earlier_ns), atol=1e-9)


def test_knots_without_transforms_are_refused() -> None:
    with pytest.raises(ValueError, match="transforms"):
        EgoMotion(
            reference_ns=0,
            knots_ns=np.array([0, 1]),
            reference_SE3_ego=np.eye(4)[None],
            velocity_mps=np.zeros(2),
            yaw_rate_radps=0.0,
            world_SE3_ego=None,
            source=MotionSource.NONE,
        )
