"""Pictures of a running replay: composes what messages and results say about one reference time, every so often."""

from collections import deque
from pathlib import Path

import cv2
import numpy as np

from perception.core.labels import Labels
from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan
from perception.core.motion import EgoMotion
from perception.core.ports import Source
from perception.core.results import PerceptionResult
from perception.core.rig import Modality
from perception.core.stages import CameraView
from perception.sync.compensation import scan_at_reference, sweep_at_reference
from perception.sync.ego_estimator import EgoMotionEstimator
from perception.viewer.picture import Image, Scene, draw_scene

KEPT_MESSAGES = 32
"""Messages of each sensor kept until a result asks for them."""
MOTION_SPAN_NS = 300_000_000


class PictureWriter:
    """Writes `NNNNNN.png` into `folder` for every `every`-th result."""

    def __init__(self, source: Source, folder: Path, *, every: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._source = source
        self._folder = folder
        self._every = every
        self._estimator = EgoMotionEstimator(source.rig)
        self._kept: dict[str, deque[AnyMessage]] = {}

    def write(self, item: AnyMessage | PerceptionResult | Labels) -> None:
        """Remember a message, draw a result."""
        if isinstance(item, PerceptionResult):
            if item.sequence % self._every == 0:
                self._draw(item)
        elif not isinstance(item, Labels):
            self._estimator.observe(item)
            self._kept.setdefault(item.sensor, deque(maxlen=KEPT_MESSAGES)).append(item)

    def close(self) -> None:
        """Every picture is complete as soon as it is drawn."""

    def _draw(self, result: PerceptionResult) -> None:
        picture = draw_scene(self._scene(result))
        (self._folder / f"{result.sequence:06d}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())

    def _scene(self, result: PerceptionResult) -> Scene:
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
            cameras=[self._camera(m, result, motion) for m in used.values() if isinstance(m, CameraFrame)],
            lidar_m=np.concatenate([empty, *points]),
            radar_m=np.concatenate([empty, *(r.points_ego_m for r in returns)]),
            radial_mps=np.concatenate([empty[:, 0], *(r.compensated_mps for r in returns)]),
            labels=self._source.labels(result.reference_ns),
        )

    def _camera(self, frame: CameraFrame, result: PerceptionResult, motion: EgoMotion) -> tuple[CameraView, Image]:
        sensor = self._source.rig[frame.sensor]
        camera = frame.calibration or sensor.camera
        assert camera is not None
        mount = sensor.ego_SE3_sensor if frame.ego_SE3_sensor is None else frame.ego_SE3_sensor
        view = CameraView(
            sensor=frame.sensor,
            camera=camera,
            reference_SE3_camera=motion.at(frame.capture_ns) @ mount,
            age_ns=result.reference_ns - frame.capture_ns,
        )
        pixels = cv2.imdecode(np.frombuffer(frame.data, dtype=np.uint8), cv2.IMREAD_REDUCED_COLOR_2)
        return view, np.asarray(pixels, dtype=np.uint8)

    def _find(self, sensor: str, capture_ns: int) -> AnyMessage | None:
        return next((m for m in reversed(self._kept.get(sensor, ())) if m.capture_ns == capture_ns), None)
