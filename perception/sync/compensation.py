"""Moves what lidars and radars saw to the reference time, in the ego frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import transform_points
from perception.core.messages import LidarSweep, RadarScan, SweepMotion
from perception.core.motion import EgoMotion

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MovedSweep:
    """A lidar sweep in the ego frame at the reference time; N finite points.

    points_ego_m: (N, 3) float32. intensity: (N,) float32. offset_s: (N,) float32, when each point was measured, from
    the reference on (negative: before). is_deskewed: False where a raw sweep has no point times and could only be moved
    as a whole, so that the ego's motion during the sweep is still in it. nonfinite: how many points were left out.
    """

    points_ego_m: F32
    intensity: F32
    offset_s: F32
    is_deskewed: bool
    nonfinite: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MovedScan:
    """The valid returns of a radar scan in the ego frame at the reference time; N rows.

    points_ego_m: (N, 3) float32. rcs_dbsm: (N,) float32. compensated_mps: (N,) float32 range rate over ground.
    direction: (N, 3) float32 unit vectors from the radar to the return, ego axes at the reference: `compensated_mps` is
    the velocity over ground along it. offset_s: (N,) float32 capture minus reference.
    """

    points_ego_m: F32
    rcs_dbsm: F32
    compensated_mps: F32
    direction: F32
    offset_s: F32


def sweep_at_reference(sweep: LidarSweep, ego_SE3_sensor: F64, motion: EgoMotion) -> MovedSweep:
    """Move a sweep to the reference time of `motion`: a raw one point by point, a compensated one as a whole."""
    points, intensity, offsets = sweep.points_m, sweep.intensity, sweep.point_offset_ns
    nonfinite = 0
    # One sum tells of any value that is not finite, at a tenth of the cost of a mask; most sweeps have none.
    if not np.isfinite(points.sum(dtype=np.float64) + intensity.sum(dtype=np.float64)):
        is_finite = np.isfinite(points).all(axis=1) & np.isfinite(intensity)
        nonfinite = len(points) - int(np.count_nonzero(is_finite))
        points, intensity = points[is_finite], intensity[is_finite]
        offsets = None if offsets is None else offsets[is_finite]
    age_ns = sweep.capture_ns - motion.reference_ns
    since_ns = np.full(len(points), age_ns) if offsets is None else offsets.astype(np.int64) + age_ns
    is_raw = sweep.motion is SweepMotion.RAW
    if is_raw and offsets is not None:
        moved = motion.move_points(transform_points(ego_SE3_sensor, points), since_ns + motion.reference_ns)
    else:
        moved = transform_points(motion.at(sweep.capture_ns) @ ego_SE3_sensor, points)
    return MovedSweep(
        points_ego_m=moved,
        intensity=intensity,
        offset_s=(since_ns * 1e-9).astype(np.float32),
        is_deskewed=not is_raw or offsets is not None,
        nonfinite=nonfinite,
    )


def scan_at_reference(scan: RadarScan, ego_SE3_sensor: F64, motion: EgoMotion) -> MovedScan:
    """Move the valid, finite returns of a scan to the reference time of `motion`.

    Where the radar does not compensate itself, the range rate over ground is what it measured plus the part of its own
    velocity, lever arm of the mount and yaw rate included, that points at the return.
    """
    is_used = scan.is_valid & np.isfinite(scan.points_m).all(axis=1)
    is_used = is_used & np.isfinite(scan.radial_mps) & np.isfinite(scan.rcs_dbsm)
    if scan.compensated_mps is not None:
        is_used = is_used & np.isfinite(scan.compensated_mps)
    points = scan.points_m[is_used].astype(np.float64)
    ranges = np.linalg.norm(points, axis=1, keepdims=True)
    direction_ego = points / np.maximum(ranges, 1e-6) @ ego_SE3_sensor[:3, :3].T
    if scan.compensated_mps is not None:
        over_ground = scan.compensated_mps[is_used]
    else:
        velocity = mount_velocity(ego_SE3_sensor, motion.velocity_mps, motion.yaw_rate_radps)
        over_ground = (scan.radial_mps[is_used] + direction_ego @ velocity).astype(np.float32)
    reference_SE3_capture = motion.at(scan.capture_ns)
    age_s = (scan.capture_ns - motion.reference_ns) * 1e-9
    return MovedScan(
        points_ego_m=transform_points(reference_SE3_capture @ ego_SE3_sensor, points).astype(np.float32),
        rcs_dbsm=scan.rcs_dbsm[is_used],
        compensated_mps=over_ground,
        direction=(direction_ego @ reference_SE3_capture[:3, :3].T).astype(np.float32),
        offset_s=np.full(len(points), age_s, dtype=np.float32),
    )


def mount_velocity(ego_SE3_sensor: F64, velocity_mps: F64, yaw_rate_radps: float) -> F64:
    """Velocity over ground (3,) of a mount, ego axes: that of the ego's origin plus yaw rate times lever arm."""
    x_m, y_m = ego_SE3_sensor[:2, 3]
    return np.array([velocity_mps[0] - yaw_rate_radps * y_m, velocity_mps[1] + yaw_rate_radps * x_m, 0.0])
