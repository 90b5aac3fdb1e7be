"""From matches to numbers: precision over recall, average precision, errors (nuscenes-devkit, detection/algo.py)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.taxonomy import NO_ATTRIBUTE
from perception.evaluation.detection_boxes import PooledBoxes

F64 = NDArray[np.float64]

RECALL_POINTS: Final = 101
NO_RECALL_ERROR: Final = 1.0
"""Error of a class whose recall does not reach the least recall."""


def interpolated_curve(score: F64, is_match: NDArray[np.bool_], num_labels: int) -> tuple[F64, F64]:
    """Precision and score at recall 0, 0.01, ... 1: two arrays (101,), 0 beyond the recall that was reached.

    score, is_match: (P,) in rank order. Both are 0 throughout where nothing matched.
    """
    if num_labels == 0 or not is_match.any():
        return np.zeros(RECALL_POINTS), np.zeros(RECALL_POINTS)
    found = np.cumsum(is_match).astype(np.float64)
    precision = found / np.arange(1, len(is_match) + 1)
    recall = found / float(num_labels)
    at = np.linspace(0, 1, RECALL_POINTS)
    return np.interp(at, recall, precision, right=0), np.interp(at, recall, score, right=0)


def average_precision(precision: F64, min_recall: float, min_precision: float) -> float:
    """Area of an interpolated precision curve (101,) above the least recall and precision, 1 for a perfect one."""
    above = np.maximum(precision[_first_point(min_recall) :] - min_precision, 0)
    return float(np.mean(above)) / (1.0 - min_precision)


def mean_error(error: F64, match_score: F64, score_curve: F64, min_recall: float) -> float:
    """Mean over recall of a true positive error, from the least recall to the recall reached.

    error: (M,) of the matches in rank order, nan where it is not defined (left out; 1 if it never is).
    match_score: (M,) their scores. score_curve: (101,) from `interpolated_curve`.
    """
    first = _first_point(min_recall)
    reached = np.flatnonzero(score_curve)
    last = int(reached[-1]) if len(reached) else 0
    if last < first:
        return NO_RECALL_ERROR
    running = _cumulative_mean(error)
    at_recall = np.interp(score_curve[::-1], match_score[::-1], running[::-1])[::-1]
    return float(np.mean(at_recall[first : last + 1]))


def match_errors(detections: PooledBoxes, labels: PooledBoxes, heading_period_rad: float) -> dict[str, F64]:
    """The five errors (M,) of M pairs, row by row: trans (m), scale, orient (rad), vel (m/s), attr.

    nan: velocity where either has none, attribute where the label has none.
    """
    smaller = np.minimum(detections.size_m, labels.size_m).prod(axis=1)
    iou = smaller / (detections.size_m.prod(axis=1) + labels.size_m.prod(axis=1) - smaller)
    turn = labels.yaw_rad - detections.yaw_rad
    half = heading_period_rad / 2
    is_wrong = (detections.attribute_index != labels.attribute_index).astype(np.float64)
    return {
        "trans": np.linalg.norm(detections.center_m - labels.center_m, axis=1),
        "scale": 1 - iou,
        "orient": np.abs((turn + half) % heading_period_rad - half),
        "vel": np.linalg.norm(detections.velocity_mps - labels.velocity_mps, axis=1),
        "attr": np.where(labels.attribute_index == NO_ATTRIBUTE, np.nan, is_wrong),
    }


def _first_point(min_recall: float) -> int:
    """The first recall point above the least recall."""
    return round((RECALL_POINTS - 1) * min_recall) + 1


def _cumulative_mean(values: F64) -> F64:
    """Mean of the values so far that are not nan: 0 before the first such value, 1 throughout where there is none."""
    is_known = ~np.isnan(values)
    if not is_known.any():
        return np.ones(len(values))
    mean: F64 = np.nancumsum(values) / np.maximum(np.cumsum(is_known), 1)
    return mean
