"""Detection metrics: equal to those of the nuscenes-devkit, and right on cases small enough to count by hand."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perception.core.errors import DriveError, ModelError, UsageError
from perception.evaluation.detection import evaluate_by_distance, evaluate_detection, precision_recall
from perception.evaluation.detection_filters import BIKE_RACK, kept_detections, kept_labels
from perception.evaluation.detection_protocol import NUSCENES, TP_ERRORS
from perception.evaluation.frames import EvaluatedFrame
from tests.golden.detection.stored_frames import detection_row, frame_of_rows, label_row, load_golden

CAR = "vehicle.car"
EXACT = 1e-6


@pytest.mark.parametrize("name", ["perfect", "noisy", "adversarial"])
def test_all_figures_equal_those_of_the_devkit(name: str) -> None:
    frames, official = load_golden(f"detection/{name}")
    metrics = evaluate_detection(frames)
    assert metrics.mean_ap == pytest.approx(official["mean_ap"], abs=EXACT)
    assert metrics.nds == pytest.approx(official["nd_score"], abs=EXACT)
    for error in TP_ERRORS:
        assert metrics.tp_errors[error] == pytest.approx(official["tp_errors"][f"{error}_err"], abs=EXACT)
    for label, ours in metrics.per_class.items():
        assert ours.ap == pytest.approx(official["mean_dist_aps"][label], abs=EXACT)
        aps = {float(distance): ap for distance, ap in official["label_aps"][label].items()}
        assert ours.ap_by_distance == pytest.approx(aps, abs=EXACT)
        errors = {error: official["label_tp_errors"][label][f"{error}_err"] for error in TP_ERRORS}
        assert ours.tp_errors == pytest.approx(errors, abs=EXACT, nan_ok=True), label


def test_an_ego_that_pitches_and_rolls_changes_velocity_alone_and_that_little() -> None:
    """Boxes have no velocity along the ego's z, so at 0.03 rad of tilt some millimetres a second are lost."""
    frames, official = load_golden("detection/tilted")
    metrics = evaluate_detection(frames)
    assert metrics.mean_ap == pytest.approx(official["mean_ap"], abs=EXACT)
    for label, ours in metrics.per_class.items():
        for error in TP_ERRORS:
            expected = official["label_tp_errors"][label][f"{error}_err"]
            tolerance = 5e-3 if error == "vel" else EXACT
            assert ours.tp_errors[error] == pytest.approx(expected, abs=tolerance, nan_ok=True), (label, error)
    flat = evaluate_detection([replace(frame, world_SE3_ego=None) for frame in frames])
    assert abs(flat.tp_errors["trans"] - official["tp_errors"]["trans_err"]) > 1e-5


def test_the_sets_are_what_they_claim_to_be() -> None:
    adversarial, official = load_golden("detection/adversarial")
    scores = np.concatenate([frame.detections.score for frame in adversarial])
    assert len(np.unique(scores)) < len(scores) / 4
    assert any(not len(frame.labels) and not len(frame.detections) for frame in adversarial)
    assert any(len(frame.labels) and not len(frame.detections) for frame in adversarial)
    assert any(np.isnan(frame.labels.velocity_mps).any() for frame in adversarial)
    assert any(np.isnan(frame.detections.velocity_mps).any() for frame in adversarial)
    assert any(BIKE_RACK in frame.labels.category for frame in adversarial)
    assert evaluate_detection(adversarial).per_class["construction_vehicle"].num_labels == 0
    assert 0.1 < official["mean_ap"] < 0.5
    assert load_golden("detection/perfect")[1]["mean_ap"] == pytest.approx(1.0)


