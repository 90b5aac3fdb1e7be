"""Tracking metrics: equal to those of the nuscenes-devkit, and right on a drive small enough to count by hand."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from perception.core.errors import UsageError
from perception.evaluation.frames import EvaluatedFrame
from perception.evaluation.tracking import clear_summary, evaluate_tracking
from perception.evaluation.tracking_figures import ClearMetrics
from perception.evaluation.tracking_protocol import NUSCENES_TRACKING
from tests.golden.detection.stored_frames import detection_row, frame_of_rows, label_row, load_golden

CAR = "vehicle.car"
EXACT = 1e-6
OURS_ONLY = {"precision"}
STEP_NS = 500_000_000


@pytest.mark.parametrize("name", ["tracks", "crowd"])
def test_all_figures_equal_those_of_the_devkit(name: str) -> None:
    frames, official = load_golden(f"tracking/{name}")
    metrics = evaluate_tracking(frames)
    names = [field.name for field in fields(ClearMetrics) if field.name not in OURS_ONLY]
    assert {"amota", "amotp", *names} == set(official["label_metrics"])
    assert metrics.amota == pytest.approx(official["amota"], abs=EXACT)
    assert metrics.amotp == pytest.approx(official["amotp"], abs=EXACT)
    for figure in names:
        assert getattr(metrics.overall, figure) == pytest.approx(official[figure], abs=EXACT), figure
    for label, ours in metrics.per_class.items():
        expected = {figure: values[label] for figure, values in official["label_metrics"].items()}
        got = {"amota": ours.amota, "amotp": ours.amotp} | {figure: getattr(ours.best, figure) for figure in names}
        assert got == pytest.approx(expected, abs=EXACT, nan_ok=True), label
    assert metrics.notes == ()


def test_the_sets_are_what_they_claim_to_be() -> None:
    crowd, tracks = load_golden("tracking/crowd")[1], load_golden("tracking/tracks")[1]
    assert crowd["ids"] >= 20
    assert tracks["ids"] >= 3
    assert tracks["frag"] >= 2
    assert tracks["label_metrics"]["amota"]["motorcycle"] == 0.0, "a class that is never found"
    assert math.isnan(tracks["label_metrics"]["amota"]["bus"]), "a class without labels"


def test_frames_may_come_in_any_order() -> None:
    frames, official = load_golden("tracking/crowd")
    shuffled = [frames[i] for i in np.random.default_rng(0).permutation(len(frames))]
    assert evaluate_tracking(shuffled).amota == pytest.approx(official["amota"], abs=EXACT)


def small_drive() -> list[EvaluatedFrame]:
    """Six frames of two cars, one followed by track 1, then 2; the other found late, lost for a frame; and a ghost."""
    first = [1, 1, 2, 2, 2, 2]
    second = [None, 7, 7, None, 7, 7]
    frames = []
    for k, (one, other) in enumerate(zip(first, second, strict=True)):
        found = [detection_row("car", 0.9, 10 + k + 0.5, 0, one)]
        found += [detection_row("car", 0.8, 20, 9, other)] if other is not None else []
        found += [detection_row("car", 0.7, 30, -9, 9)] if k == 2 else []
        found += [detection_row("car", 0.1, 5, 5, 11)]
        labels = [label_row(CAR, 10 + k, 0, "one"), label_row(CAR, 20, 9, "other")]
        frames.append(frame_of_rows(labels, found, reference_ns=k * STEP_NS, world_SE3_ego=np.eye(4)))
    return frames


def test_a_clear_summary_counted_by_hand() -> None:
    overall = clear_summary(small_drive(), 0.5).overall
    assert (overall.gt, overall.tp, overall.ids, overall.fn, overall.fp) == (12, 9, 1, 2, 1)
    assert overall.mota == pytest.approx(1 - 4 / 12)
    assert overall.motar == pytest.approx(1 - (4 - 3) / 9)
    assert overall.recall == pytest.approx(10 / 12)
    assert overall.precision == pytest.approx(10 / 11)
    assert overall.motp == pytest.approx(6 * 0.5 / 10)
    assert (overall.frag, overall.mt, overall.ml) == (1, 1, 0)
    assert overall.tid == pytest.approx(0.5 / 2)
    assert overall.lgd == pytest.approx(0.5 / 2)
    assert overall.faf == pytest.approx(100 / 6)
    strict = clear_summary(small_drive(), 0.85).overall
    assert (strict.tp, strict.ids, strict.fn, strict.fp, strict.ml) == (5, 1, 6, 0, 1)
    assert clear_summary(small_drive(), 0.0).overall.fp == 7


def test_an_object_keeps_its_track_while_that_is_near_enough() -> None:
    """A second track comes nearer to the object than the first, which goes on following it until it is 2 m away."""
    frames = [
        frame_of_rows(
            [label_row(CAR, 10, 0, "one")],
            [detection_row("car", 0.9, 10 + away, 0, 1), *([detection_row("car", 0.9, 10.25, 0, 2)] if k else [])],
            reference_ns=k * STEP_NS,
        )
        for k, away in enumerate((0.5, 1.5, 2.0))
    ]
    kept = clear_summary(frames[:2], 0.5).overall
    assert (kept.tp, kept.ids, kept.fp) == (2, 0, 1)
    assert kept.motp == pytest.approx(1.0)
    assert clear_summary(frames, 0.5).overall.ids == 1


def test_of_equal_accuracies_that_of_the_highest_recall_is_taken() -> None:
    """At a score of 0.9 one of two cars is found; at 0.5 both are, and a ghost: MOTA is 0.5 either way."""
    found = [
        detection_row("car", 0.875, 10, 0, 1),
        detection_row("car", 0.5, 20, 0, 2),
        detection_row("car", 0.5, 40, 0, 3),
    ]
    frame = frame_of_rows([label_row(CAR, 10, 0), label_row(CAR, 20, 0)], found)
    car = evaluate_tracking([frame]).per_class["car"]
    assert (car.min_score, car.best.recall, car.best.fp) == (0.5, 1.0, 1)


def test_a_filled_hole_has_the_class_that_comes_after_it() -> None:
    names = ("car", None, "truck")
    frames = [
        frame_of_rows(
            [label_row("vehicle.truck", 10, 0, "one")],
            [detection_row(name, 0.5, 10, 0, 1)] if name else [],
            reference_ns=k * STEP_NS,
            world_SE3_ego=np.eye(4),
        )
        for k, name in enumerate(names)
    ]
    assert evaluate_tracking(frames).per_class["truck"].best.tp == 2
    assert clear_summary(frames, 0.0).per_class["truck"].tp == 1


def test_a_track_of_another_class_follows_nothing() -> None:
    frame = frame_of_rows([label_row(CAR, 10, 0)], [detection_row("truck", 0.9, 10, 0, 1)])
    summary = clear_summary([frame], 0.5)
    assert (summary.overall.fn, summary.overall.fp) == (1, 1)
    assert summary.per_class["car"].fp == 0
    assert summary.overall.mota == -1.0, "a plain MOTA may be negative"
    assert evaluate_tracking([frame]).per_class["car"].best.mota == 0.0


def test_without_poses_it_is_said_and_only_filled_holes_may_differ() -> None:
    posed = evaluate_tracking(small_drive())
    bare = evaluate_tracking([replace(frame, world_SE3_ego=None) for frame in small_drive()])
    assert bare.notes == ("drive: no pose for every frame, so holes in tracks are filled in the ego frame",)
    assert bare.amota == posed.amota, "this ego stands"
    moving = [np.eye(4) for _ in range(6)]
    for k, pose in enumerate(moving):
        pose[0, 3] = 8.0 * k
    frames = [replace(frame, world_SE3_ego=pose) for frame, pose in zip(small_drive(), moving, strict=True)]
    assert clear_summary(frames, 0.5).overall == clear_summary(small_drive(), 0.5).overall, "no holes are filled"
    assert clear_summary(frames, 0.5).overall.fn == 2
    assert evaluate_tracking(frames).per_class["car"].best.fn == 1, "the hole is filled, the late start is not"


def test_detections_without_a_track_do_not_count() -> None:
    frames = [
        replace(f, detections=replace(f.detections, track_id=np.full(len(f.detections), -1))) for f in small_drive()
    ]
    assert clear_summary(frames, 0.0).overall.fp == 0
    assert evaluate_tracking(frames).per_class["car"].amotp == NUSCENES_TRACKING.worst_motp_m


def test_durations_count_in_the_time_between_frames_where_asked() -> None:
    config = replace(NUSCENES_TRACKING, frame_period_s=None)
    frames = [
        replace(f, reference_ns=f.reference_ns // 5, labels=replace(f.labels, reference_ns=f.reference_ns // 5))
        for f in small_drive()
    ]
    assert clear_summary(frames, 0.5, config).overall.tid == pytest.approx(0.1 / 2)
    assert clear_summary(frames, 0.5).overall.tid == pytest.approx(0.5 / 2)


def test_json_has_null_where_there_is_no_number() -> None:
    stored = json.loads(json.dumps(evaluate_tracking(small_drive()).to_dict(), allow_nan=False))
    assert stored["per_class"]["bus"]["amota"] is None
    assert 0 < stored["amota"] <= 1
    summary = json.loads(json.dumps(clear_summary(small_drive(), 0.5).to_dict(), allow_nan=False))
    assert summary["per_class"]["bus"]["mota"] is None
    assert summary["ids"] == 1


def test_ambiguous_input_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to evaluate"):
        evaluate_tracking([])
    with pytest.raises(UsageError, match="two frames of one reference time"):
        evaluate_tracking([frame_of_rows([], []), frame_of_rows([], [])])
    twice = [detection_row("car", 0.9, 10, 0, 3), detection_row("car", 0.9, 20, 0, 3)]
    with pytest.raises(UsageError, match="two detections have one track id"):
        clear_summary([frame_of_rows([], twice)], 0.5)
