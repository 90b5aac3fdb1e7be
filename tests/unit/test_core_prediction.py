"""A result carried on in time: objects, path hints and pose against the true motion."""

from dataclasses import replace

import numpy as np
import pytest

from perception import predict
from perception.core.geometry import integrate_twist, invert, se3_from_yaw, transform_points, yaw_of
from perception.core.results import PerceptionResult
from perception.queues.samples import sample_result

VELOCITY, YAW_RATE = (12.0, 0.4), 0.3
AHEAD_NS = 250_000_000


@pytest.fixture
def result() -> PerceptionResult:
    made = sample_result(np.random.default_rng(0), sequence=3, detections=20)
    return replace(made, predicted_to_ns=None, ego_velocity_mps=VELOCITY, ego_yaw_rate_radps=YAW_RATE)


def test_objects_are_where_they_go_seen_from_where_the_ego_goes(result: PerceptionResult) -> None:
    later = predict(result, result.reference_ns + AHEAD_NS)
    world_SE3_before = result.world_SE3_ego
    assert world_SE3_before is not None
    world_SE3_after = world_SE3_before @ integrate_twist(VELOCITY, YAW_RATE, AHEAD_NS / 1e9)
    turned = world_SE3_before[:2, :2]
    truth = transform_points(world_SE3_before, result.detections.center_m.astype(np.float64))
    truth[:, :2] += result.detections.velocity_mps @ turned.T * AHEAD_NS / 1e9
    seen = transform_points(invert(world_SE3_after), truth)
    assert np.allclose(later.detections.center_m, seen, atol=1e-3)
    assert later.world_SE3_ego is not None
    assert np.allclose(later.world_SE3_ego, world_SE3_after)
    velocity = later.detections.velocity_mps @ world_SE3_after[:2, :2].T
    assert np.allclose(velocity, result.detections.velocity_mps @ turned.T, atol=1e-4)
    assert later.valid_ns == later.predicted_to_ns == result.reference_ns + AHEAD_NS
    assert later.reference_ns == result.reference_ns


def test_waypoints_stay_on_the_ground_and_those_passed_go(result: PerceptionResult) -> None:
    later = predict(result, result.reference_ns + 700_000_000)
    assert np.allclose(later.path_hints.times_s, [0.3, 0.8, 1.3, 1.8, 2.3], atol=1e-6)
    moved = integrate_twist(VELOCITY, YAW_RATE, 0.7)
    for before, after in zip(result.path_hints.waypoints_m, later.path_hints.waypoints_m, strict=True):
        points = np.column_stack([after, np.zeros(len(after))])
        assert np.allclose(transform_points(moved, points)[:, :2], before[1:], atol=1e-3)


def test_there_and_back_is_where_it_was(result: PerceptionResult) -> None:
    back = predict(predict(result, result.reference_ns + AHEAD_NS), result.reference_ns)
    assert np.allclose(back.detections.center_m, result.detections.center_m, atol=1e-3)
    assert np.allclose(np.cos(back.detections.yaw_rad - result.detections.yaw_rad), 1.0, atol=1e-6)
    assert np.allclose(back.path_hints.waypoints_m, result.path_hints.waypoints_m, atol=1e-3)


def test_two_steps_are_as_good_as_one(result: PerceptionResult) -> None:
    at_ns = result.reference_ns + AHEAD_NS
    direct = predict(result, at_ns)
    twice = predict(predict(result, result.reference_ns + 100_000_000), at_ns)
    assert np.allclose(twice.detections.center_m, direct.detections.center_m, atol=1e-3)


def test_an_ego_of_which_nothing_is_known_stands(result: PerceptionResult) -> None:
    standing = replace(result, ego_velocity_mps=None, ego_yaw_rate_radps=0.0, world_SE3_ego=se3_from_yaw(0.5))
    later = predict(standing, standing.reference_ns + AHEAD_NS)
    shift = later.detections.center_m - standing.detections.center_m
    assert np.allclose(shift[:, :2], standing.detections.velocity_mps * AHEAD_NS / 1e9, atol=1e-3)
    assert later.world_SE3_ego is not None
    assert float(yaw_of(later.world_SE3_ego[:3, :3])) == pytest.approx(0.5)
