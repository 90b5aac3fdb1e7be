"""Where the ego and the actors are during one capture: poses at a few knots, exact enough between them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import interpolate_se3, wrap_angle, yaw_of
from sim.scene import ActorStates, SceneView

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

KNOT_NS = 20_000_000
"""Knots are at most this far apart: at 5 m/s^2 the straight line between them errs by 0.25 mm."""


def knots_over(start_ns: int, end_ns: int) -> I64:
    """Knot times (T,) int64 from `start_ns` to `end_ns`, one alone where these are equal."""
    if end_ns <= start_ns:
        return np.array([end_ns], dtype=np.int64)
    pieces = int(np.ceil((end_ns - start_ns) / KNOT_NS))
    return np.round(np.linspace(start_ns, end_ns, pieces + 1)).astype(np.int64)


def ego_poses(scene: SceneView, knots_ns: I64, times_ns: I64) -> F64:
    """world_SE3_ego (N, 4, 4) at `times_ns` (N,), between poses asked for at the knots."""
    poses = [scene.ego_at(int(time)).world_SE3_ego for time in knots_ns]
    if len(poses) == 1:
        return np.broadcast_to(poses[0], (len(times_ns), 4, 4))
    segment, share = _place(knots_ns, times_ns)
    between = np.empty((len(times_ns), 4, 4))
    for i in np.unique(segment):
        rows = segment == i
        between[rows] = interpolate_se3(poses[i], poses[i + 1], share[rows])
    return between


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActorTracks:
    """K actors at T knots.

    states: at the middle knot. position_m: (T, K, 3) float64 world. rotation: (T, K, 3, 3) world_R_actor.
    turn_rad: (T - 1, K) how far each turns about the vertical from knot to knot.
    """

    knots_ns: I64
    states: ActorStates
    position_m: F64
    rotation: F64
    turn_rad: F64

    @classmethod
    def sample(cls, scene: SceneView, knots_ns: I64) -> "ActorTracks":
        """Tracks of the actors that are there at the middle knot; before one comes and after it goes it stands."""
        every = [scene.actors_at(int(time)) for time in knots_ns]
        middle = every[len(every) // 2]
        poses = np.stack([_poses_of(states, middle) for states in every])
        yaw = yaw_of(poses[..., :3, :3])
        return cls(
            knots_ns=knots_ns,
            states=middle,
            position_m=poses[..., :3, 3],
            rotation=poses[..., :3, :3],
            turn_rad=wrap_angle(np.diff(yaw, axis=0)),
        )

    @property
    def middle(self) -> int:
        return len(self.knots_ns) // 2

    def places(self, times_ns: I64 | None) -> tuple[I64, NDArray[np.float32]]:
        """Segments (N,) of times (N,), and where in them they lie, 0 at the start, 1 at the end; None: the middle."""
        if times_ns is None or len(self.knots_ns) == 1:
            return np.array([self.middle], dtype=np.int64), np.zeros(1, dtype=np.float32)
        segment, share = _place(self.knots_ns, times_ns)
        return segment, share.astype(np.float32)

    def poses_at(self, actor: I64, times_ns: I64) -> tuple[F64, F64]:
        """Position (N, 3) and rotation (N, 3, 3) of actors, by row (N,), at times (N,): as rays are cast."""
        if len(self.knots_ns) == 1:
            return self.position_m[0, actor], self.rotation[0, actor]
        segment, share = _place(self.knots_ns, times_ns)
        start, end = self.position_m[segment, actor], self.position_m[segment + 1, actor]
        angle = share * self.turn_rad[segment, actor]
        turn = np.zeros((len(angle), 3, 3))
        turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
        turn[:, 1, 0], turn[:, 0, 1] = np.sin(angle), -np.sin(angle)
        turn[:, 2, 2] = 1.0
        return start + share[:, None] * (end - start), turn @ self.rotation[segment, actor]

    def margin_m(self, radius_m: F64) -> F64:
        """(K,) how far any point of an actor strays from where it is at the middle knot."""
        travel = np.linalg.norm(self.position_m - self.position_m[self.middle], axis=-1).max(axis=0)
        return np.asarray(travel + radius_m * np.abs(self.turn_rad).sum(axis=0), dtype=np.float64)


def _place(knots_ns: I64, times_ns: I64) -> tuple[I64, F64]:
    segment = _segments(knots_ns, times_ns)
    start = knots_ns[segment]
    return segment, (times_ns - start) / (knots_ns[segment + 1] - start)


def _segments(knots_ns: I64, times_ns: I64) -> I64:
    return np.clip(np.searchsorted(knots_ns, times_ns, side="right") - 1, 0, len(knots_ns) - 2)


def _poses_of(states: ActorStates, middle: ActorStates) -> F64:
    if np.array_equal(states.actor_id, middle.actor_id):
        return states.world_SE3_actor
    row = {int(actor): i for i, actor in enumerate(states.actor_id)}
    poses = middle.world_SE3_actor.copy()
    for i, actor in enumerate(middle.actor_id):
        if (j := row.get(int(actor))) is not None:
            poses[i] = states.world_SE3_actor[j]
    return poses
