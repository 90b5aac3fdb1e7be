"""Turns what an evaluation collected into the figures of its report, as JSON has them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.detection import DetectionMetrics, evaluate_by_distance, evaluate_detection
from perception.evaluation.detection_boxes import pool_detections, pool_labels
from perception.evaluation.detection_curves import interpolated_curve
from perception.evaluation.detection_matching import UNMATCHED, match_class
from perception.evaluation.detection_protocol import NUSCENES
from perception.evaluation.frames import EvaluatedFrame
from perception.evaluation.planning import PlannedFrame, evaluate_planning
from perception.evaluation.tracking import clear_summary, evaluate_tracking

ERROR_NAMES: Final = {"trans": "mATE", "scale": "mASE", "orient": "mAOE", "vel": "mAVE", "attr": "mAAE"}


def detection_scores(frames: Sequence[EvaluatedFrame]) -> dict[str, Any]:
    """mAP and NDS, of all classes and of those that have labels, and how many frames; without frames None."""
    if not frames:
        return {"mAP": None, "NDS": None, "mAP_present": None, "NDS_present": None, "frames": 0}
    return {**_headline(evaluate_detection(frames)), "frames": len(frames)}


def overall_scores(frames: Sequence[EvaluatedFrame]) -> dict[str, Any]:
    """All detection figures: means, errors, by class with precision over recall, by distance."""
    metrics = evaluate_detection(frames)
    curves = precision_curves(frames)
    figures = metrics.to_dict()
    bands = [band.to_dict() for band in evaluate_by_distance(frames)]
    return {
        **_headline(metrics),
        **{title: figures["tp_errors"][name] for name, title in ERROR_NAMES.items()},
        "per_class": {name: {**found, "precision": curves[name]} for name, found in figures["per_class"].items()},
        "per_distance": [
            {
                "low_m": band["low_m"],
                "high_m": band["high_m"],
                "mAP_present": band["mean_ap_present"],
                "NDS_present": band["nds_present"],
                "per_class_ap": {name: found["ap"] for name, found in band["per_class"].items()},
                "per_class_labels": {name: found["num_labels"] for name, found in band["per_class"].items()},
            }
            for band in bands
        ],
    }


def precision_curves(frames: Sequence[EvaluatedFrame], match_distance_m: float = 2.0) -> dict[str, list[float]]:
    """By class, precision at recall 0, 0.01, ... 1 (0 beyond what is reached), matched within `match_distance_m`."""
    detections, labels = pool_detections(frames, NUSCENES), pool_labels(frames, NUSCENES)
    curves = {}
    for name in NUSCENES.class_range_m:
        found = match_class(name, detections, labels, [match_distance_m])
        is_match = found.label_of[match_distance_m] != UNMATCHED
        precision, _ = interpolated_curve(found.detections.score, is_match, len(found.labels))
        curves[name] = np.round(precision, 4).tolist()
    return curves


def tracking_scores(frames: Sequence[EvaluatedFrame], clear_score: float) -> dict[str, Any]:
    """AMOTA and AMOTP, and CLEAR figures at one score."""
    nuscenes = evaluate_tracking(frames).to_dict()
    clear = clear_summary(frames, clear_score).to_dict()
    return {"AMOTA": nuscenes["amota"], "AMOTP": nuscenes["amotp"], "nuscenes": nuscenes, "clear": clear}


def path_scores(frames: Sequence[PlannedFrame]) -> dict[str, Any]:
    """Displacement, L2 and collisions of path hints and of the ego-only baseline; keys of JSON are strings."""
    figures = asdict(evaluate_planning(frames))
    return {name: _with_text_keys(value) for name, value in figures.items()}


def spread_ms(values_ns: Sequence[int]) -> dict[str, float | None]:
    """Median, 99th percentile and largest, in milliseconds."""
    if not values_ns:
        return {"p50": None, "p99": None, "max": None}
    values: NDArray[np.float64] = np.asarray(values_ns, dtype=np.float64) / 1e6
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(float(values.max()), 3)}


def _headline(metrics: DetectionMetrics) -> dict[str, Any]:
    figures = metrics.to_dict()
    return {
        "mAP": figures["mean_ap"],
        "NDS": figures["nds"],
        "mAP_present": figures["mean_ap_present"],
        "NDS_present": figures["nds_present"],
    }


def _with_text_keys(values: Any) -> Any:
    if isinstance(values, dict):
        return {f"{key:g}" if isinstance(key, float) else str(key): _with_text_keys(v) for key, v in values.items()}
    return values
