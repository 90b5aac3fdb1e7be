"""Reads drives and measures what their lidars, radars and labels hold, for `DriveStatistics`."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import quaternion_to_rotation, transform_points, yaw_of
from perception.core.labels import Labels, points_in_box
from perception.core.messages import EgoState, LidarSweep, RadarScan
from perception.core.motion import EgoMotion
from perception.core.ports import Source
from perception.core.rig import Modality, SensorRig
from perception.core.taxonomy import CLASSES
from perception.evaluation.drive_statistics import (
    MOVING_MPS,
    DriveStatistics,
    LidarStatistics,
    ObjectSamples,
    RadarStatistics,
)
from perception.sync.compensation import scan_at_reference, sweep_at_reference
from perception.sync.ego_estimator import MOTION_SPAN_NS, EgoMotionEstimator

F64 = NDArray[np.float64]

SETTLE_NS = 200_000_000
"""So long after a labelled sweep its frame is measured: radars and ego states around it have come."""
CLEAR_M = 2.5
"""Points nearer to the lidar are left out: the vehicle itself, and what nuScenes stores for firings without echo."""
RADAR_REACH_NS = 120_000_000
"""Scans further than this from the labels are not theirs."""
RADAR_MARGIN_M = 0.5
"""A return belongs to a box that it misses by no more than this: range and angle are coarse."""
RADAR_HALF_VIEW_RAD = np.radians(45.0)
RADAR_VIEW_M = 70.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Frame:
    """A labelled sweep that waits for what belongs to it."""

    labels: Labels
    sweep: LidarSweep


def measure_drives(sources: Iterable[Source], name: str) -> DriveStatistics:
    """Read every message of each drive once and pool what is found. Raises DriveError where a drive breaks off.

    Sweeps and scans are moved to the labels' time by the ego's motion, as the service does it.
    """
    statistics = DriveStatistics(name=name)
    for source in sources:
        _DriveReader(source, statistics).read()
    return statistics


class _DriveReader:
    """Adds one drive to the statistics."""

    def __init__(self, source: Source, statistics: DriveStatistics) -> None:
        self._source = source
        self._rig: SensorRig = source.rig
        self._statistics = statistics
        self._estimator = EgoMotionEstimator(source.rig)
        self._labelled = set(source.label_times_ns)
        self._scans: deque[RadarScan] = deque()
        self._waiting: deque[_Frame] = deque()

    def read(self) -> None:
        self._statistics.drives.append(self._source.drive_id)
        for message in self._source.messages():
            if isinstance(message, EgoState):
                self._estimator.observe(message)
            elif isinstance(message, RadarScan):
                self._estimator.observe(message)
                self._take_scan(message)
            elif isinstance(message, LidarSweep):
                self._take_sweep(message)
            while self._waiting and message.arrival_ns - self._waiting[0].sweep.arrival_ns > SETTLE_NS:
                self._settle(self._waiting.popleft())
        while self._waiting:
            self._settle(self._waiting.popleft())

    def _take_scan(self, scan: RadarScan) -> None:
        self._scans.append(scan)
        while self._scans[0].capture_ns < scan.capture_ns - 2 * SETTLE_NS - RADAR_REACH_NS:
            self._scans.popleft()
        radar = self._statistics.radars.setdefault(scan.sensor, RadarStatistics())
        radar.returns_per_scan.append(int(np.count_nonzero(scan.is_valid)))
        radar.range_m.add(np.linalg.norm(scan.points_m[scan.is_valid], axis=1))
        radar.rcs_dbsm.add(scan.rcs_dbsm[scan.is_valid])
        if scan.compensated_mps is not None:
            radar.compensated += int(np.count_nonzero(scan.is_valid))
            radar.moving += int(np.count_nonzero(np.abs(scan.compensated_mps[scan.is_valid]) > MOVING_MPS))

    def _take_sweep(self, sweep: LidarSweep) -> None:
        lidar = self._statistics.lidars.setdefault(sweep.sensor, LidarStatistics())
        is_clear = np.linalg.norm(sweep.points_m, axis=1) > CLEAR_M
        mount = self._rig[sweep.sensor].ego_SE3_sensor
        points = transform_points(mount, sweep.points_m[is_clear].astype(np.float64))
        lidar.points_per_sweep.append(len(points))
        lidar.range_m.add(np.linalg.norm(points[:, :2], axis=1))
        lidar.height_m.add(points[:, 2])
        lidar.intensity.add(sweep.intensity[is_clear])
        # Boxes are those of the reference lidar; PandaSet's second one has the same stamps.
        if sweep.sensor != self._rig.of(Modality.LIDAR)[0].name:
            return
        if sweep.capture_ns in self._labelled and (labels := self._source.labels(sweep.capture_ns)) is not None:
            self._labelled.discard(sweep.capture_ns)
            self._waiting.append(_Frame(labels=labels, sweep=sweep))

    def _settle(self, frame: _Frame) -> None:
        self._statistics.frames += 1
        labels, sweep = frame.labels, frame.sweep
        motion = self._estimator.motion_at(labels.reference_ns, MOTION_SPAN_NS)
        moved = sweep_at_reference(sweep, self._rig[sweep.sensor].ego_SE3_sensor, motion)
        order = np.argsort(moved.points_ego_m[:, 0], kind="stable")
        points, intensity = moved.points_ego_m[order].astype(np.float64), moved.intensity[order]
        rotation = quaternion_to_rotation(labels.quaternion_wxyz.reshape(-1, 4))
        returns = self._radar_returns(labels, motion)
        for k in np.flatnonzero(labels.class_index >= 0).tolist():
            samples = self._statistics.objects.setdefault(CLASSES[labels.class_index[k]], ObjectSamples())
            center, size = labels.center_m[k], labels.size_m[k]
            reach = np.linalg.norm(size) / 2
            rows = slice(*np.searchsorted(points[:, 0], [center[0] - reach, center[0] + reach]).tolist())
            is_inside = points_in_box(points[rows], center, size, rotation[k])
            speed = float(np.hypot(*labels.velocity_mps[k]))
            samples.distance_m.append(float(np.hypot(*center[:2])))
            samples.size_m.append((float(size[0]), float(size[1]), float(size[2])))
            samples.speed_mps.append(speed if np.isfinite(speed) else None)
            samples.lidar_points.append(int(np.count_nonzero(is_inside)))
            samples.intensity.append(float(intensity[rows][is_inside].mean()) if is_inside.any() else None)
            samples.radar_returns.append(returns[k])

    def _radar_returns(self, labels: Labels, motion: EgoMotion) -> list[int | None]:
        """Valid returns over each box, moved by its velocity to the scan's time; None where no radar faces it."""
        nearest: dict[str, RadarScan] = {}
        for scan in self._scans:
            if abs(scan.capture_ns - labels.reference_ns) <= RADAR_REACH_NS:
                before = nearest.get(scan.sensor)
                if before is None or _apart(scan, labels) < _apart(before, labels):
                    nearest[scan.sensor] = scan
        found: list[int | None] = [None] * len(labels)
        for scan in nearest.values():
            mount = self._rig[scan.sensor].ego_SE3_sensor
            points = scan_at_reference(scan, mount, motion).points_ego_m[:, :2]
            center = labels.center_m[:, :2] + np.nan_to_num(labels.velocity_mps) * (
                (scan.capture_ns - labels.reference_ns) / 1e9
            )
            for k in np.flatnonzero(_is_faced(mount, center)).tolist():
                turn = labels.yaw_rad[k]
                axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
                local = (points - center[k]) @ axes
                is_over = np.all(np.abs(local) <= labels.size_m[k, :2] / 2 + RADAR_MARGIN_M, axis=1)
                found[k] = (found[k] or 0) + int(np.count_nonzero(is_over))
        return found


def _apart(scan: RadarScan, labels: Labels) -> int:
    return abs(scan.capture_ns - labels.reference_ns)


def _is_faced(ego_SE3_radar: F64, center_m: F64) -> NDArray[np.bool_]:
    """True (K,) where a radar faces the place (K, 2): well inside what it sees."""
    offset = center_m - ego_SE3_radar[:2, 3]
    aside = np.arctan2(offset[:, 1], offset[:, 0]) - float(yaw_of(ego_SE3_radar[:3, :3]))
    is_near = np.linalg.norm(offset, axis=1) <= RADAR_VIEW_M
    is_faced: NDArray[np.bool_] = is_near & (np.abs((aside + np.pi) % (2 * np.pi) - np.pi) <= RADAR_HALF_VIEW_RAD)
    return is_faced
