"""CLEAR association of tracks with objects over time (Bernardin and Stiefelhagen 2008; as py-motmetrics does it)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from perception.evaluation.detection_filters import planar_distance
from perception.evaluation.tracking_tracks import TrackBoxes, TrackedDrive

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

NOT_FOLLOWED = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """One frame as plain lists, for they are gone through some forty times.

    objects: ids, numbered over all drives. near: by object, the rows of the tracked boxes that may follow it, with
    their distances (m). boxes: (track id, row, score) of each tracked box.
    """

    objects: list[int]
    near: list[dict[int, float]]
    boxes: list[tuple[int, int, float]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrackingProblem:
    """Objects of some classes in all frames of all drives, and the tracked boxes that should follow them.

    drives: the frames of each. object, object_scene: (E,) int64, the object of each labelled box and the frame that it
    is in. track, box_scene: (B,) int64 and score: (B,) float64, the same of each tracked box.
    """

    drives: list[list[Scene]]
    object: I64
    object_scene: I64
    track: I64
    box_scene: I64
    score: F64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClearEvents:
    """What became of every object in every frame; E rows, ordered by frame.

    object, frame: (E,) int64; frames count those with an object or a tracked box.
    is_found, is_switch: (E,) True where a track follows the object, and where it is another than before.
    distance_m, score: (E,) of the tracked box that follows it, nan where none does.
    """

    object: I64
    frame: I64
    is_found: NDArray[np.bool_]
    is_switch: NDArray[np.bool_]
    distance_m: F64
    score: F64
    num_frames: int
    num_tracked_boxes: int


def tracking_problem(
    drives: Sequence[TrackedDrive], class_indices: Sequence[int], match_distance_m: float
) -> TrackingProblem:
    """The boxes of some classes; a track may follow objects of its class whose centres are closer than the distance."""
    scenes: list[list[Scene]] = []
    labels, detections = [], []
    num_objects = num_scenes = num_boxes = 0
    for drive in drives:
        there = drive.labels.rows(np.isin(drive.labels.class_index, class_indices))
        found = drive.detections.rows(np.isin(drive.detections.class_index, class_indices))
        names, number = np.unique(there.track, return_inverse=True)
        objects = number + num_objects
        scenes.append(_scenes(len(drive.times_ns), there, objects, found, num_boxes, match_distance_m))
        labels.append((objects, there.frame + num_scenes))
        detections.append((found.track, found.frame + num_scenes, found.score))
        num_objects += len(names)
        num_scenes += len(drive.times_ns)
        num_boxes += len(found.track)
    object_, object_scene = (np.concatenate(column) for column in zip(*labels, strict=True))
    track, box_scene, score = (np.concatenate(column) for column in zip(*detections, strict=True))
    return TrackingProblem(
        drives=scenes, object=object_, object_scene=object_scene, track=track, box_scene=box_scene, score=score
    )


def _scenes(
    count: int, labels: TrackBoxes, objects: I64, boxes: TrackBoxes, first_box: int, match_distance_m: float
) -> list[Scene]:
    steps = np.arange(count + 1)
    label_edge, box_edge = np.searchsorted(labels.frame, steps), np.searchsorted(boxes.frame, steps)
    scenes = []
    for k in range(count):
        there, found = slice(label_edge[k], label_edge[k + 1]), slice(box_edge[k], box_edge[k + 1])
        distance_m = planar_distance(labels.center_m[there, None] - boxes.center_m[None, found])
        is_near = (distance_m < match_distance_m) & (labels.class_index[there, None] == boxes.class_index[None, found])
        near: list[dict[int, float]] = [{} for _ in range(len(distance_m))]
        first = first_box + int(box_edge[k])
        for row, column in np.argwhere(is_near).tolist():
            near[row][first + column] = float(distance_m[row, column])
        rows = range(first, first + distance_m.shape[1])
        scenes.append(
            Scene(
                objects=objects[there].tolist(),
                near=near,
                boxes=list(zip(boxes.track[found].tolist(), rows, boxes.score[found].tolist(), strict=True)),
            )
        )
    return scenes


def clear_events(problem: TrackingProblem, min_score: float = -np.inf) -> ClearEvents:
    """Follow the objects of all drives by the tracked boxes of at least `min_score`.

    An object keeps the track it had last while that is near enough; what is left is matched at least total distance.
    A frame with neither objects nor tracked boxes does not count.
    """
    follower: list[int] = []
    is_switch: list[bool] = []
    distance_m: list[float] = []
    for scenes in problem.drives:
        last_track: dict[int, int] = {}
        for scene in scenes:
            rows = _followers(scene, min_score, last_track)
            for name, row, near in zip(scene.objects, rows, scene.near, strict=True):
                is_switch.append(False)
                distance_m.append(near[row] if row != NOT_FOLLOWED else np.nan)
                if row != NOT_FOLLOWED:
                    track = int(problem.track[row])
                    is_switch[-1] = last_track.get(name, track) != track
                    last_track[name] = track
            follower += rows
    is_kept = problem.score >= min_score
    num_scenes = sum(len(scenes) for scenes in problem.drives)
    is_counted = np.zeros(num_scenes, dtype=bool)
    is_counted[problem.object_scene] = is_counted[problem.box_scene[is_kept]] = True
    row_of = np.array(follower, dtype=np.int64)
    is_found = row_of != NOT_FOLLOWED
    score = np.full(len(row_of), np.nan)
    score[is_found] = problem.score[row_of[is_found]]
    return ClearEvents(
        object=problem.object,
        frame=(np.cumsum(is_counted) - 1)[problem.object_scene],
        is_found=is_found,
        is_switch=np.array(is_switch, dtype=bool),
        distance_m=np.array(distance_m, dtype=np.float64),
        score=score,
        num_frames=int(is_counted.sum()),
        num_tracked_boxes=int(is_kept.sum()),
    )


def _followers(scene: Scene, min_score: float, last_track: dict[int, int]) -> list[int]:
    """The row of the tracked box that follows each object of a frame, -1 where none does."""
    free = {track: row for track, row, score in scene.boxes if score >= min_score}
    followers = [NOT_FOLLOWED] * len(scene.objects)
    left = []
    for index, (name, near) in enumerate(zip(scene.objects, scene.near, strict=True)):
        track = last_track.get(name, NOT_FOLLOWED)
        if free.get(track, NOT_FOLLOWED) in near:
            followers[index] = free.pop(track)
        elif near:
            left.append(index)
    if left and free:
        spare = set(free.values())
        pairs = [(index, row) for index in left for row in scene.near[index] if row in spare]
        for index, row in _cheapest(pairs, scene.near):
            followers[index] = row
    return followers


def _cheapest(pairs: list[tuple[int, int]], near: list[dict[int, float]]) -> list[tuple[int, int]]:
    """Of pairs of object and box as many as go together, at least total distance."""
    indices, rows = sorted({index for index, _ in pairs}), sorted({row for _, row in pairs})
    if len(indices) == len(pairs) == len(rows):
        return pairs
    # An impossible pair costs more than any set of possible ones, so that as many as possible are matched.
    dearest = max(near[index][row] for index, row in pairs)
    impossible = 2 * min(len(indices), len(rows)) * (dearest + 1) + 1
    cost = np.array([[near[index].get(row, impossible) for row in rows] for index in indices])
    chosen = zip(*linear_sum_assignment(cost), strict=True)
    return [(indices[i], rows[j]) for i, j in chosen if cost[i, j] < impossible]
