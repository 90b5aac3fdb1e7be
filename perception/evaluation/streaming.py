"""Streaming accuracy: every ground-truth time is met by the newest result that was published by then.

A result that is right but late is wrong by as much as the world has moved on (Li et al., Towards Streaming Perception,
2020). All times are those of the drive: `finish_ns` lies on its arrival clock, label times on its capture clock.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import invert
from perception.core.labels import Labels
from perception.core.prediction import move_detections, predict
from perception.core.results import Detections, PerceptionResult
from perception.evaluation.frames import EvaluatedFrame

F64 = NDArray[np.float64]
PoseAt = Callable[[int], F64 | None]

DROPPED: Final = -1
"""In place of a finish time: a newer frame took this one's turn."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimedResult:
    """What was said of `reference_ns`, and when it was out.

    world_SE3_ego: (4, 4) at the reference, None if unknown. predicted_from: the result itself, where it is to be
    carried on by its own account of the ego's motion.
    """

    reference_ns: int
    finish_ns: int
    detections: Detections
    world_SE3_ego: F64 | None
    predicted_from: PerceptionResult | None = None


def finish_times(ready_ns: Sequence[int], latency_ns: Sequence[int]) -> NDArray[np.int64]:
    """When one worker has done each frame: (N,) int64, `DROPPED` for a frame that was never begun.

    ready_ns: when each frame's last message had come in, rising. latency_ns: how long each takes once begun. A frame
    waits for the worker; of those that wait as it gets free the newest is taken and the others are dropped.
    Raises ValueError where the lengths differ or the times fall.
    """
    if len(ready_ns) != len(latency_ns):
        raise ValueError(f"{len(ready_ns)} frames but {len(latency_ns)} latencies")
    if any(later < earlier for earlier, later in pairwise(ready_ns)):
        raise ValueError("frames must be in the order in which they became ready")
    finished = np.full(len(ready_ns), DROPPED, dtype=np.int64)
    free_ns: int | None = None
    for i, (ready, latency) in enumerate(zip(ready_ns, latency_ns, strict=True)):
        begin = ready if free_ns is None else max(ready, free_ns)
        if i + 1 < len(ready_ns) and ready_ns[i + 1] <= begin:
            continue
        finished[i] = free_ns = begin + latency
    return finished


def streamed_frames(
    drive_id: str,
    results: Sequence[TimedResult],
    labels: Sequence[Labels],
    *,
    pose_at: PoseAt,
    is_moved: bool,
) -> list[EvaluatedFrame]:
    """One frame for each of `labels`, with the newest result finished by then; nothing detected where there is none.

    is_moved: carry detections on to the ground-truth time, by their own velocities and the ego's motion between the two
    (`pose_at`: world_SE3_ego at a time; where either pose is unknown the ego's motion is left out), or where a result
    is `predicted_from` itself, as `perception.predict` does.
    Of two results finished by then the one with the later reference counts.
    """
    in_time = sorted((one for one in results if one.finish_ns != DROPPED), key=lambda one: one.finish_ns)
    finished = [one.finish_ns for one in in_time]
    newest: list[TimedResult] = []
    for one in in_time:
        newest.append(one if not newest or one.reference_ns >= newest[-1].reference_ns else newest[-1])
    frames = []
    for truth in labels:
        count = bisect_right(finished, truth.reference_ns)
        pose = pose_at(truth.reference_ns)
        detections = Detections.empty()
        if count:
            detections = newest[count - 1].detections
            if is_moved:
                detections = _carried(newest[count - 1], truth.reference_ns, pose)
        frames.append(
            EvaluatedFrame(
                drive_id=drive_id,
                reference_ns=truth.reference_ns,
                detections=detections,
                labels=truth,
                world_SE3_ego=pose,
            )
        )
    return frames


def _carried(result: TimedResult, time_ns: int, world_SE3_now: F64 | None) -> Detections:
    if result.predicted_from is not None:
        return predict(result.predicted_from, time_ns).detections
    moved = np.eye(4)
    if world_SE3_now is not None and result.world_SE3_ego is not None:
        moved = invert(world_SE3_now) @ result.world_SE3_ego
    return move_detections(result.detections, moved, (time_ns - result.reference_ns) / 1e9)
