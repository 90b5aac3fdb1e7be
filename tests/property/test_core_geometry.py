"""Transforms: inverses cancel, logarithm and exponential undo each other, interpolation and twists agree."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from perception.core.geometry import (
    integrate_twist,
    interpolate_se3,
    invert,
    is_rotation,
    quaternion_from_yaw,
    quaternion_to_rotation,
    rotation_exp,
    rotation_from_yaw,
    rotation_log,
    rotation_to_quaternion,
    se3,
    transform_points,
    wrap_angle,
    yaw_of,
)

Float = NDArray[np.float64]

angles = st.floats(-10, 10, allow_nan=False)
seeds = st.integers(0, 2**32 - 1)


def random_se3(seed: int) -> Float:
    rng = np.random.default_rng(seed)
    return se3(Rotation.random(random_state=rng).as_matrix(), rng.uniform(-100, 100, 3))


@settings(deadline=None)
@given(seed=seeds)
def test_a_transform_and_its_inverse_cancel(seed: int) -> None:
    transforms = np.stack([random_se3(seed), random_se3(seed + 1)])
    np.testing.assert_allclose(invert(transforms) @ transforms, np.broadcast_to(np.eye(4), (2, 4, 4)), atol=1e-9)


@settings(deadline=None)
@given(seed=seeds)
def test_points_go_there_and_back_in_their_own_dtype(seed: int) -> None:
    dst_SE3_src = random_se3(seed)
    points = np.random.default_rng(seed).uniform(-50, 50, (20, 3)).astype(np.float32)
    moved = transform_points(dst_SE3_src, points)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(transform_points(invert(dst_SE3_src), moved), points, atol=1e-3)


@settings(deadline=None)
@given(seed=seeds)
def test_quaternions_agree_with_scipy(seed: int) -> None:
    rotation = Rotation.random(random_state=np.random.default_rng(seed))
    quaternion = rotation_to_quaternion(rotation.as_matrix())
    assert quaternion[0] >= 0
    x, y, z, w = rotation.as_quat(canonical=True)
    np.testing.assert_allclose(np.abs(quaternion @ np.array([w, x, y, z])), 1.0, atol=1e-9)
    np.testing.assert_allclose(quaternion_to_rotation(3.7 * quaternion), rotation.as_matrix(), atol=1e-9)


@settings(deadline=None, max_examples=200)
@given(seed=seeds, angle=st.one_of(st.floats(0, np.pi), st.sampled_from([0.0, 1e-12, 1e-7, np.pi - 1e-6, np.pi])))
def test_logarithm_undoes_the_exponential_up_to_half_a_turn(seed: int, angle: float) -> None:
    axis = np.random.default_rng(seed).normal(size=3)
    vector = axis / np.linalg.norm(axis) * angle
    rotation = rotation_exp(vector)
    assert is_rotation(rotation)
    np.testing.assert_allclose(rotation_exp(rotation_log(rotation)), rotation, atol=1e-8)
    assert abs(np.linalg.norm(rotation_log(rotation)) - angle) < 1e-7
    if angle < np.pi - 1e-3:
        np.testing.assert_allclose(rotation_log(rotation), vector, atol=1e-8)


@settings(deadline=None)
@given(yaw=angles)
def test_yaw_survives_each_form(yaw: float) -> None:
    wrapped = float(wrap_angle(np.array([yaw]))[0])
    assert -np.pi <= wrapped < np.pi
    for rotation in (rotation_from_yaw(yaw), quaternion_to_rotation(quaternion_from_yaw(yaw))):
        assert abs(float(wrap_angle(np.array([float(yaw_of(rotation)) - yaw]))[0])) < 1e-9


@settings(deadline=None)
@given(seed=seeds, share=st.floats(0, 1))
def test_interpolation_hits_its_ends_and_composes(seed: int, share: float) -> None:
    start, end = random_se3(seed), random_se3(seed + 1)
    np.testing.assert_allclose(interpolate_se3(start, end, 0.0), start, atol=1e-9)
    np.testing.assert_allclose(interpolate_se3(start, end, 1.0), end, atol=1e-7)
    between = interpolate_se3(start, end, share)
    assert is_rotation(between[:3, :3])
    turn = np.linalg.norm(rotation_log(start[:3, :3].T @ end[:3, :3]))
    np.testing.assert_allclose(np.linalg.norm(rotation_log(start[:3, :3].T @ between[:3, :3])), share * turn, atol=1e-6)


@settings(deadline=None)
@given(
    vx=st.floats(-40, 40), vy=st.floats(-3, 3), rate=st.floats(-2, 2), first=st.floats(-1, 1), second=st.floats(-1, 1)
)
def test_a_constant_twist_composes(vx: float, vy: float, rate: float, first: float, second: float) -> None:
    whole = integrate_twist([vx, vy], rate, first + second)
    parts = integrate_twist([vx, vy], rate, first) @ integrate_twist([vx, vy], rate, second)
    np.testing.assert_allclose(whole, parts, atol=1e-9)


@settings(deadline=None)
@given(vx=st.floats(-40, 40), vy=st.floats(-3, 3), rate=st.floats(-2, 2))
def test_a_twist_begins_with_its_velocity(vx: float, vy: float, rate: float) -> None:
    moved = integrate_twist([vx, vy], rate, 1e-6)
    np.testing.assert_allclose(moved[:2, 3] / 1e-6, [vx, vy], atol=1e-3)
