"""Which objects are found and which are missed, and how much of what is reported is there."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception.core.taxonomy import CLASSES
from perception.evaluation.detection_boxes import PooledBoxes, pool_detections, pool_labels
from perception.evaluation.detection_filters import kept_labels
from perception.evaluation.detection_matching import UNMATCHED, ClassMatches, match_class
from perception.evaluation.detection_protocol import NUSCENES
from perception.evaluation.frames import EvaluatedFrame

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

MATCH_M: Final = 2.0
"""Centres this close are of one object; nuScenes takes its errors of true positives at this distance."""
WITHIN_M: Final = (30.0, 50.0)
GROUPS_M: Final = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)
GROUPS_POINTS: Final = (0, 1, 6, 21, 101)
GROUPS_VISIBLE: Final = (0.0, 0.4, 0.6, 0.8)
"""The edges of nuScenes' four levels of visibility."""


def operating_points(frames: Sequence[EvaluatedFrame], score: float) -> list[dict[str, Any]]:
    """Precision and recall of each class that occurs, within 30 m and within 50 m (or the class's own range), matched
    at 2 m: of the detections of `score` and more, and of those of the score at which F1 is best."""
    detections, labels = pool_detections(frames, NUSCENES), pool_labels(frames, NUSCENES)
    rows: list[dict[str, Any]] = []
    for name in CLASSES:
        matches = match_class(name, detections, labels, [MATCH_M])
        for within_m in WITHIN_M:
            count = matches.num_labels_between(0.0, within_m)
            if count:
                rows.append({"class": name, "within_m": within_m, "labels": count, **_point(matches, within_m, score)})
    return rows


def recall_by_group(frames: Sequence[EvaluatedFrame], score: float) -> dict[str, list[dict[str, Any]]]:
    """Share of the labels that a detection of their class and of `score` or more found within 2 m: by class, by
    distance, by lidar points in the box and by how much of the object is in view (where that is known)."""
    labels = pool_labels(frames, NUSCENES)
    detections = pool_detections(frames, NUSCENES)
    is_found = _found(detections.rows(detections.score >= score), labels)
    points, visible = _of_labels(frames)
    groups = {
        "class": [(name, labels.class_index == index) for index, name in enumerate(CLASSES)],
        "distance": _bands(labels.distance_m, GROUPS_M, "{:g} m and more", "{:g} to {:g} m"),
        "lidar points": _bands(points, GROUPS_POINTS, "{:g} and more", "{:g} to below {:g}"),
        "in view": _bands(visible * 100, [100 * edge for edge in GROUPS_VISIBLE], "{:g} % and more", "{:g} to {:g} %"),
    }
    return {
        title: [_recall(name, is_found[rows]) for name, rows in group if rows.any()] for title, group in groups.items()
    }


def _point(matches: ClassMatches, within_m: float, score: float) -> dict[str, float | None]:
    count = matches.num_labels_between(0.0, within_m)
    rows = matches.rows_between(MATCH_M, 0.0, within_m)
    scores = matches.detections.score[rows]
    hits = np.cumsum(matches.label_of[MATCH_M][rows] != UNMATCHED)
    precision, recall = hits / np.arange(1, len(rows) + 1), hits / count
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = int(f1.argmax()) if len(f1) else None
    chosen = int((scores >= score).sum()) - 1
    return {
        "precision": float(precision[chosen]) if chosen >= 0 else None,
        "recall": float(recall[chosen]) if chosen >= 0 else 0.0,
        "best_f1": None if best is None else float(f1[best]),
        "best_precision": None if best is None else float(precision[best]),
        "best_recall": None if best is None else float(recall[best]),
        "best_score": None if best is None else float(scores[best]),
    }


def _found(detections: PooledBoxes, labels: PooledBoxes) -> Bool:
    """True (G,) for each label that was found."""
    is_found = np.zeros(len(labels), dtype=np.bool_)
    for index, name in enumerate(CLASSES):
        label_of = match_class(name, detections, labels, [MATCH_M]).label_of[MATCH_M]
        is_found[np.flatnonzero(labels.class_index == index)[label_of[label_of != UNMATCHED]]] = True
    return is_found


def _of_labels(frames: Sequence[EvaluatedFrame]) -> tuple[F64, F64]:
    """Lidar points in each label that counts, and the share of it in view (G,), in the order of `pool_labels`."""
    points, visible = [np.zeros(0)], [np.zeros(0)]
    for frame in frames:
        keep, labels = kept_labels(frame, NUSCENES.class_range_m), frame.labels
        counted = labels.num_lidar_points[keep].astype(np.float64)
        points.append(np.where(counted < 0, np.nan, counted))
        share = np.full(len(labels), np.nan) if labels.visible_share is None else labels.visible_share
        visible.append(share[keep])
    return np.concatenate(points), np.concatenate(visible)


def _bands(values: F64, edges: Sequence[float], last: str, others: str) -> list[tuple[str, Bool]]:
    """Named masks of the values between the edges; the last band has no end. nan is in none."""
    names = [others.format(low, high) for low, high in pairwise(edges)] + [last.format(edges[-1])]
    bounds = zip(edges, [*edges[1:], np.inf], strict=True)
    return [(name, (values >= low) & (values < high)) for name, (low, high) in zip(names, bounds, strict=True)]


def _recall(name: str, is_found: Bool) -> dict[str, Any]:
    return {"name": name, "labels": len(is_found), "recall": float(is_found.mean())}
