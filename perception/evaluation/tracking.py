"""Tracking metrics: AMOTA and AMOTP of nuScenes over all recalls, and a plain CLEAR summary at one score."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception.core.taxonomy import CLASS_INDEX
from perception.evaluation.detection import json_number
from perception.evaluation.frames import EvaluatedFrame
from perception.evaluation.tracking_clear import TrackingProblem, clear_events, tracking_problem
from perception.evaluation.tracking_figures import ClearMetrics, clear_metrics
from perception.evaluation.tracking_protocol import NUSCENES_TRACKING, TrackingProtocol
from perception.evaluation.tracking_tracks import TrackedDrive, tracked_drives, with_protocol_tracks

SUMMED: Final = ("mt", "ml", "tp", "fp", "fn", "ids", "frag")
"""Figures that are summed over classes; all others are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTrackingMetrics:
    """amota, amotp (m): means over recalls; min_score: the score at which MOTA is best, and `best` the figures there.

    nan throughout for a class without labels.
    """

    amota: float
    amotp: float
    min_score: float
    best: ClearMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingMetrics:
    """amota, amotp: means over the classes with labels. overall: sums (`SUMMED`) and means over them of `best`."""

    amota: float
    amotp: float
    overall: ClearMetrics
    per_class: Mapping[str, ClassTrackingMetrics]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it: nan becomes null."""
        return {
            "amota": json_number(self.amota),
            "amotp": json_number(self.amotp),
            **self.overall.to_dict(),
            "per_class": {
                name: {
                    "amota": json_number(metrics.amota),
                    "amotp": json_number(metrics.amotp),
                    "min_score": json_number(metrics.min_score),
                    **metrics.best.to_dict(),
                }
                for name, metrics in self.per_class.items()
            },
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearSummary:
    """Figures at one score threshold: of all classes together and of each."""

    min_score: float
    overall: ClearMetrics
    per_class: Mapping[str, ClearMetrics]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it: nan becomes null."""
        per_class = {name: metrics.to_dict() for name, metrics in self.per_class.items()}
        return {"min_score": self.min_score, **self.overall.to_dict(), "per_class": per_class}


def evaluate_tracking(
    frames: Sequence[EvaluatedFrame], config: TrackingProtocol = NUSCENES_TRACKING
) -> TrackingMetrics:
    """The tracking metrics of nuScenes (`tracking_nips_2019`) over the frames of one drive or several.

    Each track is judged by its mean score, holes in tracks and labels are filled in the world frame; where a drive has
    no poses, in the ego frame of each time, and `notes` say so. Raises UsageError without frames.
    """
    drives = tracked_drives(frames, config)
    period_s = _frame_period_s(drives, config)
    prepared = [with_protocol_tracks(drive) for drive in drives]
    per_class = {}
    for name in config.class_range_m:
        problem = tracking_problem(prepared, [CLASS_INDEX[name]], config.match_distance_m)
        per_class[name] = _class_metrics(problem, period_s, config)
    return TrackingMetrics(
        amota=_nan_mean([metrics.amota for metrics in per_class.values()]),
        amotp=_nan_mean([metrics.amotp for metrics in per_class.values()]),
        overall=_over_classes([metrics.best for metrics in per_class.values()]),
        per_class=per_class,
        notes=tuple(
            f"{drive.drive_id}: no pose for every frame, so holes in tracks are filled in the ego frame"
            for drive in drives
            if not drive.has_poses
        ),
    )


def clear_summary(
    frames: Sequence[EvaluatedFrame], min_score: float, config: TrackingProtocol = NUSCENES_TRACKING
) -> ClearSummary:
    """CLEAR figures of the boxes as they are, with at least `min_score`: no mean scores, no filled holes.

    MOTA and MOTAR may be negative here. Raises UsageError without frames.
    """
    drives = tracked_drives(frames, config)
    period_s = _frame_period_s(drives, config)

    def figures(names: Sequence[str]) -> ClearMetrics:
        problem = tracking_problem(drives, [CLASS_INDEX[name] for name in names], config.match_distance_m)
        return clear_metrics(clear_events(problem, min_score), period_s)

    per_class = {name: figures([name]) for name in config.class_range_m}
    return ClearSummary(min_score=min_score, overall=figures(list(config.class_range_m)), per_class=per_class)


