"""Whether a camera still looks where its calibration says: edges in the image against steps in the lidar's depth.

After Levinson and Thrun, "Automatic Online Calibration of Cameras and Lasers" (RSS 2013): the right angle lays more
depth steps on image edges than angles beside it. One angle is watched, to the left and right: a lidar finds its steps
along a beam, at upright edges, which say nothing of up and down.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.faults import FaultKind
from perception.core.geometry import invert, transform_points
from perception.core.messages import LidarSweep, SweepMotion
from perception.core.rig import Sensor
from perception.pipeline.health.evidence import Evidence

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

ANGLES_DEG: Final = np.arange(-5.0, 5.01, 0.5)
"""Angles to the left that are tried."""
DRIFT_DEG: Final = 1.5
"""Reported from here on: 0.8 m at 30 m, a car's half width."""
LOOKS: Final = 10
"""Over which scores are averaged: single views have chance matches."""
MIN_LOOKS: Final = 6
SUSPECT_LOOKS: Final = 2
"""Where the last so many together favour a drift, it is worth while to look again soon."""
SIGNIFICANT: Final = 4.0
"""By how many standard errors the best angle must beat the calibrated one."""
MIN_STEPS: Final = 20
"""Depth steps without which a view says nothing."""
STEP_M: Final = 0.6
STEP_SHARE: Final = 0.1
"""Neighbouring ranges that differ by more, in metres and as a share, belong to two surfaces."""
NEIGHBOUR_RAD: Final = 0.02
BEAM_RAD: Final = 0.005
RANGE_M: Final = (2.0, 60.0)
EDGE_BLUR_SHARE: Final = 1 / 160
"""Width over which an edge attracts steps, as a share of the image's: about half a degree."""
BESIDE_RAD: Final = 0.15
"""Steps so far beside the image are looked at too: a camera that is turned may see them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twist:
    """How the ego moves: over ground in ego axes, and about its vertical. Constant for the tenth of a second between
    an image and a sweep.
    """

    velocity_mps: tuple[float, float]
    yaw_rate_radps: float

    def move(self, points_m: F64, after_s: F64) -> F64:
        """Points (N, 3), each in the ego frame `after_s` (N,) seconds after another moment, in the ego frame then."""
        angle = self.yaw_rate_radps * after_s
        sin, cos = np.sin(angle), np.cos(angle)
        x, y, z = points_m.T
        vx, vy = self.velocity_mps
        return np.stack([cos * x - sin * y + vx * after_s, sin * x + cos * y + vy * after_s, z], axis=1)


class DriftWatch:
    """One camera against one lidar. Angles are of the camera: positive, it looks further left than calibrated."""

    def __init__(self, camera: Sensor, lidar: Sensor) -> None:
        self._camera, self._lidar = camera, lidar
        self._camera_SE3_ego = invert(camera.ego_SE3_sensor)
        camera_SE3_lidar = self._camera_SE3_ego @ lidar.ego_SE3_sensor
        self._ahead = camera_SE3_lidar[2, :3].astype(np.float32)
        self._ahead_m = np.float32(camera_SE3_lidar[2, 3])
        self._azimuth = np.float32(np.arctan2(-self._ahead[1], -self._ahead[0]))
        self._cos_beside = np.float32(_cos_beside(camera))
        self._scores: deque[F64] = deque(maxlen=LOOKS)

    def look(self, grey: F32, capture_ns: int, sweep: LidarSweep, twist: Twist) -> Evidence | None:
        """Compare an image (H, W), captured at `capture_ns`, with a sweep; None where the view says nothing."""
        at = self._steps(sweep)
        if len(at) < MIN_STEPS:
            return None
        after_ns = np.full(len(at), sweep.capture_ns - capture_ns)
        if sweep.motion is SweepMotion.RAW and sweep.point_offset_ns is not None:
            after_ns += sweep.point_offset_ns[at]
        points_ego_m = transform_points(self._lidar.ego_SE3_sensor, sweep.points_m[at].astype(np.float64))
        scores = self._score(grey, transform_points(self._camera_SE3_ego, twist.move(points_ego_m, after_ns / 1e9)))
        spread = float(scores.std())
        if spread < 1e-6:
            return None
        self._scores.append((scores - scores.mean()) / spread)
        return self._judge() if len(self._scores) >= MIN_LOOKS else None

    @property
    def is_suspect(self) -> bool:
        """Whether the last looks favour an angle that would be reported; chance does so now and then."""
        if len(self._scores) < SUSPECT_LOOKS:
            return False
        mean = np.mean([self._scores[-1 - n] for n in range(SUSPECT_LOOKS)], axis=0)
        return bool(abs(ANGLES_DEG[int(np.argmax(mean))]) >= DRIFT_DEG)

    def _judge(self) -> Evidence:
        table = np.array(self._scores)
        best = int(np.argmax(table.mean(axis=0)))
        gain = table[:, best] - table[:, len(ANGLES_DEG) // 2]
        error = float(gain.std()) / np.sqrt(len(gain)) + 1e-9
        angle_deg, strength = float(ANGLES_DEG[best]), float(gain.mean()) / error
        is_bad = bool(abs(angle_deg) >= DRIFT_DEG and strength > SIGNIFICANT)
        return Evidence(FaultKind.MISCALIBRATED, is_bad, f"looks {angle_deg:+.1f} deg to the left of its calibration")

    def _steps(self, sweep: LidarSweep) -> NDArray[np.int64]:
        """Rows (K,) of the sweep's points on the nearer side of depth steps that the camera may see.

        Found along each beam in the lidar's own frame, before anything is moved: what the ego moves by is not needed
        to choose points, and few are left.
        """
        depth_m = sweep.points_m @ self._ahead + self._ahead_m
        x, y, z = sweep.points_m.T
        flat_m = np.sqrt(x * x + y * y)
        rows = np.flatnonzero((depth_m > self._cos_beside * flat_m) & (flat_m > RANGE_M[0]) & (flat_m < RANGE_M[1]))
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


def _cos_beside(camera: Sensor) -> float:
    """Cosine of the angle to the optical axis up to which steps are looked at; 0.3 for a camera that sees further."""
    optics = camera.camera
    assert optics is not None
    middle = (optics.height_px - 1) / 2
    sides = optics.rays(np.array([[-0.5, middle], [optics.width_px - 0.5, middle]]))
    angle = float(np.arctan2(np.abs(sides[:, 0]), sides[:, 2]).max()) + BESIDE_RAD
    return max(0.3, float(np.cos(min(angle, np.pi / 2))))