def test_a_worked_example_counted_by_hand() -> None:
    """Two labels; one is found at its place, the other 1.5 m off, and a third box is imagined."""
    labels = [label_row(CAR, 10, 0), label_row(CAR, 20, 0)]
    found = [detection_row("car", 0.9, 10, 0), detection_row("car", 0.8, 21.5, 0), detection_row("car", 0.7, 30, 0)]
    car = evaluate_detection([frame_of_rows(labels, found)]).per_class["car"]
    # Of the 90 recall points above 0.1, 39 lie below recall 0.5 (precision 1); at 0.5 all three boxes are counted.
    strict = (39 + (1 / 3 - 0.1) / 0.9) / 90
    loose = (89 + (2 / 3 - 0.1) / 0.9) / 90
    assert car.ap_by_distance == pytest.approx({0.5: strict, 1.0: strict, 2.0: loose, 4.0: loose})
    # The mean error is 0 to recall 0.5 and grows to 0.75 m at recall 1: 0.75 (1 + ... + 50) / 50 over 90 points.
    assert car.tp_errors["trans"] == pytest.approx(0.75 * 25.5 / 90)
    assert car.tp_errors["attr"] == 1.0, "no label has an attribute"
    assert (car.num_labels, car.num_detections) == (2, 3)


def test_classes_without_labels_count_in_the_protocol_but_not_among_those_present() -> None:
    metrics = evaluate_detection([frame_of_rows([label_row(CAR, 10, 0)], [detection_row("car", 0.9, 10, 0)])])
    assert metrics.mean_ap == pytest.approx(0.1)
    assert metrics.mean_ap_present == pytest.approx(1.0)
    assert metrics.nds < 0.2 < metrics.nds_present
    assert math.isnan(evaluate_detection([frame_of_rows([], [])]).mean_ap_present)


def test_points_decide_only_where_they_were_counted() -> None:
    counts = {(0, 0): False, (0, 1): True, (3, 0): True, (0, -1): False, (-1, 0): False, (-1, -1): True, (2, -1): True}
    rows = [label_row(CAR, 5.0 * k, 0, num=list(points)) for k, points in enumerate(counts)]
    assert kept_labels(frame_of_rows(rows, []), NUSCENES.class_range_m).tolist() == list(counts.values())


def test_of_too_many_boxes_the_best_count() -> None:
    rows = [detection_row("car", (k % 600) / 600, k / 100, 0) for k in range(600)]
    is_kept = kept_detections(frame_of_rows([], rows), NUSCENES.class_range_m, NUSCENES.max_boxes_per_frame)
    assert np.flatnonzero(is_kept).tolist() == list(range(100, 600))


def test_bands_share_out_the_boxes_without_losing_those_on_an_edge() -> None:
    """A label at 19.9 m found at 20.1 m is one find of the nearer band, and no false positive of the other."""
    labels = [label_row(CAR, 19.9, 0), label_row(CAR, 35, 0)]
    found = [detection_row("car", 0.9, 20.1, 0), detection_row("car", 0.8, 45, 0)]
    bands = evaluate_by_distance([frame_of_rows(labels, found)])
    counts = [(band.low_m, band.metrics.per_class["car"]) for band in bands]
    assert [(low, car.num_labels, car.num_detections) for low, car in counts] == [
        (0.0, 0, 0),
        (10.0, 1, 1),
        (20.0, 0, 0),
        (30.0, 1, 0),
        (40.0, 0, 1),
    ]
    assert bands[1].metrics.mean_ap_present == pytest.approx(1.0)
    assert bands[3].metrics.mean_ap_present == 0.0
    whole = evaluate_by_distance([frame_of_rows(labels, found)], edges_m=(0.0, math.inf))[0]
    assert whole.metrics == evaluate_detection([frame_of_rows(labels, found)])
    assert whole.to_dict()["high_m"] is None


def test_bands_of_a_real_set_add_up() -> None:
    frames, _ = load_golden("detection/noisy")
    whole, bands = evaluate_detection(frames), evaluate_by_distance(frames)
    for label, metrics in whole.per_class.items():
        assert sum(band.metrics.per_class[label].num_labels for band in bands) == metrics.num_labels
        assert sum(band.metrics.per_class[label].num_detections for band in bands) == metrics.num_detections


