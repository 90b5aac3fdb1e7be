"""The recent motion of the ego, from states that a drive recorded or an estimator made."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import integrate_twist, invert, rotation_log
from perception.core.messages import EgoState
from perception.core.motion import EgoMotion, MotionSource, interpolate_track

F64 = NDArray[np.float64]

HISTORY_NS = 10_000_000_000
MAX_STATES = 4096
MAX_EXTRAPOLATION_NS = 500_000_000
"""How far beyond its newest (or before its oldest) state a track is believed to go on as it was."""

_KNOT_STEP_NS = 10_000_000
# Poses a millisecond apart make a noisy velocity: difference them over this much, half to each side if there is one.
_BASELINE_NS = 200_000_000


class EgoTracker:
    """Bounded history of EgoState, and the motion around any time in it.

    Poses and velocities are kept side by side: a drive may have either or both. Messages may come out of order; a state
    more than `HISTORY_NS` older than the newest means that the clock was set back, and the history starts afresh.
    """

    def __init__(self, velocity_source: MotionSource = MotionSource.ODOMETRY) -> None:
        self._velocity_source = velocity_source
        self._poses: list[EgoState] = []
        self._twists: list[EgoState] = []

    def observe(self, state: EgoState) -> None:
        """Take one state. Parts that are not finite count as not known."""
        newest_ns = max((track[-1].capture_ns for track in (self._poses, self._twists) if track), default=None)
        if newest_ns is not None and state.capture_ns < newest_ns - HISTORY_NS:
            self._poses.clear()
            self._twists.clear()
        if state.world_SE3_ego is not None and np.all(np.isfinite(state.world_SE3_ego)):
            _insert(self._poses, state)
        if state.velocity_mps is not None and np.all(np.isfinite(state.velocity_mps)):
            _insert(self._twists, state)

    @property
    def is_empty(self) -> bool:
        return not self._poses and not self._twists

    def extrapolation_ns(self, time_ns: int) -> int | None:
        """How far `time_ns` lies outside the better of the two tracks; 0 inside, None without any state."""
        reaches = [_outside_ns(track, time_ns) for track in (self._poses, self._twists) if track]
        return min(reaches, default=None)

    def motion_at(self, reference_ns: int, span_ns: int) -> EgoMotion:
        """Motion from `span_ns` before to `span_ns` after a reference time, with a knot every 10 ms or finer.

        From poses, else from velocities and yaw rates. A track that ends up to `MAX_EXTRAPOLATION_NS` short of the
        reference goes on at its last velocity; one that ends earlier is not used. Without either the ego is taken to
        stand, with source NONE.
        """
        knots = _knots(reference_ns, span_ns)
        if self._poses and _outside_ns(self._poses, reference_ns) <= MAX_EXTRAPOLATION_NS:
            return self._from_poses(reference_ns, knots)
        if self._twists and _outside_ns(self._twists, reference_ns) <= MAX_EXTRAPOLATION_NS:
            return self._from_twists(reference_ns, knots)
        return EgoMotion.standing(reference_ns)

    def _from_poses(self, reference_ns: int, knots: NDArray[np.int64]) -> EgoMotion:
        near = _around(self._poses, int(knots[0]) - _BASELINE_NS, int(knots[-1]) + _BASELINE_NS)
        times = np.array([state.capture_ns for state in near], dtype=np.int64)
        poses = np.stack([state.world_SE3_ego for state in near if state.world_SE3_ego is not None])
        velocity, yaw_rate = _difference(times, poses, reference_ns)
        if self._twists and _outside_ns(self._twists, reference_ns) == 0:
            velocity, recorded = _twist_at(self._twists, reference_ns)
            yaw_rate = yaw_rate if recorded is None else recorded
        world_SE3_knot = _track_at(times, poses, knots, velocity, yaw_rate)
        world_SE3_ego = _track_at(times, poses, np.array([reference_ns]), velocity, yaw_rate)[0]
        return EgoMotion(
            reference_ns=reference_ns,
            knots_ns=knots,
            reference_SE3_ego=invert(world_SE3_ego) @ world_SE3_knot,
            velocity_mps=velocity,
            yaw_rate_radps=yaw_rate,
            world_SE3_ego=world_SE3_ego,
            source=MotionSource.POSES,
        )

    def _from_twists(self, reference_ns: int, knots: NDArray[np.int64]) -> EgoMotion:
        velocity, yaw_rate = _twist_at(self._twists, reference_ns)
        middle = int(np.searchsorted(knots, reference_ns))
        reference_SE3_ego = np.empty((len(knots), 4, 4))
        reference_SE3_ego[middle] = np.eye(4)
        for direction, stop in ((1, len(knots)), (-1, -1)):
            for i in range(middle + direction, stop, direction):
                before, now = int(knots[i - direction]), int(knots[i])
                twist, turn = _twist_at(self._twists, (before + now) // 2)
                step = integrate_twist(twist, turn or 0.0, (now - before) / 1e9)
                reference_SE3_ego[i] = reference_SE3_ego[i - direction] @ step
        return EgoMotion(
            reference_ns=reference_ns,
            knots_ns=knots,
            reference_SE3_ego=reference_SE3_ego,
            velocity_mps=velocity,
            yaw_rate_radps=yaw_rate or 0.0,
            world_SE3_ego=None,
            source=self._velocity_source,
        )


def _insert(track: list[EgoState], state: EgoState) -> None:
    at = bisect_left(track, state.capture_ns, key=_capture)
    if at < len(track) and track[at].capture_ns == state.capture_ns:
        return
    insort(track, state, key=_capture)
    while len(track) > MAX_STATES or track[0].capture_ns < track[-1].capture_ns - HISTORY_NS:
        track.pop(0)


def _capture(state: EgoState) -> int:
    return state.capture_ns


def _knots(reference_ns: int, span_ns: int) -> NDArray[np.int64]:
    """Evenly spaced times around the reference, itself among them."""
    half = max(-(-span_ns // _KNOT_STEP_NS), 1)
    step = max(span_ns // half, 1)
    return reference_ns + np.arange(-half, half + 1, dtype=np.int64) * step


def _outside_ns(track: Sequence[EgoState], time_ns: int) -> int:
    return max(track[0].capture_ns - time_ns, time_ns - track[-1].capture_ns, 0)


def _around(track: Sequence[EgoState], start_ns: int, end_ns: int) -> Sequence[EgoState]:
    """States within a window and the next one on either side."""
    first = bisect_left(track, start_ns, key=_capture)
    last = bisect_left(track, end_ns, key=_capture)
    return track[max(first - 1, 0) : last + 1]


def _difference(times: NDArray[np.int64], poses: F64, at_ns: int) -> tuple[F64, float]:
    """Velocity (2,) in ego axes and yaw rate at `at_ns` by differencing poses (T, 4, 4); 0 with a single pose."""
    last, first = int(times[-1]), int(times[0])
    start = max(min(at_ns - _BASELINE_NS // 2, last - _BASELINE_NS), first)
    end = min(max(at_ns + _BASELINE_NS // 2, first + _BASELINE_NS), last)
    if end <= start:
        return np.zeros(2), 0.0
    world_SE3_ego = interpolate_track(times, poses, [start, min(max(at_ns, start), end), end])
    seconds = (end - start) / 1e9
    rotation = world_SE3_ego[:, :3, :3]
    velocity = rotation[1].T @ (world_SE3_ego[2, :3, 3] - world_SE3_ego[0, :3, 3]) / seconds
    yaw_rate = rotation_log(rotation[0].T @ rotation[2])[2] / seconds
    return velocity[:2], float(yaw_rate)


def _track_at(times: NDArray[np.int64], poses: F64, at_ns: NDArray[np.int64], velocity: F64, yaw_rate: float) -> F64:
    """Poses (N, 4, 4) at `at_ns` (N,): interpolated within the recorded ones, at constant twist outside of them."""
    inside = np.clip(at_ns, times[0], times[-1])
    return interpolate_track(times, poses, inside) @ integrate_twist(velocity, yaw_rate, (at_ns - inside) / 1e9)


def _twist_at(track: Sequence[EgoState], time_ns: int) -> tuple[F64, float | None]:
    """Velocity (2,) and yaw rate (None if not known) at a time: linear between states, held outside of them."""
    at = bisect_left(track, time_ns, key=_capture)
    before, after = track[max(at - 1, 0)], track[min(at, len(track) - 1)]
    gap = after.capture_ns - before.capture_ns
    share = 0.0 if gap == 0 else float(np.clip((time_ns - before.capture_ns) / gap, 0.0, 1.0))
    assert before.velocity_mps is not None
    assert after.velocity_mps is not None
    velocity = (1 - share) * before.velocity_mps + share * after.velocity_mps
    if before.yaw_rate_radps is None or after.yaw_rate_radps is None:
        return velocity, before.yaw_rate_radps if after.yaw_rate_radps is None else after.yaw_rate_radps
    return velocity, (1 - share) * before.yaw_rate_radps + share * after.yaw_rate_radps