def _class_metrics(problem: TrackingProblem, period_s: float, config: TrackingProtocol) -> ClassTrackingMetrics:
    if not len(problem.object):
        return ClassTrackingMetrics(amota=math.nan, amotp=math.nan, min_score=math.nan, best=_all_nan())
    thresholds = _thresholds(problem, config)
    at_score = {
        score: _clipped(clear_metrics(clear_events(problem, score), period_s))
        for score in sorted(set(thresholds[~np.isnan(thresholds)].tolist()))
    }
    if not at_score:
        never = _never_found(len(problem.object), len(np.unique(problem.object)), config)
        return ClassTrackingMetrics(amota=0.0, amotp=config.worst_motp_m, min_score=math.nan, best=never)
    figures = [at_score.get(score) for score in thresholds.tolist()]
    motar = [0.0 if one is None or math.isnan(one.motar) else one.motar for one in figures]
    motp = [config.worst_motp_m if one is None or math.isnan(one.motp) else one.motp for one in figures]
    # Of equal accuracies that of the highest recall, which is that of the lowest score, is taken.
    best_score = max(at_score, key=lambda score: (at_score[score].mota, -score))
    return ClassTrackingMetrics(
        amota=float(np.mean(motar)), amotp=float(np.mean(motp)), min_score=best_score, best=at_score[best_score]
    )


def _thresholds(problem: TrackingProblem, config: TrackingProtocol) -> NDArray[np.float64]:
    """The score at which each recall is reached, (num_recalls,), nan where it is not."""
    events = clear_events(problem)
    scores = np.sort(events.score[events.is_found & ~events.is_switch])[::-1]
    recalls = np.linspace(config.min_recall, 1, config.num_recalls).round(12)
    if not len(scores):
        return np.full(len(recalls), np.nan)
    reached = np.arange(1, len(scores) + 1) / len(problem.object)
    thresholds = np.interp(recalls, reached, scores, right=0)
    thresholds[recalls > reached.max()] = np.nan
    return thresholds


def _clipped(metrics: ClearMetrics) -> ClearMetrics:
    """The devkit lets neither accuracy fall below 0."""
    motar = metrics.motar if math.isnan(metrics.motar) else max(0.0, metrics.motar)
    return replace(metrics, mota=max(0.0, metrics.mota), motar=motar)


def _all_nan() -> ClearMetrics:
    return ClearMetrics(**{field.name: math.nan for field in fields(ClearMetrics)})


def _never_found(num_boxes: int, num_objects: int, config: TrackingProtocol) -> ClearMetrics:
    """What the devkit gives a class of which not even the least recall is reached."""
    return replace(
        _all_nan(),
        recall=0.0,
        motar=0.0,
        gt=num_boxes,
        mota=0.0,
        motp=config.worst_motp_m,
        mt=0.0,
        ml=num_objects,
        faf=config.worst_faf,
        tp=0.0,
        fn=num_boxes,
        tid=config.worst_duration_s,
        lgd=config.worst_duration_s,
    )


def _over_classes(per_class: list[ClearMetrics]) -> ClearMetrics:
    def over(name: str) -> float:
        reduce: Callable[[list[float]], float] = _nan_sum if name in SUMMED else _nan_mean
        return reduce([getattr(metrics, name) for metrics in per_class])

    return ClearMetrics(**{field.name: over(field.name) for field in fields(ClearMetrics)})


def _nan_sum(values: list[float]) -> float:
    return float(np.nansum(values))


def _nan_mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _frame_period_s(drives: list[TrackedDrive], config: TrackingProtocol) -> float:
    if config.frame_period_s is not None:
        return config.frame_period_s
    steps_ns = np.concatenate([np.diff(drive.times_ns) for drive in drives])
    return float(np.median(steps_ns)) / 1e9 if len(steps_ns) else 0.0
