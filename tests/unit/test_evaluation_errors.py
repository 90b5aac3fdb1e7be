"""What errors cost and which objects are found, on frames small enough to count by hand."""

from dataclasses import replace

import numpy as np
import pytest

from perception.evaluation.detection import evaluate_detection
from perception.evaluation.error_costs import error_costs, judge
from perception.evaluation.frames import EvaluatedFrame
from perception.evaluation.recall import operating_points, recall_by_group
from tests.golden.detection.stored_frames import detection_row, frame_of_rows, label_row

CAR, TRUCK = "vehicle.car", "vehicle.truck"
LABELS = [label_row(CAR, 8, 0), label_row(CAR, 25, 0), label_row(CAR, 0, 45), label_row(TRUCK, -15, 0)]
RIGHT = [
    detection_row("car", 0.9, 8, 0),
    detection_row("car", 0.8, 25, 0),
    detection_row("car", 0.7, 0, 45),
    detection_row("truck", 0.6, -15, 0),
]


def costs(detections: list[list[object]]) -> dict[str, float]:
    found = error_costs([frame_of_rows(LABELS, detections)])
    return {name: gain for name, gain in found.items() if gain}  # those that cost anything


def test_without_errors_nothing_is_to_be_gained() -> None:
    assert costs(RIGHT) == {}


def test_a_double_costs_precision_and_nothing_else() -> None:
    assert set(costs([*RIGHT, detection_row("car", 0.95, 8, 1.0)])) == {"in the wrong place", "doubles"}
    judged = judge(frame_of_rows(LABELS, [*RIGHT, detection_row("car", 0.5, 8, 0.1)]))
    assert judged.is_double.tolist() == [False] * 4 + [True]


def test_each_error_is_what_its_repair_mends() -> None:
    assert set(costs([*RIGHT[:2], detection_row("car", 0.7, 3, 45), RIGHT[3]])) == {"in the wrong place"}
    assert set(costs([*RIGHT, detection_row("car", 0.99, 30, 30)])) == {"nothing there"}
    assert set(costs(RIGHT[1:])) == {"missed"}
    truck_as_car = costs([*RIGHT[:3], detection_row("car", 0.95, -15, 0.5)])
    assert set(truck_as_car) >= {"wrong class", "missed"}
    assert truck_as_car["wrong class"] > truck_as_car["missed"] / 2


def test_a_repair_gains_what_the_metric_says() -> None:
    """With all three cars found but one 3 m off, AP is whole at 4 m only from that car on; put right, it is whole."""
    frame = frame_of_rows(LABELS[:3], [*RIGHT[:2], detection_row("car", 0.7, 3, 45)])
    whole = frame_of_rows(LABELS[:3], RIGHT[:3])
    gain = error_costs([frame])["in the wrong place"]
    assert gain is not None
    expected = evaluate_detection([whole]).mean_ap_present - evaluate_detection([frame]).mean_ap_present
    assert gain == pytest.approx(expected, abs=1e-6)


def test_frames_without_labels_have_no_costs() -> None:
    assert set(error_costs([frame_of_rows([], RIGHT)]).values()) == {None}


def test_precision_and_recall_within_a_distance() -> None:
    found = [*RIGHT[:2], detection_row("car", 0.2, 0, 45), detection_row("car", 0.5, 20, 20)]
    points = operating_points([frame_of_rows(LABELS, found)], 0.4)
    near, far = (row for row in points if row["class"] == "car")
    assert (near["within_m"], near["labels"]) == (30.0, 2)
    assert (near["precision"], near["recall"]) == (pytest.approx(2 / 3), 1.0)
    assert (far["labels"], far["precision"], far["recall"]) == (3, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (far["best_recall"], far["best_precision"]) == (1.0, 0.75)
    assert far["best_score"] == pytest.approx(0.2)
    (truck, _) = (row for row in points if row["class"] == "truck")
    assert (truck["recall"], truck["precision"], truck["best_f1"]) == (0.0, None, None)


def test_recall_by_what_objects_are_like() -> None:
    groups = recall_by_group([_seen(frame_of_rows(LABELS, RIGHT[1:]))], 0.65)
    assert groups["class"] == [
        {"name": "car", "labels": 3, "recall": pytest.approx(2 / 3)},
        {"name": "truck", "labels": 1, "recall": 0.0},  # found, but with a score below
    ]
    assert [(row["name"], row["recall"]) for row in groups["distance"]] == [
        ("0 to 10 m", 0.0),
        ("10 to 20 m", 0.0),
        ("20 to 30 m", 1.0),
        ("40 to 50 m", 1.0),
    ]
    assert [(row["name"], row["labels"]) for row in groups["lidar points"]] == [
        ("1 to below 6", 2),
        ("6 to below 21", 1),
    ]
    assert [(row["name"], row["labels"]) for row in groups["in view"]] == [("0 to 40 %", 1), ("80 % and more", 3)]


def test_what_is_not_known_is_in_no_group() -> None:
    frame = frame_of_rows(LABELS, RIGHT)
    assert recall_by_group([frame], 0.1)["in view"] == []


def _seen(frame: EvaluatedFrame) -> EvaluatedFrame:
    """The same with points counted (not for the last label) and how much is in view."""
    labels = replace(
        frame.labels,
        num_lidar_points=np.array([5, 1, 20, -1]),
        num_radar_points=np.array([1, 1, 1, -1]),
        visible_share=np.array([0.1, 0.9, 1.0, 0.8]),
    )
    return replace(frame, labels=labels)
