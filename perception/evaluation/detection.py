"""Detection metrics of nuScenes: mAP, NDS and the true positive errors, over all frames or by distance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np

from perception.core.errors import UsageError
from perception.evaluation.detection_boxes import pool_detections, pool_labels
from perception.evaluation.detection_curves import average_precision, interpolated_curve, match_errors, mean_error
from perception.evaluation.detection_matching import UNMATCHED, ClassMatches, match_class
from perception.evaluation.detection_protocol import NUSCENES, TP_ERRORS, DetectionProtocol
from perception.evaluation.frames import EvaluatedFrame

BAND_EDGES_M: Final = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDetectionMetrics:
    """Figures of one class.

    ap: mean of ap_by_distance, which is by match distance in metres. tp_errors: by the names of `TP_ERRORS`, nan where
    the class has no such error. num_labels, num_detections: boxes that counted.
    """

    ap: float
    ap_by_distance: Mapping[float, float]
    tp_errors: Mapping[str, float]
    num_labels: int
    num_detections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionMetrics:
    """Figures over all classes of a protocol; tp_errors are the means over classes, by the names of `TP_ERRORS`.

    mean_ap and nds are the protocol's, in which a class without labels has AP 0 and errors of 1. mean_ap_present and
    nds_present are over the classes that have labels, for drives in which not all appear; nan without any label.
    """

    mean_ap: float
    nds: float
    tp_errors: Mapping[str, float]
    mean_ap_present: float
    nds_present: float
    per_class: Mapping[str, ClassDetectionMetrics]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it: nan becomes null, match distances become strings."""
        return {
            "mean_ap": json_number(self.mean_ap),
            "nds": json_number(self.nds),
            "tp_errors": _json_numbers(self.tp_errors),
            "mean_ap_present": json_number(self.mean_ap_present),
            "nds_present": json_number(self.nds_present),
            "per_class": {
                name: {
                    "ap": json_number(metrics.ap),
                    "ap_by_distance": _json_numbers(metrics.ap_by_distance),
                    "tp_errors": _json_numbers(metrics.tp_errors),
                    "num_labels": metrics.num_labels,
                    "num_detections": metrics.num_detections,
                }
                for name, metrics in self.per_class.items()
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceBand:
    """Figures of the boxes at `low_m` or further from the ego, but nearer than `high_m`."""

    low_m: float
    high_m: float
    metrics: DetectionMetrics

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it; an open end becomes null."""
        high_m = None if math.isinf(self.high_m) else self.high_m
        return {"low_m": self.low_m, "high_m": high_m, **self.metrics.to_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRecall:
    """Counts at one score and one match distance. precision is nan without detections, recall without labels."""

    precision: float
    recall: float
    true_positives: int
    false_positives: int
    num_labels: int

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it: nan becomes null."""
        return {
            "precision": json_number(self.precision),
            "recall": json_number(self.recall),
            "true_positives": self.true_positives,
            "false_positives": self.false_positives,
            "num_labels": self.num_labels,
        }


def evaluate_detection(frames: Sequence[EvaluatedFrame], config: DetectionProtocol = NUSCENES) -> DetectionMetrics:
    """Metrics of detections over all frames together, by the nuScenes protocol unless configured otherwise.

    Raises UsageError without frames, DriveError and ModelError on boxes without centre or size.
    """
    return _metrics(_matches(frames, config), 0.0, math.inf, config)


def evaluate_by_distance(
    frames: Sequence[EvaluatedFrame],
    edges_m: Sequence[float] = BAND_EDGES_M,
    config: DetectionProtocol = NUSCENES,
) -> tuple[DistanceBand, ...]:
    """The same metrics for each band between two edges of distance from the ego, which must rise; inf is allowed.

    Boxes are matched once, over all distances: see `ClassMatches.rows_between`. The ranges of the classes hold, so in a
    band further out some have no labels; `mean_ap_present` leaves those out.
    """
    if len(edges_m) < 2 or any(low >= high for low, high in pairwise(edges_m)):
        raise UsageError(f"edges of distance bands must be two or more and rise, got {list(edges_m)}")
    matches = _matches(frames, config)
    return tuple(
        DistanceBand(low_m=low, high_m=high, metrics=_metrics(matches, low, high, config))
        for low, high in pairwise(edges_m)
    )


def precision_recall(
    frames: Sequence[EvaluatedFrame],
    label: str,
    *,
    match_distance_m: float = 2.0,
    min_score: float = 0.0,
    max_range_m: float,
    config: DetectionProtocol = NUSCENES,
) -> PrecisionRecall:
    """Precision and recall of one class among detections of at least `min_score`, within `max_range_m` of the ego.

    Which boxes count, and how they are matched, is as in `evaluate_detection`, at one distance; a range beyond that of
    the class widens it. Raises UsageError where the protocol does not have the class.
    """
    if label not in config.class_range_m:
        raise UsageError(f"unknown class {label!r}; the protocol has {', '.join(config.class_range_m)}")
    config = replace(
        config,
        class_range_m={label: max(config.class_range_m[label], max_range_m)},
        match_distances_m=(match_distance_m,),
        tp_distance_m=match_distance_m,
    )
    matches = _matches(frames, config)[label]
    rows = matches.rows_between(match_distance_m, 0.0, max_range_m)
    rows = rows[matches.detections.score[rows] >= min_score]
    true_positives = int(np.sum(matches.label_of[match_distance_m][rows] != UNMATCHED))
    num_labels = matches.num_labels_between(0.0, max_range_m)
    return PrecisionRecall(
        precision=true_positives / len(rows) if len(rows) else math.nan,
        recall=true_positives / num_labels if num_labels else math.nan,
        true_positives=true_positives,
        false_positives=len(rows) - true_positives,
        num_labels=num_labels,
    )


def json_number(value: float) -> float | None:
    """The number, or None for nan, which JSON does not have."""
    return None if math.isnan(value) else float(value)


def _json_numbers(values: Mapping[Any, float]) -> dict[str, float | None]:
    return {str(name): json_number(value) for name, value in values.items()}


def _matches(frames: Sequence[EvaluatedFrame], config: DetectionProtocol) -> dict[str, ClassMatches]:
    if not frames:
        raise UsageError("nothing to evaluate: no frame has labels")
    detections, labels = pool_detections(frames, config), pool_labels(frames, config)
    return {name: match_class(name, detections, labels, config.match_distances_m) for name in config.class_range_m}


def _metrics(
    matches: Mapping[str, ClassMatches], low_m: float, high_m: float, config: DetectionProtocol
) -> DetectionMetrics:
    per_class = {name: _class_metrics(name, found, low_m, high_m, config) for name, found in matches.items()}
    present = [metrics for metrics in per_class.values() if metrics.num_labels]
    mean_ap, tp_errors, nds = _means(list(per_class.values()), config.mean_ap_weight)
    mean_ap_present, _, nds_present = _means(present, config.mean_ap_weight)
    return DetectionMetrics(
        mean_ap=mean_ap,
        nds=nds,
        tp_errors=tp_errors,
        mean_ap_present=mean_ap_present,
        nds_present=nds_present,
        per_class=per_class,
    )


def _class_metrics(
    name: str, matches: ClassMatches, low_m: float, high_m: float, config: DetectionProtocol
) -> ClassDetectionMetrics:
    num_labels = matches.num_labels_between(low_m, high_m)
    ap_by_distance = {}
    for match_distance_m in config.match_distances_m:
        rows = matches.rows_between(match_distance_m, low_m, high_m)
        is_match = matches.label_of[match_distance_m][rows] != UNMATCHED
        precision, _ = interpolated_curve(matches.detections.score[rows], is_match, num_labels)
        ap_by_distance[match_distance_m] = average_precision(precision, config.min_recall, config.min_precision)
    return ClassDetectionMetrics(
        ap=float(np.mean(list(ap_by_distance.values()))),
        ap_by_distance=ap_by_distance,
        tp_errors=_class_errors(name, matches, low_m, high_m, config),
        num_labels=num_labels,
        num_detections=len(matches.rows_between(config.tp_distance_m, low_m, high_m)),
    )


def _class_errors(
    name: str, matches: ClassMatches, low_m: float, high_m: float, config: DetectionProtocol
) -> dict[str, float]:
    rows = matches.rows_between(config.tp_distance_m, low_m, high_m)
    label_of = matches.label_of[config.tp_distance_m][rows]
    score, is_match = matches.detections.score[rows], label_of != UNMATCHED
    _, score_curve = interpolated_curve(score, is_match, matches.num_labels_between(low_m, high_m))
    errors = match_errors(
        matches.detections.rows(rows[is_match]),
        matches.labels.rows(label_of[is_match]),
        config.heading_period_rad.get(name, 2 * math.pi),
    )
    undefined = config.undefined_errors.get(name, frozenset())
    return {
        error: math.nan
        if error in undefined
        else mean_error(errors[error], score[is_match], score_curve, config.min_recall)
        for error in TP_ERRORS
    }


def _means(per_class: list[ClassDetectionMetrics], mean_ap_weight: float) -> tuple[float, dict[str, float], float]:
    """Mean AP, mean errors and the nuScenes detection score; an error that no class has is left out of the score."""
    mean_ap = float(np.mean([metrics.ap for metrics in per_class])) if per_class else math.nan
    tp_errors = {}
    for error in TP_ERRORS:
        known = [metrics.tp_errors[error] for metrics in per_class if not math.isnan(metrics.tp_errors[error])]
        tp_errors[error] = float(np.mean(known)) if known else math.nan
    scores = [max(0.0, 1.0 - error) for error in tp_errors.values() if not math.isnan(error)]
    return mean_ap, tp_errors, (mean_ap_weight * mean_ap + sum(scores)) / (mean_ap_weight + len(scores))