def test_precision_and_recall_at_a_score() -> None:
    labels = [label_row(CAR, 10, 0), label_row(CAR, 20, 0), label_row(CAR, 40, 0), label_row(CAR, 60, 0)]
    found = [
        detection_row("car", 0.9, 10, 1.9),
        detection_row("car", 0.8, 15, 0),
        detection_row("car", 0.7, 40, 0),
        detection_row("car", 0.2, 20, 0),
        detection_row("bus", 0.9, 20, 0),
    ]
    frame = frame_of_rows(labels, found)
    near = precision_recall([frame], "car", min_score=0.5, max_range_m=30.0)
    assert (near.true_positives, near.false_positives, near.num_labels) == (1, 1, 2)
    assert (near.precision, near.recall) == (0.5, 0.5)
    far = precision_recall([frame], "car", min_score=0.5, max_range_m=50.0)
    assert (far.true_positives, far.false_positives, far.num_labels) == (2, 1, 3)
    assert precision_recall([frame], "car", max_range_m=70.0).num_labels == 4, "a range beyond that of the class"
    assert precision_recall([frame], "car", max_range_m=30.0, match_distance_m=1.0).true_positives == 1
    nothing = precision_recall([frame], "trailer", max_range_m=30.0)
    assert nothing.to_dict()["precision"] is None
    with pytest.raises(UsageError, match="unknown class 'tram'"):
        precision_recall([frame], "tram", max_range_m=30.0)


def test_json_has_null_where_there_is_no_number() -> None:
    metrics = evaluate_detection([frame_of_rows([label_row(CAR, 10, 0)], [])])
    stored: dict[str, Any] = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert stored["per_class"]["traffic_cone"]["tp_errors"]["orient"] is None
    assert stored["per_class"]["car"]["ap_by_distance"] == {"0.5": 0.0, "1.0": 0.0, "2.0": 0.0, "4.0": 0.0}
    assert stored["mean_ap"] == 0.0


def test_fewer_classes_may_be_evaluated() -> None:
    frames, official = load_golden("detection/noisy")
    metrics = evaluate_detection(frames, replace(NUSCENES, class_range_m={"car": 50.0, "traffic_cone": 30.0}))
    assert list(metrics.per_class) == ["car", "traffic_cone"]
    assert metrics.per_class["car"].ap == pytest.approx(official["mean_dist_aps"]["car"], abs=EXACT)
    assert metrics.tp_errors["vel"] == metrics.per_class["car"].tp_errors["vel"]


@pytest.mark.parametrize(
    ("frame", "error", "says"),
    [
        (frame_of_rows([label_row(CAR, 1, 0, size_m=[4, 0, 2])], []), DriveError, "drive drive at 0: a label"),
        (frame_of_rows([label_row(CAR, math.nan, 0)], []), DriveError, "a label has no finite centre"),
        (frame_of_rows([], [detection_row("car", math.nan, 1, 0)]), ModelError, "a detection has a score"),
        (frame_of_rows([], [detection_row("car", 0.5, 1, 0, size_m=[4, 2, 0])]), ModelError, "not above 0"),
    ],
)
def test_boxes_without_shape_are_named(frame: EvaluatedFrame, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        evaluate_detection([frame])


def test_nothing_to_evaluate_and_wrong_edges_are_refused() -> None:
    with pytest.raises(UsageError, match="nothing to evaluate"):
        evaluate_detection([])
    with pytest.raises(UsageError, match="must be two or more and rise"):
        evaluate_by_distance([frame_of_rows([], [])], edges_m=(10.0, 10.0))
    with pytest.raises(ValueError, match="labels are of 0"):
        EvaluatedFrame(
            drive_id="drive",
            reference_ns=1,
            detections=frame_of_rows([], []).detections,
            labels=frame_of_rows([], []).labels,
        )
