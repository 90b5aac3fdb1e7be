"""What holds for any sequence of detections."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.config.schema import TrackerConfig
from perception.core.geometry import se3_from_yaw
from perception.core.results import NO_TRACK, Detections
from perception.models.tracker import Tracker


def frame(rng: np.random.Generator, count: int) -> Detections:
    """Detections close enough together that tracks compete; some in exactly the same place."""
    center = np.round(rng.uniform(-6, 6, (count, 3)))
    return Detections(
        class_index=rng.integers(0, 3, count),
        score=rng.random(count, dtype=np.float32),
        center_m=center.astype(np.float32),
        size_m=np.ones((count, 3), dtype=np.float32),
        yaw_rad=np.zeros(count, dtype=np.float32),
        velocity_mps=rng.normal(size=(count, 2)).astype(np.float32),
        attribute_index=np.full(count, -1, dtype=np.int64),
        track_id=np.full(count, NO_TRACK, dtype=np.int64),
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), counts=st.lists(st.integers(0, 12), min_size=1, max_size=12))
def test_ids_are_unique_keep_their_class_and_never_return_from_the_dead(seed: int, counts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    config = TrackerConfig(max_missed_s=0.35)
    tracker, twin = Tracker(config), Tracker(config)
    label_of: dict[int, int] = {}
    last_seen: dict[int, int] = {}
    now = 0
    for count in counts:
        now += int(rng.integers(50, 250)) * 1_000_000
        motion = se3_from_yaw(float(rng.normal() * 0.1), rng.normal(size=3))
        detections = frame(rng, count)
        result = tracker.step(detections, now, motion)
        np.testing.assert_array_equal(result.track_id, twin.step(detections, now, motion).track_id)
        ids = [int(name) for name in result.track_id if name != NO_TRACK]
        assert len(set(ids)) == len(ids)
        assert min(ids, default=1) >= 1
        np.testing.assert_array_equal(result.center_m, detections.center_m)
        for name, label, score in zip(result.track_id.tolist(), result.class_index, result.score, strict=True):
            if name == NO_TRACK:
                assert score < config.min_score
                continue
            assert label_of.setdefault(name, int(label)) == label
            assert name in last_seen or score >= config.min_score
            if name in last_seen:
                assert now - last_seen[name] <= 350_000_000 + 250_000_000  # missed steps, and the one that found it
            last_seen[name] = now
        assert len(set(tracker.state.track_id.tolist())) == len(tracker.state)
        assert np.all(now - tracker.state.seen_ns <= 350_000_000)
