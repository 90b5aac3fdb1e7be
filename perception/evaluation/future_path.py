"""Where the ego went after a reference time: as a simulator knows it, or by the poses that a drive's messages carry."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception.core.geometry import invert, transform_points
from perception.core.messages import AnyMessage, EgoState
from perception.core.motion import interpolate_track
from perception.core.ports import Source, TruthSource

F64 = NDArray[np.float64]

MAX_GAP_NS = 1_000_000_000
"""Poses further apart are two pieces of a drive: nothing is known of the way between them."""


def exact_path(source: Source, reference_ns: int, times_s: F64) -> F64 | None:
    """(W, 2) of a source that knows its truth (`TruthSource.future_path`); None of others, and where the drive ends."""
    if not isinstance(source, TruthSource):
        return None
    try:
        return source.future_path(reference_ns, times_s)
    except ValueError:
        return None


class FuturePath:
    """Collects the poses of a drive while its messages pass; times in any order, the last pose of a time counts."""

    def __init__(self) -> None:
        self._poses: dict[int, F64] = {}
        self._times_ns: NDArray[np.int64] | None = None
        self._track = np.zeros((0, 4, 4))

    def __len__(self) -> int:
        """How many poses are known."""
        return len(self._poses)

    def observe(self, message: AnyMessage) -> None:
        """Take any message; only an `EgoState` with a pose says something."""
        if isinstance(message, EgoState) and message.world_SE3_ego is not None:
            self._poses[message.capture_ns] = message.world_SE3_ego
            self._times_ns = None

    def pose_at(self, time_ns: int) -> F64 | None:
        """world_SE3_ego (4, 4), interpolated; None before the first pose, after the last, and in a gap."""
        times, track = self._sorted()
        known = _is_known(times, np.array([time_ns], dtype=np.int64))
        return interpolate_track(times, track, [time_ns])[0] if known[0] else None

    def path_at(self, reference_ns: int, times_s: ArrayLike) -> tuple[F64, NDArray[np.bool_]]:
        """Where the ego is `times_s` (W,) after the reference.

        Returns waypoints_m (W, 2) in the ego frame at `reference_ns`, and is_known (W,): True where poses around the
        reference and around that time were observed, with no gap of the drive between; the other rows are nan.
        """
        seconds = np.asarray(times_s, dtype=np.float64)
        waypoints = np.full((len(seconds), 2), np.nan)
        times, track = self._sorted()
        asked = reference_ns + np.round(seconds * 1e9).astype(np.int64)
        is_known = _is_known(times, asked) & (_piece_of(times, asked) == _piece_of(times, np.array([reference_ns])))
        here = self.pose_at(reference_ns)
        if here is None:
            return waypoints, np.zeros(len(seconds), dtype=np.bool_)
        if is_known.any():
            places = interpolate_track(times, track, asked[is_known])[:, :3, 3]
            waypoints[is_known] = transform_points(invert(here), places)[:, :2]
        return waypoints, is_known

    def _sorted(self) -> tuple[NDArray[np.int64], F64]:
        if self._times_ns is None:
            order = sorted(self._poses)
            self._times_ns = np.array(order, dtype=np.int64)
            self._track = np.stack([self._poses[time] for time in order]) if order else np.zeros((0, 4, 4))
        return self._times_ns, self._track


def _is_known(times_ns: NDArray[np.int64], asked_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True where a time (N,) is that of a pose, or lies between two that are near each other."""
    if len(times_ns) == 0:
        return np.zeros(len(asked_ns), dtype=np.bool_)
    after = np.searchsorted(times_ns, asked_ns)
    later = times_ns[np.minimum(after, len(times_ns) - 1)]
    earlier = times_ns[np.maximum(after - 1, 0)]
    is_between = (after > 0) & (after < len(times_ns)) & (later - earlier <= MAX_GAP_NS)
    is_known: NDArray[np.bool_] = is_between | (later == asked_ns)
    return is_known


def _piece_of(times_ns: NDArray[np.int64], asked_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which unbroken piece of the drive each time (N,) falls into."""
    starts = times_ns[1:][np.diff(times_ns) > MAX_GAP_NS] if len(times_ns) > 1 else times_ns[:0]
    return np.searchsorted(starts, asked_ns, side="right").astype(np.int64)
