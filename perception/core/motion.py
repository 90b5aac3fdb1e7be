"""How the ego moved around one reference time: what deskewing and projecting need."""

import itertools
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception.core.geometry import interpolate_se3, invert, rotation_log

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

MAX_SEGMENT_TURN_RAD = 0.02
"""Cubed and over six it is the share of the range by which `move_points` errs: 0.3 mm at 200 m."""


class MotionSource(StrEnum):
    """Where the ego motion comes from, best first."""

    POSES = "poses"
    ODOMETRY = "odometry"
    """Recorded velocity and yaw rate, no poses."""
    RADAR = "radar"
    LIDAR = "lidar"
    NONE = "none"
    """Nothing is known: the ego is taken to stand still."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MotionSegments:
    """A track as polynomials: a point p (3,) in the ego frame at time t, `share` of the way through segment i, is

    start_SE3[i] p + share * (p @ linear[i] + shift[i] + share * p @ square[i]) in the ego frame at the reference.

    knots_ns: (S + 1,) int64; the first and the last segment reach outwards. start_SE3: (S, 4, 4) float64. linear and
    square: (S, 3, 3) float32. shift: (S, 3) float32.
    """

    knots_ns: NDArray[np.int64]
    start_SE3: F64
    linear: F32
    square: F32
    shift: F32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EgoMotion:
    """The ego's track near a reference time.

    knots_ns: (T,) int64 rising. reference_SE3_ego: (T, 4, 4) float64, the ego at each knot seen from the ego at
    `reference_ns`. velocity_mps: (2,) over ground in ego axes at the reference; yaw_rate_radps there too.
    world_SE3_ego: (4, 4) at the reference, or None without poses.
    """

    reference_ns: int
    knots_ns: NDArray[np.int64]
    reference_SE3_ego: F64
    velocity_mps: F64
    yaw_rate_radps: float
    world_SE3_ego: F64 | None
    source: MotionSource

    def __post_init__(self) -> None:
        t = len(self.knots_ns)
        if t < 1 or self.reference_SE3_ego.shape != (t, 4, 4):
            raise ValueError(f"{t} knots need ({t}, 4, 4) transforms, got {self.reference_SE3_ego.shape}")

    @classmethod
    def standing(cls, reference_ns: int) -> "EgoMotion":
        """The motion of an ego of which nothing is known."""
        return cls(
            reference_ns=reference_ns,
            knots_ns=np.array([reference_ns], dtype=np.int64),
            reference_SE3_ego=np.eye(4)[None],
            velocity_mps=np.zeros(2),
            yaw_rate_radps=0.0,
            world_SE3_ego=None,
            source=MotionSource.NONE,
        )

    @property
    def speed_mps(self) -> float:
        return float(np.hypot(*self.velocity_mps))

    def at(self, time_ns: int) -> F64:
        """reference_SE3_ego (4, 4) at `time_ns`; beyond the knots the nearest segment goes on."""
        moved: F64 = self.at_many(np.array([time_ns], dtype=np.int64))[0]
        return moved

    def at_many(self, times_ns: ArrayLike) -> F64:
        """reference_SE3_ego (N, 4, 4) at `times_ns` (N,) int64."""
        return interpolate_track(self.knots_ns, self.reference_SE3_ego, times_ns)

    def segments(self) -> "MotionSegments":
        """The track as polynomials in time, for moving points elsewhere as `move_points` does."""
        knots, track = _split_turns(self.knots_ns, self.reference_SE3_ego)
        if len(knots) == 1:  # a segment of any length that goes nowhere
            knots, track = np.array([knots[0], knots[0] + 1]), np.concatenate([track, track])
        parts = [_segment(start, end) for start, end in itertools.pairwise(track)]
        linear, square, shift = (np.stack(column) for column in zip(*parts, strict=True))
        return MotionSegments(
            knots_ns=knots,
            start_SE3=track[:-1],
            linear=linear,
            square=square,
            shift=shift,
        )

    def move_points(self, points_ego_m: NDArray[np.floating], times_ns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Points (N, 3), each in the ego frame at its own time (N,), to the ego frame at the reference: (N, 3) float32.

        In float32, a polynomial in time for each segment of the track and no matrix for each point: within 0.3 mm of
        the exact motion at 200 m as long as a segment turns by less than `MAX_SEGMENT_TURN_RAD` (else it is split).
        """
        points = np.asarray(points_ego_m, dtype=np.float32)
        times = np.asarray(times_ns, dtype=np.int64)
        knots, track = _split_turns(self.knots_ns, self.reference_SE3_ego)
        if len(knots) == 1:
            return _move_by_share(points, None, track[0], track[0])
        segment = _segment_of(knots, times)
        order = None if np.all(segment[1:] >= segment[:-1]) else np.argsort(segment, kind="stable")
        if order is not None:
            points, times, segment = points[order], times[order], segment[order]
        moved = np.empty((len(points), 3), dtype=np.float32)
        bounds = np.searchsorted(segment, np.arange(len(knots)))
        for i in np.flatnonzero(np.diff(bounds)):
            rows = slice(bounds[i], bounds[i + 1])
            share = ((times[rows] - knots[i]) / (knots[i + 1] - knots[i])).astype(np.float32)
            moved[rows] = _move_by_share(points[rows], share, track[i], track[i + 1])
        if order is None:
            return moved
        unsorted = np.empty_like(moved)
        unsorted[order] = moved
        return unsorted


