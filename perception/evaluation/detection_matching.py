"""Detections to labels: greedily, best score first, each to the nearest label of its frame and class not yet taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.taxonomy import CLASS_INDEX
from perception.evaluation.detection_boxes import PooledBoxes
from perception.evaluation.detection_filters import planar_distance

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

UNMATCHED = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassMatches:
    """Boxes of one class, and which detection found which label.

    detections: P rows in rank order, best score first. labels: G rows. label_of: by match distance, (P,) int64 rows of
    `labels`, -1 where nothing was found.
    """

    detections: PooledBoxes
    labels: PooledBoxes
    label_of: Mapping[float, I64]

    def num_labels_between(self, low_m: float, high_m: float) -> int:
        """How many labels are at `low_m` or further from the ego, but nearer than `high_m`."""
        return int(np.sum(_is_between(self.labels.distance_m, low_m, high_m)))

    def rows_between(self, match_distance_m: float, low_m: float, high_m: float) -> I64:
        """Rows of the detections that count in a band of distance from the ego, in rank order.

        A detection that found a label counts where the label is, any other where it is itself: so a box on the edge of
        a band is one true positive of one band, and never a miss here and a false positive there.
        """
        label_of = self.label_of[match_distance_m]
        distance_m = self.detections.distance_m.copy()
        is_match = label_of != UNMATCHED
        distance_m[is_match] = self.labels.distance_m[label_of[is_match]]
        return np.flatnonzero(_is_between(distance_m, low_m, high_m))


def match_class(
    name: str, detections: PooledBoxes, labels: PooledBoxes, match_distances_m: Sequence[float]
) -> ClassMatches:
    """Match the boxes of one class at each of the distances (nuScenes: centre distance strictly below).

    Of equal scores the last one comes first, as the nuscenes-devkit sorts them.
    """
    detections = detections.rows(detections.class_index == CLASS_INDEX[name])
    detections = detections.rows(np.argsort(detections.score, kind="stable")[::-1])
    labels = labels.rows(labels.class_index == CLASS_INDEX[name])
    detection, label, distance_m = _candidates(detections, labels, max(match_distances_m))
    label_of = {
        limit_m: _greedy(detection[distance_m < limit_m], label[distance_m < limit_m], len(detections), len(labels))
        for limit_m in match_distances_m
    }
    return ClassMatches(detections=detections, labels=labels, label_of=label_of)


def _candidates(detections: PooledBoxes, labels: PooledBoxes, limit_m: float) -> tuple[I64, I64, F64]:
    """Pairs of one frame closer than `limit_m`: rows of detections, rows of labels, distances.

    Ordered by rank of the detection, then by distance, then by row of the label: the order of a greedy search.
    """
    num_frames = 1 + max(_last(detections.frame_index), _last(labels.frame_index))
    per_frame = np.bincount(labels.frame_index, minlength=num_frames)
    first_label = np.cumsum(per_frame) - per_frame
    count = per_frame[detections.frame_index]
    detection = np.repeat(np.arange(len(detections)), count)
    place = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    label = first_label[detections.frame_index[detection]] + place
    distance_m = planar_distance(detections.center_m[detection] - labels.center_m[label])
    near = np.flatnonzero(distance_m < limit_m)
    near = near[np.lexsort((label[near], distance_m[near], detection[near]))]
    return detection[near], label[near], distance_m[near]


def _greedy(detection: I64, label: I64, num_detections: int, num_labels: int) -> I64:
    label_of = [UNMATCHED] * num_detections
    is_taken = [False] * num_labels
    for row, candidate in zip(detection.tolist(), label.tolist(), strict=True):
        if label_of[row] == UNMATCHED and not is_taken[candidate]:
            label_of[row] = candidate
            is_taken[candidate] = True
    return np.array(label_of, dtype=np.int64)


def _last(frame_index: I64) -> int:
    return int(frame_index.max()) if len(frame_index) else -1


def _is_between(distance_m: F64, low_m: float, high_m: float) -> NDArray[np.bool_]:
    is_between: NDArray[np.bool_] = (distance_m >= low_m) & (distance_m < high_m)
    return is_between
