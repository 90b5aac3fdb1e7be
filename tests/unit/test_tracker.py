"""Track ids through ego motion, gaps, crossings and restarts."""

import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.config.schema import TrackerConfig
from perception.core.geometry import invert, se3_from_yaw, transform_points
from perception.core.results import NO_TRACK, Detections
from perception.core.taxonomy import CLASS_INDEX
from perception.models.tracker import Tracker

Float = NDArray[np.float64]
STEP_NS = 100_000_000
STILL = np.eye(4)


def detected(
    xy_m: list[tuple[float, float]],
    velocity_mps: list[tuple[float, float]] | None = None,
    label: str | list[str] = "car",
    score: float = 0.9,
) -> Detections:
    n = len(xy_m)
    labels = [label] * n if isinstance(label, str) else label
    center = np.zeros((n, 3), dtype=np.float32)
    center[:, :2] = np.array(xy_m, dtype=np.float32).reshape(n, 2)
    velocity = np.array(velocity_mps or [(0.0, 0.0)] * n, dtype=np.float32).reshape(n, 2)
    return Detections(
        class_index=np.array([CLASS_INDEX[name] for name in labels], dtype=np.int64),
        score=np.full(n, score, dtype=np.float32),
        center_m=center,
        size_m=np.ones((n, 3), dtype=np.float32),
        yaw_rad=np.zeros(n, dtype=np.float32),
        velocity_mps=velocity,
        attribute_index=np.full(n, -1, dtype=np.int64),
        track_id=np.full(n, NO_TRACK, dtype=np.int64),
    )


def test_ids_stay_while_the_ego_drives_and_turns() -> None:
    """Two parked cars and one that drives, all given in the frame of an ego on a curve at 15 m/s."""
    tracker = Tracker(TrackerConfig())
    parked = np.array([[20.0, 3.0, 0.0], [26.0, 3.0, 0.0]])
    seen: list[list[int]] = []
    previous = np.eye(4)
    for step in range(30):
        t = step * 0.1
        heading = 0.4 * t
        world_SE3_ego = se3_from_yaw(heading, [15 / 0.4 * np.sin(heading), 15 / 0.4 * (1 - np.cos(heading)), 0.0])
        driving = np.array([[10.0 + 12.0 * t, -3.0, 0.0]])
        ego_SE3_world = invert(world_SE3_ego)
        here = transform_points(ego_SE3_world, np.concatenate([parked, driving]))
        velocity = ego_SE3_world[:2, :2] @ np.array([12.0, 0.0])
        frame = detected([(x, y) for x, y, _ in here], [(0.0, 0.0), (0.0, 0.0), (velocity[0], velocity[1])])
        result = tracker.step(frame, step * STEP_NS, ego_SE3_world @ previous)
        seen.append(result.track_id.tolist())
        previous = world_SE3_ego
    assert all(ids == [1, 2, 3] for ids in seen)


def test_without_the_ego_motion_those_ids_would_break() -> None:
    tracker = Tracker(TrackerConfig(max_distance_m=2.0))
    first = tracker.step(detected([(20.0, 0.0)]), 0, STILL)
    moved = se3_from_yaw(0.0, [-5.0, 0.0, 0.0])  # the ego drove 5 m
    assert tracker.step(detected([(15.0, 0.0)]), STEP_NS, moved).track_id[0] == first.track_id[0]
    assert tracker.step(detected([(10.0, 0.0)]), 2 * STEP_NS, STILL).track_id[0] != first.track_id[0]


def test_a_hidden_object_comes_back_as_itself() -> None:
    tracker = Tracker(TrackerConfig(max_missed_s=1.0))
    (name,) = tracker.step(detected([(10.0, 0.0)], [(8.0, 0.0)]), 0, STILL).track_id
    for step in range(1, 8):
        assert len(tracker.step(detected([]), step * STEP_NS, STILL)) == 0
    again = tracker.step(detected([(10.0 + 8.0 * 0.8, 0.0)], [(8.0, 0.0)]), 8 * STEP_NS, STILL)
    assert again.track_id.tolist() == [name]


