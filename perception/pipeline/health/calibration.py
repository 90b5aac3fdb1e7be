"""Whether a camera still looks where its calibration says: edges in the image against steps in the lidar's depth.

After Levinson and Thrun, "Automatic Online Calibration of Cameras and Lasers" (RSS 2013): the right angle lays more
depth steps on image edges than angles beside it. One angle is watched, to the left and right: a lidar finds its steps
along a beam, at upright edges, which say nothing of up and down.
"""

from collections import deque
from dataclasses import replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.faults import FaultKind
from perception.core.geometry import invert, transform_points
from perception.core.messages import LidarSweep
from perception.core.motion import EgoMotion
from perception.core.rig import Sensor
from perception.pipeline.health.evidence import Evidence
from perception.sync.compensation import sweep_at_reference

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

ANGLES_DEG: Final = np.arange(-5.0, 5.01, 0.5)
"""Angles to the left that are tried."""
DRIFT_DEG: Final = 1.5
"""Reported from here on: 0.8 m at 30 m, a car's half width."""
LOOKS: Final = 16
"""Over which scores are averaged: single views have chance matches."""
MIN_LOOKS: Final = 10
SIGNIFICANT: Final = 4.0
"""By how many standard errors the best angle must beat the calibrated one."""
MIN_STEPS: Final = 40
"""Depth steps without which a view says nothing."""
STEP_M: Final = 0.6
STEP_SHARE: Final = 0.1
"""Neighbouring ranges that differ by more, in metres and as a share, belong to two surfaces."""
NEIGHBOUR_RAD: Final = 0.02
BEAM_RAD: Final = 0.005
RANGE_M: Final = (2.0, 60.0)
EDGE_BLUR_SHARE: Final = 1 / 160
"""Width over which an edge attracts steps, as a share of the image's: about half a degree."""


class DriftWatch:
    """One camera against one lidar. Angles are of the camera: positive, it looks further left than calibrated."""

    def __init__(self, camera: Sensor, lidar: Sensor) -> None:
        self._camera, self._lidar = camera, lidar
        self._camera_SE3_ego = invert(camera.ego_SE3_sensor)
        camera_SE3_lidar = self._camera_SE3_ego @ lidar.ego_SE3_sensor
        self._ahead = camera_SE3_lidar[2, :3].astype(np.float32)
        self._ahead_m = np.float32(camera_SE3_lidar[2, 3])
        self._azimuth = np.float32(np.arctan2(-self._ahead[1], -self._ahead[0]))
        self._scores: deque[F64] = deque(maxlen=LOOKS)

    def look(self, grey: F32, sweep: LidarSweep, motion: EgoMotion) -> Evidence | None:
        """Compare an image (H, W) with a sweep; None where the view says nothing.

        motion: of the ego, with the image's capture as its reference time.
        """
        at = self._steps(sweep)
        if len(at) < MIN_STEPS:
            return None
        offsets = None if sweep.point_offset_ns is None else sweep.point_offset_ns[at]
        steps_only = replace(
            sweep, points_m=sweep.points_m[at], intensity=sweep.intensity[at], point_offset_ns=offsets, ring=None
        )
        moved = sweep_at_reference(steps_only, self._lidar.ego_SE3_sensor, motion)
        steps = transform_points(self._camera_SE3_ego, moved.points_ego_m.astype(np.float64))
        scores = self._score(grey, steps)
        spread = float(scores.std())
        if spread < 1e-6:
            return None
        self._scores.append((scores - scores.mean()) / spread)
        return self._judge() if len(self._scores) >= MIN_LOOKS else None

    def _judge(self) -> Evidence:
        table = np.array(self._scores)
        best = int(np.argmax(table.mean(axis=0)))
        gain = table[:, best] - table[:, len(ANGLES_DEG) // 2]
        error = float(gain.std()) / np.sqrt(len(gain)) + 1e-9
        angle_deg, strength = float(ANGLES_DEG[best]), float(gain.mean()) / error
        is_bad = abs(angle_deg) >= DRIFT_DEG and strength > SIGNIFICANT
        return Evidence(FaultKind.MISCALIBRATED, is_bad, f"looks {angle_deg:+.1f} deg to the left of its calibration")

    def _steps(self, sweep: LidarSweep) -> NDArray[np.int64]:
        """Rows (K,) of the sweep's points on the nearer side of depth steps that the camera may see.

        Found along each beam in the lidar's own frame, before anything is moved: what the ego moves by is not needed
        to choose points, and few are left.
        """
        depth_m = sweep.points_m @ self._ahead + self._ahead_m
        x, y, z = sweep.points_m.T
        flat_m = np.hypot(x, y)
        rows = np.flatnonzero((depth_m > 0.3 * flat_m) & (flat_m > RANGE_M[0]) & (flat_m < RANGE_M[1]))
        if len(rows) < MIN_STEPS:
            return rows[:0]
        flat_m = flat_m[rows]
        # Beams are told apart by elevation: not every format names them.
        beam = np.round(np.arctan2(z[rows], flat_m) / BEAM_RAD)
        # Turned so that the seam of the azimuth lies behind the camera.
        azimuth = (np.arctan2(y[rows], x[rows]) - self._azimuth) % (2 * np.pi)
        order = np.argsort(beam * 10.0 + azimuth)
        rows, flat_m, beam, azimuth = rows[order], flat_m[order], beam[order], azimuth[order]
        jump_m = np.diff(flat_m)
        nearer_m = np.minimum(flat_m[1:], flat_m[:-1])
        is_step = (np.diff(beam) == 0) & (np.diff(azimuth) < NEIGHBOUR_RAD)
        is_step &= np.abs(jump_m) > np.maximum(STEP_M, STEP_SHARE * nearer_m)
        at = np.flatnonzero(is_step)
        return np.asarray(rows[np.where(jump_m[at] > 0, at, at + 1)], dtype=np.int64)

    def _score(self, grey: F32, steps: F64) -> F64:
        """(21,) mean edge strength under the steps for each angle that the camera may really have."""
        optics = self._camera.camera
        assert optics is not None
        gradient = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0))
        edges = cv2.GaussianBlur(np.minimum(gradient, 100.0), (0, 0), max(1.0, grey.shape[1] * EDGE_BLUR_SHARE))
        sin, cos = np.sin(np.radians(ANGLES_DEG))[:, None], np.cos(np.radians(ANGLES_DEG))[:, None]
        x, y, z = steps.T
        # A camera that looks further left sees everything further right.
        turned = np.stack(
            [cos * x + sin * z, np.broadcast_to(y, (len(ANGLES_DEG), len(y))), cos * z - sin * x], axis=-1
        )
        pixels, is_visible = optics.project(turned.reshape(-1, 3))
        height, width = grey.shape
        columns = np.clip((pixels[:, 0] + 0.5) * width / optics.width_px, 0, width - 1)
        rows = np.clip((pixels[:, 1] + 0.5) * height / optics.height_px, 0, height - 1)
        found = np.where(is_visible, edges[rows.astype(np.int64), columns.astype(np.int64)], 0.0)
        seen = is_visible.reshape(len(ANGLES_DEG), -1).sum(axis=1)
        return np.asarray(found.reshape(len(ANGLES_DEG), -1).sum(axis=1) / np.maximum(seen, 1), dtype=np.float64)
