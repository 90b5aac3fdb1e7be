"""Cleaning: each rule finds what it is for and nothing else, and says where."""

from dataclasses import replace

import numpy as np
import pytest

from perception.core.geometry import quaternion_from_yaw
from perception.core.labels import UNKNOWN_COUNT, Labels
from perception.models.boxes import sizes_of, yaws_of
from perception.training.cleaning import CleanLabels, Findings, Rule, clean_labels

RANGE_M = 51.2


def cars(*x_m: float) -> Labels:
    """Cars in a row along x, a little to the left, turned by 0.3."""
    k = len(x_m)
    return Labels(
        reference_ns=7,
        category=("vehicle.car",) * k,
        class_index=np.zeros(k, dtype=np.int64),
        center_m=np.array([[x, 2.0, 0.8] for x in x_m]).reshape(k, 3),
        size_m=np.tile([4.5, 1.9, 1.6], (k, 1)),
        quaternion_wxyz=quaternion_from_yaw(np.full(k, 0.3)),
        velocity_mps=np.tile([3.0, -1.0], (k, 1)),
        attribute_index=np.arange(k, dtype=np.int64) % 3,
        track_id=tuple(f"car-{i}" for i in range(k)),
        num_lidar_points=np.full(k, 5, dtype=np.int64),
        num_radar_points=np.zeros(k, dtype=np.int64),
    )


def clean(labels: Labels, most: int = 100) -> tuple[CleanLabels, Findings]:
    findings = Findings()
    return clean_labels(labels, RANGE_M, most, findings, "drive at 7"), findings


def with_value(labels: Labels, name: str, row: int, value: object) -> Labels:
    array = getattr(labels, name).copy()
    array[row] = value
    return replace(labels, **{name: array})


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("class_index", -1, Rule.OTHER_CLASS),
        ("center_m", [np.nan, 0.0, 0.0], Rule.NOT_FINITE),
        ("size_m", [4.0, np.inf, 1.0], Rule.NOT_FINITE),
        ("quaternion_wxyz", [np.nan, 0.0, 0.0, 1.0], Rule.NOT_FINITE),
        ("quaternion_wxyz", 0.0, Rule.NOT_FINITE),
        ("size_m", [4.0, 0.0, 1.0], Rule.ABSURD_SIZE),
        ("size_m", [-4.0, 2.0, 1.0], Rule.ABSURD_SIZE),
        ("size_m", [400.0, 2.0, 1.0], Rule.ABSURD_SIZE),
        ("center_m", [0.0, -51.3, 0.0], Rule.OUT_OF_RANGE),
        ("center_m", [1e9, 0.0, 0.0], Rule.OUT_OF_RANGE),
        ("center_m", [5.0, 5.0, 30.0], Rule.OUT_OF_RANGE),
        ("num_lidar_points", 0, Rule.NO_POINTS),
    ],
)
def test_each_rule_drops_and_counts_its_own_label_only(name: str, value: object, rule: Rule) -> None:
    kept, findings = clean(with_value(cars(10.0, 20.0, 30.0), name, 1, value))
    assert kept.boxes[:, 0].tolist() == [10.0, 30.0]
    assert findings.counts == {rule.value: 1}
    assert findings.examples[rule.value] == ["drive at 7, vehicle.car car-1"]


def test_good_labels_stay_as_they_are() -> None:
    kept, findings = clean(cars(10.0, 20.0))
    assert not findings.counts
    np.testing.assert_allclose(yaws_of(kept.boxes), 0.3, atol=1e-6)
    np.testing.assert_allclose(sizes_of(kept.boxes), [[4.5, 1.9, 1.6]] * 2, rtol=1e-6)
    np.testing.assert_allclose(kept.boxes[:, 8:], [[3.0, -1.0]] * 2)
    assert kept.attribute_index.tolist() == [0, 1]


def test_a_label_that_breaks_two_rules_is_counted_once() -> None:
    labels = with_value(with_value(cars(10.0), "class_index", 0, -1), "center_m", 0, [np.nan, 900.0, 0.0])
    kept, findings = clean(labels)
    assert len(kept.class_index) == 0
    assert findings.counts == {Rule.OTHER_CLASS.value: 1}


def test_points_that_nobody_counted_say_nothing() -> None:
    labels = with_value(with_value(cars(10.0), "num_lidar_points", 0, 0), "num_radar_points", 0, UNKNOWN_COUNT)
    kept, findings = clean(labels)
    assert len(kept.class_index) == 1
    assert not findings.counts


def test_the_nearest_stay_where_there_are_too_many() -> None:
    kept, findings = clean(cars(40.0, -10.0, 30.0, 5.0), most=2)
    assert kept.boxes[:, 0].tolist() == [5.0, -10.0]
    assert kept.attribute_index.tolist() == [0, 1]
    assert findings.counts == {Rule.TOO_MANY.value: 2}


def test_a_velocity_that_is_unknown_or_absurd_is_nan_and_the_box_stays() -> None:
    labels = with_value(cars(10.0, 20.0, 30.0), "velocity_mps", 0, [np.nan, np.nan])
    labels = with_value(labels, "velocity_mps", 2, [1e4, 0.0])
    kept, findings = clean(labels)
    assert np.isnan(kept.boxes[:, 8:]).all(axis=1).tolist() == [True, False, True]
    assert findings.counts == {Rule.ABSURD_VELOCITY.value: 1}


def test_a_frame_without_labels_is_clean() -> None:
    kept, findings = clean(cars())
    assert kept.boxes.shape == (0, 10)
    assert not findings.counts


def test_findings_survive_json_and_merging_keeps_counts_and_a_few_examples() -> None:
    first, second = Findings(), Findings()
    first.add(Rule.UNREADABLE, "a", 2)
    for i in range(5):
        second.add(Rule.UNREADABLE, f"b{i}")
    first.merge(Findings.from_json(second.to_json()))
    assert first.counts == {Rule.UNREADABLE.value: 7}
    assert first.lines() == ["7 x message that cannot be read: a; b0; b1; ..."]