def test_an_object_hidden_for_too_long_is_new() -> None:
    tracker = Tracker(TrackerConfig(max_missed_s=1.0))
    (name,) = tracker.step(detected([(10.0, 0.0)]), 0, STILL).track_id
    tracker.step(detected([]), 10 * STEP_NS, STILL)
    assert len(tracker.state) == 1  # exactly the limit
    tracker.step(detected([]), 11 * STEP_NS, STILL)
    assert len(tracker.state) == 0
    assert tracker.step(detected([(10.0, 0.0)]), 12 * STEP_NS, STILL).track_id[0] > name


def test_two_that_cross_keep_their_ids_by_velocity() -> None:
    tracker = Tracker(TrackerConfig())
    ids = []
    for step in range(11):
        x = -5.0 + step
        frame = detected([(x, 0.2), (-x, -0.2)], [(10.0, 0.0), (-10.0, 0.0)])
        ids.append(tracker.step(frame, step * STEP_NS, STILL).track_id.tolist())
    assert all(pair == ids[0] for pair in ids)


def test_a_pedestrian_does_not_go_on_as_a_car() -> None:
    tracker = Tracker(TrackerConfig())
    first = tracker.step(detected([(5.0, 0.0)], label="pedestrian"), 0, STILL).track_id[0]
    mixed = tracker.step(detected([(5.0, 0.0), (5.1, 0.0)], label=["car", "pedestrian"]), STEP_NS, STILL)
    assert mixed.track_id.tolist() == [first + 1, first]


def test_the_whole_matching_is_nearest_not_the_first_one_served() -> None:
    """Each of two detections is nearest to the first track; taking them one by one would lose the second track."""
    tracker = Tracker(TrackerConfig(max_distance_m=3.0))
    tracker.step(detected([(0.0, 0.0), (3.5, 0.0)]), 0, STILL)
    result = tracker.step(detected([(0.2, 0.0), (1.0, 0.0)]), STEP_NS, STILL)
    assert result.track_id.tolist() == [1, 2]


def test_weak_detections_continue_tracks_but_start_none() -> None:
    tracker = Tracker(TrackerConfig(min_score=0.5))
    assert tracker.step(detected([(0.0, 0.0)], score=0.2), 0, STILL).track_id.tolist() == [NO_TRACK]
    strong = tracker.step(detected([(0.0, 0.0)], score=0.8), STEP_NS, STILL).track_id[0]
    weak = tracker.step(detected([(0.1, 0.0), (20.0, 0.0)], score=0.2), 2 * STEP_NS, STILL)
    assert weak.track_id.tolist() == [strong, NO_TRACK]


def test_state_can_be_saved_and_taken_up_by_another_tracker() -> None:
    rng = np.random.default_rng(0)
    frames = [detected([(float(x), float(y)) for x, y in rng.uniform(-20, 20, (8, 2))]) for _ in range(6)]
    whole = Tracker(TrackerConfig())
    expected = [whole.step(frame, i * STEP_NS, STILL).track_id.tolist() for i, frame in enumerate(frames)]
    first = Tracker(TrackerConfig())
    halves = [first.step(frame, i * STEP_NS, STILL).track_id.tolist() for i, frame in enumerate(frames[:3])]
    second = Tracker(TrackerConfig(), pickle.loads(pickle.dumps(first.state)))
    halves += [second.step(frame, (i + 3) * STEP_NS, STILL).track_id.tolist() for i, frame in enumerate(frames[3:])]
    assert halves == expected


def test_a_new_run_starts_afresh() -> None:
    tracker = Tracker(TrackerConfig())
    first = tracker.step(detected([(0.0, 0.0)]), 5 * STEP_NS, STILL).track_id.tolist()
    tracker.reset()
    assert tracker.step(detected([(0.0, 0.0)]), 0, STILL).track_id.tolist() == first


@pytest.mark.parametrize("later_ns", [0, -STEP_NS])
def test_time_that_does_not_go_forward_ends_all_tracks(later_ns: int) -> None:
    tracker = Tracker(TrackerConfig())
    first = tracker.step(detected([(0.0, 0.0)]), 0, STILL).track_id[0]
    assert tracker.step(detected([(0.0, 0.0)]), later_ns, STILL).track_id[0] > first
