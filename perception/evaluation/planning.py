"""How good path hints are: displacement, L2 and collision over three seconds, beside an ego that just drives on.

Two conventions of "L2 at t" and "collision at t" are in use and differ by almost a factor of two; both are given by
name: `at_t` takes the value at the time (UniAD), `mean_to_t` the mean over the half-second steps up to it (ST-P3, VAD).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import integrate_twist
from perception.core.results import PathHints

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

STEPS_S: Final = np.arange(1, 7, dtype=np.float64) * np.float64(0.5)
"""Times (6,) after the reference at which paths are compared."""
HORIZONS_S: Final = (1.0, 2.0, 3.0)
MISS_M: Final = 2.0
"""A path whose end is further than this from the true one missed (Argoverse)."""
MIN_MOVE_M: Final = 0.2
"""Along shorter moves between steps the heading stays as it was: a standing ego does not spin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EgoShape:
    """The ego's outline. center_ahead_m: its middle from the rear axle."""

    length_m: float = 4.6
    width_m: float = 1.85
    center_ahead_m: float = 1.4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedFrame:
    """Path hints of one reference time and what came true.

    truth_m: (6, 2) where the ego was at `STEPS_S`, in the ego frame at the reference; is_known: (6,) True where it is.
    boxes: for each step the labelled boxes (K, 5) then, as x, y, length, width, yaw in that same frame, or None where
    there are no labels near that time. speed_mps, yaw_rate_radps: the ego's at the reference, all the baseline knows.
    """

    drive_id: str
    reference_ns: int
    hints: PathHints
    truth_m: F64
    is_known: Bools
    boxes: tuple[F64 | None, ...]
    speed_mps: float
    yaw_rate_radps: float

    def __post_init__(self) -> None:
        steps = len(STEPS_S)
        if self.hints.times_s[-1] < STEPS_S[-1] - 1e-6:
            raise ValueError(f"path hints reach {self.hints.times_s[-1]:g} s, {STEPS_S[-1]:g} s are scored")
        if self.truth_m.shape != (steps, 2) or self.is_known.shape != (steps,) or len(self.boxes) != steps:
            raise ValueError(f"{self.drive_id} at {self.reference_ns}: truth and boxes must have {steps} steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathScore:
    """L2 in metres and collision rate by horizon in seconds, under both conventions; None where nothing is known.

    ade_m, fde_m: mean and final displacement over the whole three seconds.
    """

    ade_m: float | None
    fde_m: float | None
    l2_at_t_m: Mapping[float, float | None]
    l2_mean_to_t_m: Mapping[float, float | None]
    collision_at_t: Mapping[float, float | None]
    collision_mean_to_t: Mapping[float, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningMetrics:
    """min_ade_m, min_fde_m, miss_rate: by `k`, the number of modes looked at (`1`: the surest; `all`: the best of all).

    frames: those whose truth is known for three seconds. best_mode: the surest mode's L2 and collisions. baseline: the
    same of an ego that keeps its speed and yaw rate.
    """

    frames: int
    min_ade_m: Mapping[str, float | None]
    min_fde_m: Mapping[str, float | None]
    miss_rate: Mapping[str, float | None]
    best_mode: PathScore
    baseline: PathScore

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_planning(frames: Sequence[PlannedFrame], ego: EgoShape | None = None) -> PlanningMetrics:
    """Score path hints against where the ego went.

    L2 at t counts frames whose truth is known up to t, collision those whose boxes are known up to t as well. A step at
    which the true path itself overlaps a box says nothing of the hint and counts as free (as in ST-P3 and UniAD).
    """
    shape = ego or EgoShape()
    surest = [_resample(f.hints.waypoints_m[int(np.argmax(f.hints.confidence))], f.hints.times_s) for f in frames]
    modes = [np.stack([_resample(mode, f.hints.times_s) for mode in f.hints.waypoints_m]) for f in frames]
    whole = [i for i, frame in enumerate(frames) if frame.is_known.all()]
    first = np.array([_errors(surest[i], frames[i].truth_m) for i in whole]).reshape(-1, len(STEPS_S))
    best_ade = np.array([_errors(modes[i], frames[i].truth_m).mean(axis=1).min() for i in whole])
    best_fde = np.array([_errors(modes[i], frames[i].truth_m)[:, -1].min() for i in whole])
    return PlanningMetrics(
        frames=len(whole),
        min_ade_m={"1": _mean(first), "all": _mean(best_ade)},
        min_fde_m={"1": _mean(first[:, -1]), "all": _mean(best_fde)},
        miss_rate={"1": _mean(first[:, -1] > MISS_M), "all": _mean(best_fde > MISS_M)},
        best_mode=_score(frames, surest, shape),
        baseline=_score(frames, [constant_arc(f.speed_mps, f.yaw_rate_radps) for f in frames], shape),
    )


def constant_arc(speed_mps: float, yaw_rate_radps: float) -> F64:
    """(6, 2) at `STEPS_S`: where an ego gets that keeps its speed and yaw rate, and looks at nothing."""
    arc: F64 = integrate_twist((speed_mps, 0.0), yaw_rate_radps, STEPS_S)[:, :2, 3]
    return arc


def collides(path_m: F64, boxes: Sequence[F64 | None], ego: EgoShape) -> Bools:
    """(6,) True where the ego's outline, on the path (6, 2) and headed along it, overlaps a box of that step."""
    heading = _headings(path_m)
    hit = np.zeros(len(path_m), dtype=np.bool_)
    for step, others in enumerate(boxes):
        if others is not None and len(others):
            ahead = ego.center_ahead_m * np.array([np.cos(heading[step]), np.sin(heading[step])])
            outline = np.array([*(path_m[step] + ahead), ego.length_m, ego.width_m, heading[step]])
            hit[step] = bool(overlaps(outline, others).any())
    return hit


def overlaps(one: F64, others: F64) -> Bools:
    """(K,) True where the rectangle (5,) of x, y, length, width, yaw overlaps each of (K, 5) (separating axes)."""
    between = others[:, :2] - one[:2]
    apart = np.zeros(len(others), dtype=np.bool_)
    for axis in (*_axes(np.broadcast_to(one[4], len(others))), *_axes(others[:, 4])):  # each (K, 2)
        distance = np.abs((between * axis).sum(axis=1))
        apart |= distance > _half_extent(one[None], axis) + _half_extent(others, axis)
    return ~apart


def _score(frames: Sequence[PlannedFrame], paths: Sequence[F64], ego: EgoShape) -> PathScore:
    shape = (len(frames), len(STEPS_S))
    error, hit = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    is_known, is_checked = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    for i, (frame, path) in enumerate(zip(frames, paths, strict=True)):
        error[i] = _errors(path, frame.truth_m)
        is_known[i] = np.logical_and.accumulate(frame.is_known)
        is_checked[i] = np.logical_and.accumulate(is_known[i] & np.array([b is not None for b in frame.boxes]))
        hit[i] = collides(path, frame.boxes, ego) & ~collides(np.nan_to_num(frame.truth_m), frame.boxes, ego)
    last = {horizon: int(np.flatnonzero(np.isclose(STEPS_S, horizon))[0]) for horizon in HORIZONS_S}
    whole = error[is_known[:, -1]]
    return PathScore(
        ade_m=_mean(whole),
        fde_m=_mean(whole[:, -1]),
        l2_at_t_m={t: _mean(error[is_known[:, i], i]) for t, i in last.items()},
        l2_mean_to_t_m={t: _mean(error[is_known[:, i], : i + 1]) for t, i in last.items()},
        collision_at_t={t: _mean(hit[is_checked[:, i], i]) for t, i in last.items()},
        collision_mean_to_t={t: _mean(hit[is_checked[:, i], : i + 1]) for t, i in last.items()},
    )


def _resample(waypoints_m: NDArray[np.floating], times_s: NDArray[np.floating]) -> F64:
    """Waypoints (W, 2) at `STEPS_S` (6, 2): straight between them, from the ego's own place on."""
    times = np.concatenate([[0.0], times_s])
    along = np.concatenate([np.zeros((1, 2)), waypoints_m])
    return np.stack([np.interp(STEPS_S, times, along[:, axis]) for axis in range(2)], axis=1)


def _errors(path_m: F64, truth_m: F64) -> F64:
    distance: F64 = np.linalg.norm(path_m - truth_m, axis=-1)
    return distance


def _headings(path_m: F64) -> F64:
    """(W,) heading at each waypoint: along the move that led there."""
    heading, last, at = np.zeros(len(path_m)), 0.0, np.zeros(2)
    for i, point in enumerate(path_m):
        if np.linalg.norm(point - at) >= MIN_MOVE_M:
            last = float(np.arctan2(point[1] - at[1], point[0] - at[0]))
            at = point
        heading[i] = last
    return heading


def _axes(yaw_rad: F64) -> tuple[F64, F64]:
    """Unit vectors (K, 2) along and across rectangles."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)


def _half_extent(rectangles: F64, axis: F64) -> F64:
    """Half the shadow (K,) of rectangles (K or 1, 5) on axes (K, 2)."""
    along, across = _axes(rectangles[:, 4])
    length = np.abs((along * axis).sum(axis=1)) * rectangles[:, 2] / 2
    width = np.abs((across * axis).sum(axis=1)) * rectangles[:, 3] / 2
    extent: F64 = length + width
    return extent


def _mean(values: NDArray[Any]) -> float | None:
    return float(np.mean(values)) if values.size else None
