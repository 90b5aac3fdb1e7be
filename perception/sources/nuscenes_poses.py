"""Ego states of a nuScenes scene: one for each pose, with velocity and yaw rate from the poses around it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.geometry import quaternion_to_rotation, rotation_exp, rotation_log
from perception.core.messages import EgoState
from perception.sources.nuscenes_tables import EgoPoseRow

HALF_WINDOW_NS = 50_000_000
"""Poses this far before and after are compared: neighbours a millisecond apart would amplify their rounding."""
MIN_SPAN_NS = 5_000_000
MAX_SPAN_NS = 1_500_000_000

F64 = NDArray[np.float64]


def pose_matrices(rows: Iterable[EgoPoseRow], path: Path) -> F64:
    """world_SE3_ego (N, 4, 4) of N rows. Raises DriveError naming the row where a number makes no pose."""
    rows = list(rows)
    poses = np.zeros((len(rows), 4, 4))
    quaternions = np.array([row.rotation for row in rows], dtype=np.float64).reshape(-1, 4)
    poses[:, :3, 3] = np.array([row.translation for row in rows], dtype=np.float64).reshape(-1, 3)
    poses[:, 3, 3] = 1.0
    is_broken = ~np.all(np.isfinite(poses[:, :3, 3]), axis=1) | ~(np.linalg.norm(quaternions, axis=1) > 1e-6)
    if np.any(is_broken):
        row = rows[int(np.argmax(is_broken))]
        raise DriveError(f"{path}: row {row.token}: translation or rotation is no pose; restore the table")
    poses[:, :3, :3] = quaternion_to_rotation(quaternions)
    return poses


def ego_states(rows: Iterable[EgoPoseRow], path: Path, latency_ns: int) -> list[EgoState]:
    """One state for each timestamp among `rows`, in order of capture.

    The motion is that of constant twist between the poses up to `HALF_WINDOW_NS` before and after (or the direct
    neighbours where those are further away): exact to second order also at the ends. None where poses are lacking.
    """
    rows = list(rows)
    times_ns, first = np.unique(np.array([row.timestamp for row in rows], dtype=np.int64) * 1000, return_index=True)
    poses = pose_matrices(rows, path)[first]
    velocity, yaw_rate, is_known = _motion(times_ns, poses)
    return [
        EgoState(
            capture_ns=time_ns,
            arrival_ns=time_ns + latency_ns,
            world_SE3_ego=poses[i],
            velocity_mps=velocity[i] if is_known[i] else None,
            yaw_rate_radps=float(yaw_rate[i]) if is_known[i] else None,
        )
        for i, time_ns in enumerate(times_ns.tolist())
    ]


def _motion(times_ns: NDArray[np.int64], poses: F64) -> tuple[F64, F64, NDArray[np.bool_]]:
    """Velocity (N, 2) in ego axes, yaw rate (N,), and where they are known (N,)."""
    n = len(times_ns)
    index = np.arange(n)
    first = np.searchsorted(times_ns, times_ns - HALF_WINDOW_NS, side="left")
    last = np.searchsorted(times_ns, times_ns + HALF_WINDOW_NS, side="right") - 1
    is_alone = first == last
    first = np.where(is_alone, np.maximum(index - 1, 0), first)
    last = np.where(is_alone, np.minimum(index + 1, n - 1), last)
    span_ns = times_ns[last] - times_ns[first]
    is_known = (span_ns >= MIN_SPAN_NS) & (span_ns <= MAX_SPAN_NS)
    span_s = np.where(is_known, span_ns, 1) / 1e9
    turn = rotation_log(np.swapaxes(poses[first, :3, :3], -1, -2) @ poses[last, :3, :3])
    # The chord of an arc points along the heading halfway, wherever in the window the state lies.
    halfway = poses[first, :3, :3] @ rotation_exp(turn / 2)
    moved = poses[last, :3, 3] - poses[first, :3, 3]
    velocity = np.einsum("nji,nj->ni", halfway, moved)[:, :2] / span_s[:, None]
    return velocity, turn[:, 2] / span_s, is_known
