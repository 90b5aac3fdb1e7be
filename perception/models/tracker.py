"""Track ids: detections continue the tracks nearest to where those should be by now.

Each track goes on at constant velocity over ground; matching is by distance of centres, within a class, at least
total distance (Hungarian method), so that the same detections give the same ids every time.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from perception.config.schema import TrackerConfig
from perception.core.geometry import transform_points
from perception.core.results import NO_TRACK, Detections

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FIRST_ID = 1


def _no_rows(*shape: int) -> F64:
    return np.zeros((0, *shape))


def _no_ids() -> I64:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrackerState:
    """All that a tracker remembers: plain arrays, one row a living track, in the ego frame at `reference_ns`.

    track_id, class_index, seen_ns: (T,) int64; seen_ns is the reference time at which it was last detected.
    center_m: (T, 3) float64. velocity_mps: (T, 2) over ground in ego axes. reference_ns: None before the first step.
    """

    reference_ns: int | None = None
    next_id: int = FIRST_ID
    track_id: I64 = field(default_factory=_no_ids)
    class_index: I64 = field(default_factory=_no_ids)
    seen_ns: I64 = field(default_factory=_no_ids)
    center_m: F64 = field(default_factory=lambda: _no_rows(3))
    velocity_mps: F64 = field(default_factory=lambda: _no_rows(2))

    def __len__(self) -> int:
        return len(self.track_id)


class Tracker:
    """Gives ids to the detections of one run. `state` may be saved, and handed to another tracker to go on."""

    def __init__(self, config: TrackerConfig, state: TrackerState | None = None) -> None:
        self._config = config
        self.state = TrackerState() if state is None else state

    def reset(self) -> None:
        """Forget all tracks; ids start afresh (a new run)."""
        self.state = TrackerState()

    def step(self, detections: Detections, reference_ns: int, current_SE3_previous: F64) -> Detections:
        """The same detections with track ids, -1 for those too weak to start a track.

        current_SE3_previous: (4, 4), the ego at the previous step seen from the current one. A step that does not go
        forward in time ends all tracks; their ids are not used again.
        """
        tracks = _predict(self.state, reference_ns, current_SE3_previous)
        track, row = _match(tracks, detections, self._config.max_distance_m)
        ids = np.full(len(detections), NO_TRACK, dtype=np.int64)
        ids[row] = tracks.track_id[track]
        born = np.flatnonzero((ids == NO_TRACK) & (detections.score >= self._config.min_score))
        ids[born] = tracks.next_id + np.arange(len(born))
        is_lost = np.ones(len(tracks), dtype=bool)
        is_lost[track] = False
        is_coasting = is_lost & (reference_ns - tracks.seen_ns <= round(self._config.max_missed_s * 1e9))
        alive = np.flatnonzero(ids != NO_TRACK)
        self.state = TrackerState(
            reference_ns=reference_ns,
            next_id=tracks.next_id + len(born),
            track_id=np.concatenate([tracks.track_id[is_coasting], ids[alive]]),
            class_index=np.concatenate([tracks.class_index[is_coasting], detections.class_index[alive]]),
            seen_ns=np.concatenate([tracks.seen_ns[is_coasting], np.full(len(alive), reference_ns, dtype=np.int64)]),
            center_m=np.concatenate([tracks.center_m[is_coasting], detections.center_m[alive]]),
            velocity_mps=np.concatenate([tracks.velocity_mps[is_coasting], detections.velocity_mps[alive]]),
        )
        return replace(detections, track_id=ids)


def _predict(state: TrackerState, reference_ns: int, current_SE3_previous: F64) -> TrackerState:
    """The tracks where they should be at `reference_ns`, in the ego frame then."""
    if state.reference_ns is None or reference_ns <= state.reference_ns:
        return TrackerState(reference_ns=reference_ns, next_id=state.next_id)
    moved = state.center_m.copy()
    moved[:, :2] += state.velocity_mps * ((reference_ns - state.reference_ns) / 1e9)
    return replace(
        state,
        reference_ns=reference_ns,
        center_m=transform_points(current_SE3_previous, moved),
        velocity_mps=state.velocity_mps @ current_SE3_previous[:2, :2].T,
    )


def _match(tracks: TrackerState, detections: Detections, max_distance_m: float) -> tuple[I64, I64]:
    """Rows of tracks and of detections that belong together."""
    gap = tracks.center_m[:, None, :2] - detections.center_m[None, :, :2]  # (T, N, 2)
    distance = np.hypot(gap[..., 0], gap[..., 1])  # (T, N)
    is_possible = (distance <= max_distance_m) & (tracks.class_index[:, None] == detections.class_index[None])
    # Dearer than any set of possible pairs, so that as many as can be continue.
    never = (1 + min(distance.shape)) * max_distance_m
    track, row = linear_sum_assignment(np.where(is_possible, distance, never))
    is_pair = is_possible[track, row]
    return track[is_pair].astype(np.int64), row[is_pair].astype(np.int64)
