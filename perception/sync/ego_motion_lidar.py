"""Ego velocity from lidar alone: each sweep is registered to the one before. Costly; for when nothing else tells."""

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import integrate_twist, rotation_log
from perception.core.messages import EgoState, LidarSweep
from perception.core.motion import EgoMotion, MotionSource
from perception.core.open3d_loader import load_open3d
from perception.sync.compensation import sweep_at_reference

F64 = NDArray[np.float64]

VOXEL_M = 0.6
MIN_RANGE_M = 3.0
MAX_RANGE_M = 60.0
MIN_FITNESS = 0.4
"""Share of points that must find a partner for a registration to count."""
MIN_POINTS = 200
MAX_GAP_NS = 1_000_000_000

_NORMAL_RADIUS_M = 1.8
_NORMAL_NEIGHBOURS = 12
# Correspondence distances, coarse to fine.
_SEARCH_M = (1.5, 0.6)
_ITERATIONS = 12
# Before there is a velocity these speeds are tried, on a coarser cloud: a sweep smeared by 30 m/s matches nothing else.
_FIRST_SPEEDS_MPS = (0.0, 10.0, 20.0, 30.0, 40.0)
_FIRST_VOXEL_M = 1.2
_FIRST_SEARCH_M = (2.5, 1.2)
_FIRST_ROUNDS = 2
# A pair of sweeps tells the way between them to some centimetres, which at 15 Hz is up to 1 m/s.
_GAIN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Match:
    """twist: (3,) vx, vy, yaw_rate between two sweeps. fitness: share of points with a partner, rmse_m of those."""

    twist: F64
    fitness: float
    rmse_m: float


class LidarOdometry:
    """Turns the sweeps of one lidar into EgoState by point-to-plane ICP (Chen and Medioni, 1992), as Open3D does it.

    Each sweep is deskewed with the velocity found last, and the registration starts from that velocity. Open3D is
    imported at the first sweep.
    """

    def __init__(self) -> None:
        self._open3d: ModuleType | None = None
        self._previous: tuple[LidarSweep, Any] | None = None
        self._twist: F64 | None = None

    def observe(self, sweep: LidarSweep, ego_SE3_sensor: F64) -> EgoState | None:
        """Velocity and yaw rate between the last sweep and this one; None for the first and where they do not match.

        Raises PerceptionError where Open3D cannot be loaded.
        """
        if self._open3d is None:
            self._open3d = load_open3d()
        previous, target = self._previous if self._previous is not None else (None, None)
        if previous is not None and abs(sweep.capture_ns - previous.capture_ns) > MAX_GAP_NS:
            self._twist, previous = None, None
        if previous is not None and sweep.capture_ns <= previous.capture_ns:
            return None
        if len(_usable_points(sweep, ego_SE3_sensor, None)) < MIN_POINTS:
            return None
        is_first = self._twist is None
        if previous is not None and self._twist is None:
            self._twist = self._first_twist(previous, sweep, ego_SE3_sensor)
            target = self._prepare(previous, ego_SE3_sensor, self._twist, VOXEL_M)
        self._previous = (sweep, self._prepare(sweep, ego_SE3_sensor, self._twist, VOXEL_M))
        if previous is None or self._twist is None:
            return None
        source = self._thin(_fresh(sweep, previous), ego_SE3_sensor, self._twist, VOXEL_M)
        match = self._match(target, source, self._twist, (sweep.capture_ns - previous.capture_ns) / 1e9, _SEARCH_M)
        if match.fitness < MIN_FITNESS:
            self._twist = None
            return None
        twist = match.twist if is_first else self._twist + _GAIN * (match.twist - self._twist)
        # Open3D sums in parallel, in any order: unrounded, the far digits would differ from run to run.
        self._twist = np.round(twist, 6)
        return EgoState(
            capture_ns=sweep.capture_ns,
            arrival_ns=sweep.arrival_ns,
            world_SE3_ego=None,
            velocity_mps=self._twist[:2].copy(),
            yaw_rate_radps=float(self._twist[2]),
        )

    def _first_twist(self, previous: LidarSweep, sweep: LidarSweep, ego_SE3_sensor: F64) -> F64:
        """The twist under which two sweeps fit best, from several speeds; each fit deskews for the next round."""
        elapsed_s = (sweep.capture_ns - previous.capture_ns) / 1e9
        matches = []
        for speed in _FIRST_SPEEDS_MPS:
            twist = np.array([speed, 0.0, 0.0])
            for _ in range(_FIRST_ROUNDS):
                target = self._prepare(previous, ego_SE3_sensor, twist, _FIRST_VOXEL_M)
                source = self._thin(_fresh(sweep, previous), ego_SE3_sensor, twist, _FIRST_VOXEL_M)
                match = self._match(target, source, twist, elapsed_s, _FIRST_SEARCH_M)
                twist = match.twist
            matches.append(match)
        return max(matches, key=lambda match: match.fitness - match.rmse_m).twist

    def _prepare(self, sweep: LidarSweep, ego_SE3_sensor: F64, twist: F64 | None, voxel_m: float) -> Any:
        """A thinned cloud with normals, to register others to."""
        assert self._open3d is not None
        cloud = self._thin(sweep, ego_SE3_sensor, twist, voxel_m)
        radius = _NORMAL_RADIUS_M * voxel_m / VOXEL_M
        search = self._open3d.geometry.KDTreeSearchParamHybrid(radius=radius, max_nn=_NORMAL_NEIGHBOURS)
        cloud.estimate_normals(search)
        return cloud

    def _thin(self, sweep: LidarSweep, ego_SE3_sensor: F64, twist: F64 | None, voxel_m: float) -> Any:
        """A deskewed, voxel-downsampled cloud in the ego frame at the sweep's capture time."""
        assert self._open3d is not None
        points = self._open3d.utility.Vector3dVector(_usable_points(sweep, ego_SE3_sensor, twist))
        return self._open3d.geometry.PointCloud(points).voxel_down_sample(voxel_m)

    def _match(self, target: Any, source: Any, twist: F64, elapsed_s: float, distances_m: tuple[float, ...]) -> _Match:
        """Register one cloud to the one before, from where `twist` puts it, at falling correspondence distances."""
        assert self._open3d is not None
        registration = self._open3d.pipelines.registration
        criteria = registration.ICPConvergenceCriteria(max_iteration=_ITERATIONS)
        transform, fitness, rmse_m = integrate_twist(twist[:2], float(twist[2]), elapsed_s), 0.0, 0.0
        for distance in distances_m:
            method = registration.TransformationEstimationPointToPlane(registration.TukeyLoss(k=distance / 2))
            result = registration.registration_icp(source, target, distance, transform, method, criteria)
            transform = np.asarray(result.transformation, dtype=np.float64)
            fitness, rmse_m = float(result.fitness), float(result.inlier_rmse)
        return _Match(twist=_twist_of(transform, elapsed_s), fitness=fitness, rmse_m=rmse_m)


