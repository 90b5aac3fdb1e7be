"""Which result a consumer has at a time, and what it is worth then."""

from dataclasses import replace

import numpy as np
import pytest

from perception.core.geometry import integrate_twist, invert, se3_from_yaw, transform_points
from perception.core.labels import Labels
from perception.core.prediction import move_detections
from perception.core.results import Detections
from perception.evaluation.detection import evaluate_detection
from perception.evaluation.streaming import (
    DROPPED,
    TimedResult,
    finish_times,
    streamed_frames,
)

MS = 1_000_000
VELOCITY_MPS = np.array([3.0, -1.0])
EGO_SPEED_MPS, EGO_YAW_RATE_RADPS = 12.0, 0.3


def test_a_fast_worker_finishes_every_frame() -> None:
    assert finish_times([0, 100, 200], [30, 40, 20]).tolist() == [30, 140, 220]


def test_of_waiting_frames_the_newest_is_taken() -> None:
    """Frames every 100, 250 each: 0 runs to 250; of 100 and 200 the latter begins then; at 500 it is 500's turn."""
    finished = finish_times([0, 100, 200, 300, 400, 500, 600], [250] * 7).tolist()
    assert finished == [250, DROPPED, 500, DROPPED, DROPPED, 750, 1000]


def test_a_frame_that_waits_alone_is_not_lost() -> None:
    assert finish_times([0, 100], [170, 50]).tolist() == [170, 220]


def test_frames_ready_together_are_one_turn() -> None:
    assert finish_times([0, 0, 50], [10, 10, 10]).tolist() == [DROPPED, 10, 60]


@pytest.mark.parametrize(("ready", "latency"), [([0, 10], [5]), ([10, 0], [5, 5])])
def test_times_that_make_no_sense_are_refused(ready: list[int], latency: list[int]) -> None:
    with pytest.raises(ValueError):
        finish_times(ready, latency)


def ego_at(time_ns: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return se3_from_yaw(0.4, (7.0, 3.0, 0.0)) @ integrate_twist((EGO_SPEED_MPS, 0.0), EGO_YAW_RATE_RADPS, time_ns / 1e9)


def labels_at(time_ns: int) -> Labels:
    """Two cars of constant world velocity."""
    start = np.array([[25.0, 4.0, 0.8], [18.0, -3.0, 0.9]])
    world = start.copy()
    world[:, :2] += VELOCITY_MPS * time_ns / 1e9
    ego_SE3_world = invert(ego_at(time_ns))
    heading = np.arctan2(*(ego_SE3_world[:2, :2] @ VELOCITY_MPS)[::-1])
    return Labels(
        reference_ns=time_ns,
        category=("car", "car"),
        class_index=np.zeros(2, dtype=np.int64),
        center_m=transform_points(ego_SE3_world, world),
        size_m=np.tile([4.5, 1.9, 1.6], (2, 1)),
        quaternion_wxyz=np.tile([np.cos(heading / 2), 0, 0, np.sin(heading / 2)], (2, 1)),
        velocity_mps=np.tile(ego_SE3_world[:2, :2] @ VELOCITY_MPS, (2, 1)),
        attribute_index=np.zeros(2, dtype=np.int64),
        track_id=("a", "b"),
        num_lidar_points=np.full(2, 9),
        num_radar_points=np.zeros(2, dtype=np.int64),
    )


def perfect(labels: Labels) -> Detections:
    k = len(labels)
    return Detections(
        class_index=labels.class_index,
        score=np.linspace(0.9, 0.8, k, dtype=np.float32),
        center_m=labels.center_m.astype(np.float32),
        size_m=labels.size_m.astype(np.float32),
        yaw_rad=labels.yaw_rad.astype(np.float32),
        velocity_mps=labels.velocity_mps.astype(np.float32),
        attribute_index=labels.attribute_index,
        track_id=np.arange(k),
    )


def result(reference_ns: int, latency_ns: int) -> TimedResult:
    return TimedResult(
        reference_ns=reference_ns,
        finish_ns=reference_ns + latency_ns,
        detections=perfect(labels_at(reference_ns)),
        world_SE3_ego=ego_at(reference_ns),
    )


TIMES = [i * 100 * MS for i in range(12)]


def test_the_newest_finished_result_counts() -> None:
    """Latency 150 ms, results every 100 ms: at 400 ms the newest finished is that of 200 ms."""
    frames = streamed_frames(
        "drive", [result(t, 150 * MS) for t in TIMES], [labels_at(400 * MS)], pose_at=ego_at, is_moved=False
    )
    assert np.array_equal(frames[0].detections.center_m, perfect(labels_at(200 * MS)).center_m)


def test_before_the_first_result_and_without_any_nothing_is_detected() -> None:
    early = streamed_frames("drive", [result(0, 50 * MS)], [labels_at(0)], pose_at=ego_at, is_moved=True)
    never = [replace(result(0, 0), finish_ns=DROPPED)]
    assert len(early[0].detections) == 0
    assert len(streamed_frames("d", never, [labels_at(0)], pose_at=ego_at, is_moved=True)[0].detections) == 0


def test_a_late_result_does_not_replace_a_newer_one() -> None:
    late_and_old, quick_and_new = result(0, 300 * MS), result(100 * MS, 50 * MS)
    frames = streamed_frames(
        "drive", [late_and_old, quick_and_new], [labels_at(400 * MS)], pose_at=ego_at, is_moved=False
    )
    assert np.array_equal(frames[0].detections.center_m, quick_and_new.detections.center_m)


def test_moving_results_on_makes_up_for_their_age() -> None:
    """The cars move 1.2 m and the ego 2.4 m in the 200 ms that the results are old; known velocities undo it."""
    results = [result(t, 150 * MS) for t in TIMES]
    labels = [labels_at(t) for t in TIMES[3:]]
    moved = evaluate_detection(streamed_frames("drive", results, labels, pose_at=ego_at, is_moved=True))
    still = evaluate_detection(streamed_frames("drive", results, labels, pose_at=ego_at, is_moved=False))
    assert moved.per_class["car"].ap == pytest.approx(1.0)
    assert moved.per_class["car"].tp_errors["trans"] < 1e-3
    assert moved.per_class["car"].tp_errors["orient"] < 1e-3
    assert moved.per_class["car"].tp_errors["vel"] < 1e-3
    assert still.per_class["car"].ap_by_distance[2.0] == 0.0


def test_without_poses_only_the_objects_move() -> None:
    one = replace(result(0, 0), world_SE3_ego=None)
    frames = streamed_frames("drive", [one], [labels_at(100 * MS)], pose_at=lambda _: None, is_moved=True)
    expected = perfect(labels_at(0)).center_m[:, :2] + 0.1 * perfect(labels_at(0)).velocity_mps
    assert np.allclose(frames[0].detections.center_m[:, :2], expected, atol=1e-5)


def test_a_turning_ego_turns_headings_and_velocities() -> None:
    before, after = labels_at(0), labels_at(500 * MS)
    moved = move_detections(perfect(before), invert(ego_at(500 * MS)) @ ego_at(0), 0.5)
    truth = perfect(after)
    assert np.allclose(moved.center_m, truth.center_m, atol=1e-4)
    assert np.allclose(np.cos(moved.yaw_rad - truth.yaw_rad), 1.0, atol=1e-6)
    assert np.allclose(moved.velocity_mps, truth.velocity_mps, atol=1e-4)
