"""Puts messages and a result together into what there is to draw at its reference time."""

from collections import deque

import cv2
import numpy as np

from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan
from perception.core.motion import EgoMotion
from perception.core.ports import Source
from perception.core.results import PerceptionResult
from perception.core.rig import Modality
from perception.core.stages import CameraView
from perception.sync.compensation import scan_at_reference, sweep_at_reference
from perception.sync.ego_estimator import MOTION_SPAN_NS, EgoMotionEstimator
from perception.viewer.picture import Image, Scene

KEPT_MESSAGES = 32
"""Messages of each sensor kept until a result asks for them."""
LARGE_PX = 1000
"""Images wider than this are decoded at half their size: a tile of a picture is smaller still."""


class SceneComposer:
    """Remembers the latest messages of a source and finds those that a result was made of."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._estimator = EgoMotionEstimator(source.rig)
        self._kept: dict[str, deque[AnyMessage]] = {}

    def observe(self, message: AnyMessage) -> None:
        """Remember a message; call it before the session sees it."""
        self._estimator.observe(message)
        self._kept.setdefault(message.sensor, deque(maxlen=KEPT_MESSAGES)).append(message)

    def compose(self, result: PerceptionResult) -> Scene:
        """What there is to draw of `result`: sensors, labels and what was perceived."""
        motion = self._estimator.motion_at(result.reference_ns, MOTION_SPAN_NS)
        used = {
            status.name: message
            for status in result.sensors
            if status.age_ns is not None
            and (message := self._find(status.name, result.reference_ns - status.age_ns)) is not None
        }
        rig = self._source.rig
        sweeps = [m for s in rig.of(Modality.LIDAR) if isinstance(m := used.get(s.name), LidarSweep)]
        scans = [m for s in rig.of(Modality.RADAR) if isinstance(m := used.get(s.name), RadarScan)]
        points = [sweep_at_reference(m, rig[m.sensor].ego_SE3_sensor, motion).points_ego_m for m in sweeps]
        returns = [scan_at_reference(m, rig[m.sensor].ego_SE3_sensor, motion) for m in scans]
        empty = np.zeros((0, 3), dtype=np.float32)
        return Scene(
            result=result,
            cameras=[self._camera(m, motion) for m in used.values() if isinstance(m, CameraFrame)],
            lidar_m=np.concatenate([empty, *points]),
            radar_m=np.concatenate([empty, *(r.points_ego_m for r in returns)]),
            radial_mps=np.concatenate([empty[:, 0], *(r.compensated_mps for r in returns)]),
            labels=self._source.labels(result.reference_ns),
        )

    def _camera(self, frame: CameraFrame, motion: EgoMotion) -> tuple[CameraView, Image]:
        view = CameraView.of(frame, self._source.rig[frame.sensor], motion)
        how = cv2.IMREAD_REDUCED_COLOR_2 if view.camera.width_px > LARGE_PX else cv2.IMREAD_COLOR
        pixels = cv2.imdecode(np.frombuffer(frame.data, dtype=np.uint8), how)
        return view, np.asarray(pixels, dtype=np.uint8)

    def _find(self, sensor: str, capture_ns: int) -> AnyMessage | None:
        return next((m for m in reversed(self._kept.get(sensor, ())) if m.capture_ns == capture_ns), None)
