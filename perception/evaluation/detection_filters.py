"""Which boxes of a frame count: those within the range of their class, seen by a sensor, not in a bike rack."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError, ModelError
from perception.core.geometry import quaternion_to_rotation
from perception.core.labels import Labels, points_in_box
from perception.core.taxonomy import CLASS_INDEX, CLASSES
from perception.evaluation.frames import EvaluatedFrame

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

BIKE_RACK: Final = "static_object.bicycle_rack"
"""Category of a rack; the bicycles and motorcycles in it are not labelled one by one, so none of them count."""
_RACKED: Final = (CLASS_INDEX["bicycle"], CLASS_INDEX["motorcycle"])


def level_centers(frame: EvaluatedFrame, center_m: NDArray[np.floating]) -> F64:
    """Centres (N, 3) in the ego frame as (N, 2) in the level plane, from the ego."""
    return np.asarray(center_m, dtype=np.float64) @ frame.level_R_ego[:2].T


def kept_labels(frame: EvaluatedFrame, class_range_m: Mapping[str, float]) -> Mask:
    """(K,) True for labels that count: class and range, at least one lidar or radar point, not in a bike rack.

    Where only one kind of point was counted it decides; where none was, all labels count.
    Raises DriveError on a label of a class of `class_range_m` without a finite centre, or of a size not above 0.
    """
    labels = frame.labels
    counted = np.stack([labels.num_lidar_points, labels.num_radar_points])
    is_unseen = np.any(counted >= 0, axis=0) & (np.maximum(counted, 0).sum(axis=0) == 0)
    is_of_interest = np.isin(labels.class_index, [CLASS_INDEX[name] for name in class_range_m])
    if (is_of_interest & _is_malformed(labels.center_m, labels.size_m)).any():
        raise DriveError(
            f"drive {frame.drive_id} at {frame.reference_ns}: a label has no finite centre or a size that is not "
            "above 0; leave it out of the labels"
        )
    is_near = _in_range(frame, labels.class_index, labels.center_m, class_range_m)
    is_kept: Mask = is_near & ~is_unseen & ~_in_rack(labels, labels.class_index, labels.center_m)
    return is_kept


def kept_detections(frame: EvaluatedFrame, class_range_m: Mapping[str, float], max_boxes: int) -> Mask:
    """(N,) True for detections that count: the `max_boxes` best by score, class and range, not in a bike rack.

    The nuscenes-devkit refuses a sample of more boxes; here the weakest are left out.
    Raises ModelError on a detection with a score, centre or size that is not finite, or a size that is not above 0.
    """
    detections = frame.detections
    is_malformed = _is_malformed(detections.center_m, detections.size_m) | ~np.isfinite(detections.score)
    if is_malformed.any():
        raise ModelError(
            f"drive {frame.drive_id} at {frame.reference_ns}: a detection has a score, centre or size that is not "
            "finite, or a size that is not above 0; look at the weights that made it"
        )
    is_kept = np.zeros(len(detections), dtype=bool)
    is_kept[np.argsort(-detections.score, kind="stable")[:max_boxes]] = True
    is_kept &= _in_range(frame, detections.class_index, detections.center_m, class_range_m)
    is_kept &= ~_in_rack(frame.labels, detections.class_index, detections.center_m)
    return is_kept


def _in_range(
    frame: EvaluatedFrame,
    class_index: NDArray[np.int64],
    center_m: NDArray[np.floating],
    class_range_m: Mapping[str, float],
) -> Mask:
    # The last entry stands for the index -1, a box outside the ten classes.
    range_m = np.array([*(class_range_m.get(name, 0.0) for name in CLASSES), 0.0])
    is_near: Mask = planar_distance(level_centers(frame, center_m)) < range_m[class_index]
    return is_near


def _in_rack(labels: Labels, class_index: NDArray[np.int64], center_m: NDArray[np.floating]) -> Mask:
    is_racked = np.zeros(len(class_index), dtype=bool)
    is_bike = np.isin(class_index, _RACKED)
    if not is_bike.any():
        return is_racked
    for row in (row for row, category in enumerate(labels.category) if category == BIKE_RACK):
        rotation = quaternion_to_rotation(labels.quaternion_wxyz[row])
        is_racked |= is_bike & points_in_box(center_m, labels.center_m[row], labels.size_m[row], rotation)
    return is_racked


def _is_malformed(center_m: NDArray[np.floating], size_m: NDArray[np.floating]) -> Mask:
    is_sound: Mask = np.isfinite(center_m).all(axis=1) & np.isfinite(size_m).all(axis=1) & (size_m > 0).all(axis=1)
    return ~is_sound


def planar_distance(offset_m: F64) -> F64:
    """Lengths (...) of vectors (..., 2)."""
    length: F64 = np.sqrt(np.sum(offset_m * offset_m, axis=-1))
    return length
