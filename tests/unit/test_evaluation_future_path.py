"""Where the ego went, from poses in messages."""

import numpy as np
import pytest

from perception.core.geometry import integrate_twist, se3_from_yaw
from perception.core.messages import EgoState
from perception.evaluation.future_path import FuturePath

SECOND_NS = 1_000_000_000
SPEED_MPS, YAW_RATE_RADPS = 8.0, 0.2


def pose_message(time_ns: int, *, has_pose: bool = True) -> EgoState:
    start = se3_from_yaw(0.7, (100.0, -50.0, 2.0))
    moved = start @ integrate_twist((SPEED_MPS, 0.0), YAW_RATE_RADPS, time_ns / 1e9)
    return EgoState(capture_ns=time_ns, arrival_ns=time_ns, world_SE3_ego=moved if has_pose else None)


def driven(*times_ns: int) -> FuturePath:
    path = FuturePath()
    for time_ns in times_ns:
        path.observe(pose_message(time_ns))
    return path


def test_waypoints_lie_on_the_arc_that_was_driven() -> None:
    path = driven(*range(0, 5 * SECOND_NS, 20_000_000))
    times_s = np.array([0.5, 1.23, 3.0])
    waypoints, is_known = path.path_at(1_010_000_000, times_s)
    assert is_known.tolist() == [True, True, True]
    arc = integrate_twist((SPEED_MPS, 0.0), YAW_RATE_RADPS, times_s)[:, :2, 3]
    assert np.abs(waypoints - arc).max() < 1e-3


def test_what_lies_beyond_the_last_pose_is_not_known() -> None:
    waypoints, is_known = driven(*range(0, 2 * SECOND_NS + 1, SECOND_NS // 10)).path_at(SECOND_NS, [0.5, 1.0, 1.5])
    assert is_known.tolist() == [True, True, False]
    assert np.isnan(waypoints[2]).all()
    assert np.isfinite(waypoints[:2]).all()


def test_a_reference_outside_the_poses_knows_nothing() -> None:
    path = driven(SECOND_NS, 2 * SECOND_NS)
    for reference_ns in (0, 3 * SECOND_NS):
        waypoints, is_known = path.path_at(reference_ns, [0.5])
        assert not is_known.any()
        assert np.isnan(waypoints).all()
        assert path.pose_at(reference_ns) is None


def test_a_gap_of_the_drive_is_not_bridged() -> None:
    path = driven(0, SECOND_NS // 2, 10 * SECOND_NS, 10 * SECOND_NS + SECOND_NS // 2)
    _, is_known = path.path_at(0, [0.25, 5.0, 10.0])
    assert is_known.tolist() == [True, False, False]


def test_poses_may_come_in_any_order_and_without_pose() -> None:
    path = FuturePath()
    for time_ns in (SECOND_NS, 0, SECOND_NS // 2):
        path.observe(pose_message(time_ns))
    path.observe(pose_message(2 * SECOND_NS, has_pose=False))
    assert len(path) == 3
    assert path.path_at(0, [1.0])[1].all()
    assert not path.path_at(SECOND_NS, [1.0])[1].any()


def test_without_any_pose_nothing_is_known() -> None:
    waypoints, is_known = FuturePath().path_at(0, [1.0, 2.0])
    assert waypoints.shape == (2, 2)
    assert not is_known.any()


def test_a_pose_between_two_is_interpolated() -> None:
    pose = driven(0, SECOND_NS // 2).pose_at(SECOND_NS // 4)
    expected = pose_message(SECOND_NS // 4).world_SE3_ego
    assert pose is not None
    assert expected is not None
    assert np.linalg.norm(pose[:3, 3] - expected[:3, 3]) == pytest.approx(0.0, abs=0.06)
