"""Boxes of all frames in one table, which is what matching and errors work on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import quaternion_to_rotation, yaw_of
from perception.evaluation.detection_filters import kept_detections, kept_labels, level_centers, planar_distance
from perception.evaluation.detection_protocol import DetectionProtocol
from perception.evaluation.frames import EvaluatedFrame, detection_rotations

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PooledBoxes:
    """Boxes of several frames, one row each, ordered by frame; level axes around the ego of their own frame.

    frame_index, class_index, attribute_index: (N,) int64. center_m, velocity_mps: (N, 2) float64. size_m: (N, 3).
    yaw_rad, score, distance_m: (N,) float64; score is nan for labels; distance_m is from the ego.
    """

    frame_index: I64
    class_index: I64
    center_m: F64
    size_m: F64
    yaw_rad: F64
    velocity_mps: F64
    attribute_index: I64
    score: F64
    distance_m: F64

    def __len__(self) -> int:
        return len(self.frame_index)

    def rows(self, keep: NDArray[np.bool_] | I64) -> "PooledBoxes":
        """The rows that a mask (N,) or an index array picks, in its order."""
        return PooledBoxes(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


def pool_labels(frames: Sequence[EvaluatedFrame], config: DetectionProtocol) -> PooledBoxes:
    """The labels that count, of all frames. Raises DriveError on one without centre or size."""
    return _joined([_frame_labels(index, frame, config) for index, frame in enumerate(frames)])


def pool_detections(frames: Sequence[EvaluatedFrame], config: DetectionProtocol) -> PooledBoxes:
    """The detections that count, of all frames. Raises ModelError on one that is not finite."""
    return _joined([_frame_detections(index, frame, config) for index, frame in enumerate(frames)])


def _frame_labels(index: int, frame: EvaluatedFrame, config: DetectionProtocol) -> PooledBoxes:
    labels = frame.labels
    keep = kept_labels(frame, config.class_range_m)
    rotation = quaternion_to_rotation(labels.quaternion_wxyz[keep]) if keep.any() else np.zeros((0, 3, 3))
    center_m = level_centers(frame, labels.center_m[keep])
    return PooledBoxes(
        frame_index=np.full(len(center_m), index, dtype=np.int64),
        class_index=labels.class_index[keep],
        center_m=center_m,
        size_m=labels.size_m[keep],
        yaw_rad=yaw_of(frame.level_R_ego @ rotation),
        velocity_mps=_level_velocity(frame, labels.velocity_mps[keep]),
        attribute_index=labels.attribute_index[keep],
        score=np.full(len(center_m), np.nan),
        distance_m=planar_distance(center_m),
    )


def _frame_detections(index: int, frame: EvaluatedFrame, config: DetectionProtocol) -> PooledBoxes:
    detections = frame.detections.rows(kept_detections(frame, config.class_range_m, config.max_boxes_per_frame))
    center_m = level_centers(frame, detections.center_m)
    return PooledBoxes(
        frame_index=np.full(len(center_m), index, dtype=np.int64),
        class_index=detections.class_index,
        center_m=center_m,
        size_m=detections.size_m.astype(np.float64),
        yaw_rad=yaw_of(frame.level_R_ego @ detection_rotations(detections.yaw_rad.astype(np.float64))),
        velocity_mps=_level_velocity(frame, detections.velocity_mps),
        attribute_index=detections.attribute_index,
        score=detections.score.astype(np.float64),
        distance_m=planar_distance(center_m),
    )


def _level_velocity(frame: EvaluatedFrame, velocity_mps: NDArray[np.floating]) -> F64:
    """Velocities (N, 2) in ego axes as (N, 2) in level axes.

    Boxes carry no velocity along the ego's z; what that would add to the level plane is of second order in the pitch.
    """
    level: F64 = np.asarray(velocity_mps, dtype=np.float64) @ frame.level_R_ego[:2, :2].T
    return level


def _joined(parts: list[PooledBoxes]) -> PooledBoxes:
    names = [field.name for field in fields(PooledBoxes)]
    return PooledBoxes(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
