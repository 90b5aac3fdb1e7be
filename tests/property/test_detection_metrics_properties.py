"""What holds for detection metrics whatever the boxes are."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.core.geometry import quaternion_from_yaw, se3_from_yaw
from perception.core.labels import Labels
from perception.core.results import Detections
from perception.core.taxonomy import CLASSES
from perception.evaluation.detection import DetectionMetrics, evaluate_by_distance, evaluate_detection
from perception.evaluation.detection_protocol import TP_ERRORS
from perception.evaluation.frames import EvaluatedFrame

SEEDS = st.integers(0, 2**32 - 1)


def random_labels(rng: np.random.Generator, reference_ns: int) -> Labels:
    k = int(rng.integers(0, 25))
    velocity = rng.normal(0, 4, (k, 2))
    velocity[rng.random(k) < 0.1] = np.nan
    return Labels(
        reference_ns=reference_ns,
        category=("any",) * k,
        class_index=rng.integers(-1, len(CLASSES), k),
        center_m=np.c_[rng.uniform(-45, 45, (k, 2)), rng.normal(1, 0.3, k)],
        size_m=rng.uniform(0.4, 9, (k, 3)),
        quaternion_wxyz=quaternion_from_yaw(rng.uniform(-math.pi, math.pi, k)).reshape(k, 4),
        velocity_mps=velocity,
        attribute_index=rng.integers(-1, 8, k),
        track_id=tuple(str(row) for row in range(k)),
        num_lidar_points=rng.integers(0, 20, k),
        num_radar_points=rng.integers(0, 2, k),
    )


def found_exactly(rng: np.random.Generator, labels: Labels) -> Detections:
    """The labels of the ten classes as detections, of distinct scores."""
    rows = np.flatnonzero(labels.class_index >= 0)
    return Detections(
        class_index=labels.class_index[rows],
        score=rng.uniform(0.1, 1, len(rows)).astype(np.float32),
        center_m=labels.center_m[rows].astype(np.float32),
        size_m=labels.size_m[rows].astype(np.float32),
        yaw_rad=labels.yaw_rad[rows].astype(np.float32),
        velocity_mps=labels.velocity_mps[rows].astype(np.float32),
        attribute_index=labels.attribute_index[rows],
        track_id=np.full(len(rows), -1),
    )


def blurred(rng: np.random.Generator, exact: Detections) -> Detections:
    """A part of them, off by a metre or so, the last ones where nothing is."""
    rows = np.flatnonzero(rng.random(len(exact)) < 0.85)
    some = exact.rows(rows)
    away = np.zeros((len(rows), 3), dtype=np.float32)
    away[:, :2] = rng.normal(0, 1.0, (len(rows), 2))
    away[-3:] += 8.0
    return replace(some, center_m=some.center_m + away)


def random_frames(seed: int, *, is_exact: bool = False) -> list[EvaluatedFrame]:
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(int(rng.integers(1, 6))):
        labels = random_labels(rng, k)
        if is_exact:
            labels = replace(labels, num_lidar_points=labels.num_lidar_points + 1)
        exact = found_exactly(rng, labels)
        detections = exact if is_exact else blurred(rng, exact)
        frames.append(EvaluatedFrame(drive_id="drive", reference_ns=k, detections=detections, labels=labels))
    return frames


def assert_equal(one: DetectionMetrics, other: DetectionMetrics, tolerance: float = 1e-9) -> None:
    assert one.mean_ap == pytest.approx(other.mean_ap, abs=tolerance)
    assert one.nds == pytest.approx(other.nds, abs=tolerance)
    for name, metrics in one.per_class.items():
        assert metrics.ap_by_distance == pytest.approx(other.per_class[name].ap_by_distance, abs=tolerance)
        assert metrics.tp_errors == pytest.approx(other.per_class[name].tp_errors, abs=tolerance, nan_ok=True)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_what_is_found_exactly_has_a_perfect_score(seed: int) -> None:
    metrics = evaluate_detection(random_frames(seed, is_exact=True))
    present = {name: figures for name, figures in metrics.per_class.items() if figures.num_labels}
    for figures in present.values():
        assert figures.ap == pytest.approx(1.0)
        for error in ("trans", "scale", "orient"):
            assert math.isnan(figures.tp_errors[error]) or figures.tp_errors[error] < 1e-5
    assert math.isnan(metrics.mean_ap_present) == (not present)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_the_order_of_frames_and_of_boxes_does_not_matter(seed: int) -> None:
    frames = random_frames(seed)
    rng = np.random.default_rng(seed)
    shuffled = [
        replace(frame, detections=frame.detections.rows(rng.permutation(len(frame.detections))))
        for frame in (frames[i] for i in rng.permutation(len(frames)))
    ]
    assert_equal(evaluate_detection(frames), evaluate_detection(shuffled))


@given(SEEDS, st.floats(-40, 40), st.floats(-40, 40), st.integers(0, len(CLASSES) - 1))
@settings(max_examples=40, deadline=None)
def test_a_weakest_box_more_never_raises_precision(seed: int, x: float, y: float, class_index: int) -> None:
    """A box added at the lowest score is a false positive or a further find; imagined ones must not pay."""
    frames = random_frames(seed)
    labels = frames[0].labels
    if len(labels) and np.min(np.linalg.norm(labels.center_m[:, :2] - (x, y), axis=1)) < 4.5:
        return
    found = frames[0].detections
    more = Detections(
        class_index=np.append(found.class_index, class_index),
        score=np.append(found.score, np.float32(0.01)),
        center_m=np.vstack([found.center_m, np.array([[x, y, 1.0]], dtype=np.float32)]),
        size_m=np.vstack([found.size_m, np.ones((1, 3), dtype=np.float32)]),
        yaw_rad=np.append(found.yaw_rad, np.float32(0)),
        velocity_mps=np.vstack([found.velocity_mps, np.zeros((1, 2), dtype=np.float32)]),
        attribute_index=np.append(found.attribute_index, -1),
        track_id=np.append(found.track_id, -1),
    )
    before = evaluate_detection(frames)
    after = evaluate_detection([replace(frames[0], detections=more), *frames[1:]])
    for name, figures in after.per_class.items():
        for distance_m, ap in figures.ap_by_distance.items():
            assert ap <= before.per_class[name].ap_by_distance[distance_m] + 1e-12


@given(SEEDS, st.floats(-math.pi, math.pi), st.floats(-500, 500), st.floats(-500, 500))
@settings(max_examples=40, deadline=None)
def test_where_the_ego_is_in_the_world_does_not_matter(seed: int, yaw_rad: float, x: float, y: float) -> None:
    frames = random_frames(seed)
    posed = [replace(frame, world_SE3_ego=se3_from_yaw(yaw_rad, (x, y, 0.0))) for frame in frames]
    assert_equal(evaluate_detection(frames), evaluate_detection(posed), tolerance=1e-6)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_only_the_order_of_scores_counts_for_precision(seed: int) -> None:
    frames = random_frames(seed)
    halved = [replace(f, detections=replace(f.detections, score=f.detections.score * np.float32(0.5))) for f in frames]
    assert_equal(evaluate_detection(frames), evaluate_detection(halved))


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_figures_stay_in_their_ranges_and_bands_add_up(seed: int) -> None:
    frames = random_frames(seed)
    metrics, bands = evaluate_detection(frames), evaluate_by_distance(frames, (0.0, 17.0, math.inf))
    assert 0 <= metrics.mean_ap <= 1 + 1e-9
    assert 0 <= metrics.nds <= 1 + 1e-9
    for name, figures in metrics.per_class.items():
        aps = list(figures.ap_by_distance.values())
        assert all(0 <= ap <= 1 + 1e-9 for ap in aps)
        assert set(figures.tp_errors) == set(TP_ERRORS)
        assert sum(band.metrics.per_class[name].num_labels for band in bands) == figures.num_labels
        assert sum(band.metrics.per_class[name].num_detections for band in bands) == figures.num_detections
