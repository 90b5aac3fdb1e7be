"""Labels and detections of drives as tracks over time, in one plane per drive."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import UsageError
from perception.core.geometry import transform_points
from perception.core.results import NO_TRACK
from perception.evaluation.detection_filters import kept_detections, kept_labels, level_centers
from perception.evaluation.frames import EvaluatedFrame
from perception.evaluation.tracking_protocol import TrackingProtocol

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrackBoxes:
    """Boxes of one drive, one row each, ordered by frame.

    frame, track, class_index: (N,) int64. center_m: (N, 2) float64. score: (N,) float64, nan for labels.
    """

    frame: I64
    track: I64
    class_index: I64
    center_m: F64
    score: F64

    def rows(self, keep: NDArray[np.bool_] | I64) -> "TrackBoxes":
        """The rows that a mask (N,) or an index array picks, in its order."""
        return TrackBoxes(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrackedDrive:
    """times_ns: (T,) int64, rising. has_poses: boxes are in the world's plane, not in the ego's of each frame."""

    drive_id: str
    times_ns: I64
    has_poses: bool
    labels: TrackBoxes
    detections: TrackBoxes


def tracked_drives(frames: Sequence[EvaluatedFrame], config: TrackingProtocol) -> list[TrackedDrive]:
    """The boxes that count, by drive in order of appearance and by time; detections without a track id are left out.

    Raises UsageError without frames, where a drive has two of one time, and where a frame has a track id twice.
    """
    if not frames:
        raise UsageError("nothing to evaluate: no frame has labels")
    by_drive: dict[str, list[EvaluatedFrame]] = {}
    for frame in frames:
        by_drive.setdefault(frame.drive_id, []).append(frame)
    return [_tracked_drive(sorted(drive, key=lambda frame: frame.reference_ns), config) for drive in by_drive.values()]


def with_protocol_tracks(drive: TrackedDrive) -> TrackedDrive:
    """The drive as the nuscenes-devkit compares it: each track has its mean score, and its holes are filled."""
    detections = drive.detections
    score = detections.score.copy()
    for rows in _rows_by_track(detections):
        score[rows] = np.mean(score[rows])
    scored = TrackBoxes(
        frame=detections.frame,
        track=detections.track,
        class_index=detections.class_index,
        center_m=detections.center_m,
        score=score,
    )
    return TrackedDrive(
        drive_id=drive.drive_id,
        times_ns=drive.times_ns,
        has_poses=drive.has_poses,
        labels=_filled(drive.labels, drive.times_ns),
        detections=_filled(scored, drive.times_ns),
    )


def _tracked_drive(frames: list[EvaluatedFrame], config: TrackingProtocol) -> TrackedDrive:
    times_ns = np.array([frame.reference_ns for frame in frames], dtype=np.int64)
    if np.any(np.diff(times_ns) == 0):
        raise UsageError(f"drive {frames[0].drive_id}: two frames of one reference time; give each drive one run")
    has_poses = all(frame.world_SE3_ego is not None for frame in frames)
    numbers: dict[str, int] = {}
    labels, detections = [], []
    for index, frame in enumerate(frames):
        keep = kept_labels(frame, config.class_range_m)
        names = [name for name, is_kept in zip(frame.labels.track_id, keep.tolist(), strict=True) if is_kept]
        track = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
        center_m = _centers(frame, frame.labels.center_m[keep], has_poses)
        labels.append(_boxes(index, track, frame.labels.class_index[keep], center_m, np.full(len(track), np.nan)))
        is_kept_row = kept_detections(frame, config.class_range_m, config.max_boxes_per_frame)
        found = frame.detections.rows(is_kept_row & (frame.detections.track_id != NO_TRACK))
        if len(np.unique(found.track_id)) < len(found):
            raise UsageError(f"drive {frame.drive_id} at {frame.reference_ns}: two detections have one track id")
        center_m = _centers(frame, found.center_m, has_poses)
        detections.append(_boxes(index, found.track_id, found.class_index, center_m, found.score.astype(np.float64)))
    return TrackedDrive(
        drive_id=frames[0].drive_id,
        times_ns=times_ns,
        has_poses=has_poses,
        labels=_joined(labels),
        detections=_joined(detections),
    )


def _centers(frame: EvaluatedFrame, center_m: NDArray[np.floating], has_poses: bool) -> F64:
    if frame.world_SE3_ego is None or not has_poses:
        return level_centers(frame, center_m)
    return transform_points(frame.world_SE3_ego, center_m.astype(np.float64))[:, :2]


def _boxes(index: int, track: I64, class_index: I64, center_m: F64, score: F64) -> TrackBoxes:
    frame = np.full(len(track), index, dtype=np.int64)
    return TrackBoxes(frame=frame, track=track, class_index=class_index, center_m=center_m, score=score)


def _joined(parts: list[TrackBoxes]) -> TrackBoxes:
    names = [field.name for field in fields(TrackBoxes)]
    return TrackBoxes(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _rows_by_track(boxes: TrackBoxes) -> Iterator[I64]:
    """Rows of each track in time order, tracks in order of appearance."""
    _, first, inverse = np.unique(boxes.track, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(inverse))[:-1]) if len(order) else []
    for group in np.argsort(first).tolist():
        yield groups[group]


def _filled(boxes: TrackBoxes, times_ns: I64) -> TrackBoxes:
    """The boxes and, for each track, one in every frame between its first and its last.

    As in the nuscenes-devkit (tracking/loaders.py) the weight of the later box is the share of the time that is still
    to go, so in a hole of several frames the centres come in reverse order; in a hole of one frame it makes no
    difference. Kept, since its figures are the ones to compare with.
    """
    filled = [boxes]
    for rows in _rows_by_track(boxes):
        gaps = np.flatnonzero(np.diff(boxes.frame[rows]) > 1)
        filled += [_between(boxes, int(rows[gap]), int(rows[gap + 1]), times_ns) for gap in gaps]
    joined = _joined(filled)
    return joined.rows(np.argsort(joined.frame, kind="stable"))


def _between(boxes: TrackBoxes, left: int, right: int, times_ns: I64) -> TrackBoxes:
    frame = np.arange(boxes.frame[left] + 1, boxes.frame[right])
    begin_ns, end_ns = times_ns[boxes.frame[left]], times_ns[boxes.frame[right]]
    weight = (end_ns - times_ns[frame]) / (end_ns - begin_ns)
    return TrackBoxes(
        frame=frame,
        track=np.full(len(frame), boxes.track[right]),
        class_index=np.full(len(frame), boxes.class_index[right]),
        center_m=(1.0 - weight)[:, None] * boxes.center_m[left] + weight[:, None] * boxes.center_m[right],
        score=(1.0 - weight) * boxes.score[left] + weight * boxes.score[right],
    )