def _usable_points(sweep: LidarSweep, ego_SE3_sensor: F64, twist: F64 | None) -> F64:
    """Points (N, 3) float64 in the ego frame at the sweep's capture time, neither the ego's own nor far away."""
    motion = EgoMotion.standing(sweep.capture_ns)
    if twist is not None:
        knots = sweep.capture_ns + np.arange(-10, 11, dtype=np.int64) * 10_000_000
        motion = EgoMotion(
            reference_ns=sweep.capture_ns,
            knots_ns=knots,
            reference_SE3_ego=integrate_twist(twist[:2], float(twist[2]), (knots - sweep.capture_ns) / 1e9),
            velocity_mps=twist[:2],
            yaw_rate_radps=float(twist[2]),
            world_SE3_ego=None,
            source=MotionSource.LIDAR,
        )
    points = sweep_at_reference(sweep, ego_SE3_sensor, motion).points_ego_m
    ranges = np.linalg.norm(points[:, :2] - ego_SE3_sensor[:2, 3].astype(np.float32), axis=1)
    kept: F64 = points[(ranges >= MIN_RANGE_M) & (ranges <= MAX_RANGE_M)].astype(np.float64)
    return kept


def _fresh(sweep: LidarSweep, previous: LidarSweep) -> LidarSweep:
    """The part of a sweep that was measured after the previous one.

    Sweeps of some drives overlap. Points that are in both fit each other under any twist, and would hold the estimate
    where it is.
    """
    if sweep.point_offset_ns is None or previous.point_offset_ns is None or len(previous.point_offset_ns) == 0:
        return sweep
    end_ns = previous.capture_ns + int(previous.point_offset_ns.max())
    is_fresh = sweep.point_offset_ns.astype(np.int64) + sweep.capture_ns > end_ns
    if np.count_nonzero(is_fresh) < MIN_POINTS:
        return sweep
    return replace(
        sweep,
        points_m=sweep.points_m[is_fresh],
        intensity=sweep.intensity[is_fresh],
        point_offset_ns=sweep.point_offset_ns[is_fresh],
        ring=None,
    )


def _twist_of(start_SE3_end: F64, elapsed_s: float) -> F64:
    """(vx, vy, yaw_rate) that leads from one pose to the other in a planar arc: the inverse of `integrate_twist`."""
    yaw_rate = rotation_log(start_SE3_end[:3, :3])[2] / elapsed_s
    forward = integrate_twist([1.0, 0.0], yaw_rate, elapsed_s)[:2, 3]
    sideways = integrate_twist([0.0, 1.0], yaw_rate, elapsed_s)[:2, 3]
    velocity = np.linalg.solve(np.stack([forward, sideways], axis=1), start_SE3_end[:2, 3])
    return np.array([velocity[0], velocity[1], yaw_rate])