def interpolate_track(knots_ns: NDArray[np.int64], track: F64, times_ns: ArrayLike) -> F64:
    """Transforms (N, 4, 4) at `times_ns` (N,) on a track (T, 4, 4) with rising `knots_ns` (T,).

    Translation linear and rotation at constant rate between knots; beyond them the nearest segment goes on.
    """
    times = np.asarray(times_ns, dtype=np.int64)
    if len(knots_ns) == 1:
        return np.broadcast_to(track[0], (len(times), 4, 4))
    segment = np.clip(np.searchsorted(knots_ns, times, side="right") - 1, 0, len(knots_ns) - 2)
    share = (times - knots_ns[segment]) / (knots_ns[segment + 1] - knots_ns[segment])
    return interpolate_se3(track[segment], track[segment + 1], share)


def _segment_of(knots_ns: NDArray[np.int64], times_ns: NDArray[np.int64]) -> NDArray[np.int16]:
    """Index (N,) of the segment that each time (N,) lies in; the first and the last reach outwards."""
    steps = np.diff(knots_ns)
    if np.all(steps == steps[0]):
        # Ten times as fast as a search where the times are in no order.
        share = (times_ns - knots_ns[0]).astype(np.float32) * np.float32(1 / steps[0])
    else:
        share = (np.searchsorted(knots_ns, times_ns, side="right") - 1).astype(np.float32)
    segment: NDArray[np.int16] = np.clip(share, 0, len(steps) - 1).astype(np.int16)
    return segment


def _split_turns(knots_ns: NDArray[np.int64], track: F64) -> tuple[NDArray[np.int64], F64]:
    """The same track with as many more knots as keep each segment's turn below `MAX_SEGMENT_TURN_RAD`."""
    if len(knots_ns) == 1:
        return knots_ns, track
    turns = np.linalg.norm(rotation_log(np.swapaxes(track[:-1, :3, :3], 1, 2) @ track[1:, :3, :3]), axis=1)
    parts = np.maximum(np.ceil(turns / MAX_SEGMENT_TURN_RAD).astype(np.int64), 1)
    if np.all(parts == 1):
        return knots_ns, track
    pieces = [np.linspace(knots_ns[i], knots_ns[i + 1], parts[i], endpoint=False) for i in range(len(parts))]
    finer = np.unique(np.concatenate([*(piece.astype(np.int64) for piece in pieces), knots_ns[-1:]]))
    return finer, interpolate_track(knots_ns, track, finer)


def _move_by_share(points: F32, share: F32 | None, start: F64, end: F64) -> F32:
    """Move points (N, 3) by the transform that lies `share` (N,) of the way from `start` to `end` (4, 4).

    Rotation by a small vector w, to second order: p + s (w x p) + s^2/2 (w x (w x p)).
    """
    moved: F32 = points @ start[:3, :3].T.astype(np.float32) + start[:3, 3].astype(np.float32)
    if share is None:
        return moved
    linear, square, shift = _segment(start, end)
    column = share[:, None]
    moved += column * (points @ linear + shift + column * (points @ square))
    return moved


def _segment(start: F64, end: F64) -> tuple[F32, F32, F32]:
    """What the share of the way from `start` to `end` (4, 4) and its square are multiplied by; see `MotionSegments`."""
    wx, wy, wz = rotation_log(start[:3, :3].T @ end[:3, :3])
    cross = np.array([[0.0, -wz, wy], [wz, 0.0, -wx], [-wy, wx, 0.0]])
    linear = (start[:3, :3] @ cross).T.astype(np.float32)
    square = (start[:3, :3] @ cross @ cross / 2).T.astype(np.float32)
    shift = (end[:3, 3] - start[:3, 3]).astype(np.float32)
    return linear, square, shift


def relative_motion(previous: EgoMotion, current: EgoMotion) -> F64:
    """current_SE3_previous (4, 4): where the ego of the previous reference is, seen from the current one."""
    if previous.world_SE3_ego is not None and current.world_SE3_ego is not None:
        between: F64 = invert(current.world_SE3_ego) @ previous.world_SE3_ego
        return between
    return current.at(previous.reference_ns)
