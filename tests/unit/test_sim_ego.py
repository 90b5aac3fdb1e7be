"""The vehicle model: exact arcs, limits that hold, standstill that stays."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.core.geometry import integrate_twist, se3_from_yaw
from sim.ego import DriveTarget, VehicleSpec, VehicleState, drive, state_from_pose

SPEC = VehicleSpec()


def _state(speed: float = 10.0, acceleration: float = 0.0, steer: float = 0.0) -> VehicleState:
    return VehicleState(
        time_ns=0, x_m=3.0, y_m=-2.0, yaw_rad=0.4, speed_mps=speed, acceleration_mps2=acceleration, steer_rad=steer
    )


def test_constant_steering_moves_on_the_exact_arc() -> None:
    start = _state(steer=0.15)
    end = drive(start, DriveTarget(steer_rad=0.15, acceleration_mps2=0.0), 1_700_000_000, SPEC)
    rate = 10.0 * math.tan(0.15) / SPEC.wheelbase_m
    expected = se3_from_yaw(0.4, (3.0, -2.0, 0.0)) @ integrate_twist([10.0, 0.0], rate, 1.7)
    assert np.allclose([end.x_m, end.y_m], expected[:2, 3], atol=1e-9)
    assert math.isclose(end.yaw_rad, math.atan2(expected[1, 0], expected[0, 0]), abs_tol=1e-9)


def test_distance_under_constant_jerk_is_the_polynomial() -> None:
    end = drive(_state(), DriveTarget(steer_rad=0.0, acceleration_mps2=2.0), 200_000_000, SPEC)
    jerk = SPEC.max_jerk_mps3
    assert math.isclose(end.acceleration_mps2, jerk * 0.2)
    assert math.isclose(end.speed_mps, 10.0 + jerk * 0.2**2 / 2)
    assert math.isclose(math.hypot(end.x_m - 3.0, end.y_m + 2.0), 10.0 * 0.2 + jerk * 0.2**3 / 6)


@given(
    speed=st.floats(0.0, 35.0),
    acceleration=st.floats(-8.0, 2.5),
    wanted=st.floats(-12.0, 6.0),
    steer=st.floats(-0.6, 0.6),
    cut=st.integers(1, 99),
)
@settings(max_examples=80, deadline=None)
def test_cutting_the_time_in_two_changes_nothing(
    speed: float, acceleration: float, wanted: float, steer: float, cut: int
) -> None:
    start = _state(speed, acceleration, steer)
    target = DriveTarget(steer_rad=steer, acceleration_mps2=wanted)
    whole = drive(start, target, 1_000_000_000, SPEC)
    halves = drive(drive(start, target, cut * 10_000_000, SPEC), target, 1_000_000_000, SPEC)
    assert np.allclose([whole.x_m, whole.y_m, whole.speed_mps], [halves.x_m, halves.y_m, halves.speed_mps], atol=1e-7)
    assert math.isclose(math.remainder(whole.yaw_rad - halves.yaw_rad, 2 * math.pi), 0.0, abs_tol=1e-7)


@given(
    speed=st.floats(0.0, 35.0),
    targets=st.lists(st.tuples(st.floats(-2.0, 2.0), st.floats(-20.0, 20.0)), min_size=1, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_limits_hold_whatever_is_asked(speed: float, targets: list[tuple[float, float]]) -> None:
    state, step = _state(speed), 0.05
    for i, (steer, acceleration) in enumerate(targets):
        target = DriveTarget(steer_rad=steer, acceleration_mps2=acceleration)
        after = drive(state, target, round((i + 1) * step * 1e9), SPEC)
        assert abs(after.steer_rad) <= SPEC.max_steer_rad + 1e-9
        assert abs(after.steer_rad - state.steer_rad) <= SPEC.max_steer_rate_radps * step + 1e-9
        assert -SPEC.max_deceleration_mps2 - 1e-9 <= after.acceleration_mps2 <= SPEC.max_acceleration_mps2 + 1e-9
        assert after.speed_mps >= 0.0
        assert after.speed_mps * abs(after.yaw_rate_radps(SPEC)) <= SPEC.max_lateral_mps2 + 1e-9
        if after.speed_mps > 0.0:
            change = after.acceleration_mps2 - state.acceleration_mps2
            assert -SPEC.emergency_jerk_mps3 * step - 1e-9 <= change
            # A car that stood for a moment in between no longer brakes.
            stood = max(0.0, -state.acceleration_mps2) if state.speed_mps < 0.5 else 0.0
            assert change <= SPEC.max_jerk_mps3 * step + stood + 1e-9
        state = after


def test_grip_widens_a_bend_that_is_too_fast() -> None:
    full = DriveTarget(steer_rad=SPEC.max_steer_rad, acceleration_mps2=0.0)
    slow = drive(_state(3.0, steer=SPEC.max_steer_rad), full, 100_000_000, SPEC)
    fast = drive(_state(20.0, steer=SPEC.max_steer_rad), full, 100_000_000, SPEC)
    assert math.isclose(slow.yaw_rate_radps(SPEC), 3.0 * math.tan(SPEC.max_steer_rad) / SPEC.wheelbase_m)
    assert math.isclose(fast.yaw_rad - 0.4, 0.1 * SPEC.max_lateral_mps2 / 20.0, rel_tol=1e-6)


def test_braking_ends_at_standstill_and_stays_there() -> None:
    brake = DriveTarget(steer_rad=0.1, acceleration_mps2=-6.0)
    stopped = drive(_state(8.0), brake, 4_000_000_000, SPEC)
    assert stopped.speed_mps == 0.0
    later = drive(stopped, brake, 9_000_000_000, SPEC)
    assert (later.x_m, later.y_m, later.yaw_rad) == (stopped.x_m, stopped.y_m, stopped.yaw_rad)
    travelled = math.hypot(stopped.x_m - 3.0, stopped.y_m + 2.0)
    assert 8.0**2 / 12.0 < travelled < 8.0**2 / 12.0 + 8.0 * 0.2


def test_time_never_runs_backwards() -> None:
    with pytest.raises(ValueError, match="cannot drive back"):
        drive(_state(), DriveTarget(steer_rad=0.0, acceleration_mps2=0.0), -1, SPEC)


def test_pose_and_state_are_each_other() -> None:
    state = _state(7.0, steer=0.1)
    pose = state.pose(SPEC, height_m=1.5)
    back = state_from_pose(pose)
    assert pose.world_SE3_ego[2, 3] == 1.5
    assert math.isclose(pose.yaw_rate_radps, 7.0 * math.tan(0.1) / SPEC.wheelbase_m)
    assert np.allclose([back.x_m, back.y_m, back.yaw_rad, back.speed_mps], [3.0, -2.0, 0.4, 7.0])


def test_footprint_lies_around_the_rear_axle() -> None:
    corners = _state().footprint_m(SPEC)
    local = (corners - [3.0, -2.0]) @ np.array([[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]])
    assert np.allclose(local.max(axis=0), [SPEC.front_m, SPEC.width_m / 2])
    assert np.allclose(local.min(axis=0), [-SPEC.rear_overhang_m, -SPEC.width_m / 2])
