"""Puts messages and a result together into what there is to draw at one reference time."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.labels import Labels
from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan
from perception.core.motion import EgoMotion
from perception.core.ports import Source
from perception.core.results import PerceptionResult
from perception.core.rig import Modality, Sensor
from perception.core.stages import CameraView
from perception.sync.compensation import scan_at_reference, sweep_at_reference
from perception.sync.ego_estimator import MOTION_SPAN_NS, EgoMotionEstimator

Image = NDArray[np.uint8]
F32 = NDArray[np.float32]

KEPT_MESSAGES = 32
"""Messages of each sensor kept until somebody asks for them."""
LARGE_PX = 1000
"""Images wider than this are decoded at half their size: a tile of a picture is smaller still."""
MAX_AGE_NS = 250_000_000
"""Without a result to say so, what was captured further from the reference does not belong to it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """What there is to draw at one reference time, all in the ego frame at the reference.

    world_SE3_ego: (4, 4), None without poses. cameras: view and decoded BGR image of each present camera. lidar_m:
    (N, 3) with intensity (N,) in 0..1. radar_m: (M, 3) with radial_mps (M,) over ground along radar_direction (M, 3).
    labels: ground truth, where there is any. result: what was perceived, where that is known.
    """

    sequence: int
    reference_ns: int
    world_SE3_ego: NDArray[np.float64] | None
    cameras: Sequence[tuple[CameraView, Image]]
    lidar_m: F32
    intensity: F32
    radar_m: F32
    radar_direction: F32
    radial_mps: F32
    labels: Labels | None = None
    result: PerceptionResult | None = None


class SceneComposer:
    """Remembers the latest messages of a source and finds those that belong to a reference time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._estimator = EgoMotionEstimator(source.rig)
        self._kept: dict[str, deque[AnyMessage]] = {}

    def observe(self, message: AnyMessage) -> None:
        """Remember a message; call it before the session sees it."""
        self._estimator.observe(message)
        self._kept.setdefault(message.sensor, deque(maxlen=KEPT_MESSAGES)).append(message)

    def compose(self, result: PerceptionResult) -> Scene:
        """What there is to draw of `result`: labels, what was perceived, and the messages that it was made of."""
        used = {
            status.name: message
            for status in result.sensors
            if status.age_ns is not None
            and (message := self._find(status.name, result.reference_ns - status.age_ns)) is not None
        }
        return self._scene(result.reference_ns, result.sequence, used, result)

    def compose_at(self, reference_ns: int, sequence: int) -> Scene:
        """The same without a result: of each sensor the message that was captured nearest to the reference."""
        nearest = {s.name: self._nearest(s, reference_ns) for s in self._source.rig.sensors}
        used = {name: message for name, message in nearest.items() if message is not None}
        return self._scene(reference_ns, sequence, used, None)

    def _scene(
        self, reference_ns: int, sequence: int, used: Mapping[str, AnyMessage], result: PerceptionResult | None
    ) -> Scene:
        motion = self._estimator.motion_at(reference_ns, MOTION_SPAN_NS)
        rig = self._source.rig
        cameras = [m for s in rig.of(Modality.CAMERA) if isinstance(m := used.get(s.name), CameraFrame)]
        lidars = [m for s in rig.of(Modality.LIDAR) if isinstance(m := used.get(s.name), LidarSweep)]
        radars = [m for s in rig.of(Modality.RADAR) if isinstance(m := used.get(s.name), RadarScan)]
        sweeps = [sweep_at_reference(m, rig[m.sensor].ego_SE3_sensor, motion) for m in lidars]
        scans = [scan_at_reference(m, rig[m.sensor].ego_SE3_sensor, motion) for m in radars]
        rows, column = np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.float32)
        return Scene(
            sequence=sequence,
            reference_ns=reference_ns,
            world_SE3_ego=motion.world_SE3_ego,
            cameras=[self._camera(m, motion) for m in cameras],
            lidar_m=np.concatenate([rows, *(sweep.points_ego_m for sweep in sweeps)]),
            intensity=np.concatenate([column, *(sweep.intensity for sweep in sweeps)]),
            radar_m=np.concatenate([rows, *(scan.points_ego_m for scan in scans)]),
            radar_direction=np.concatenate([rows, *(scan.direction for scan in scans)]),
            radial_mps=np.concatenate([column, *(scan.compensated_mps for scan in scans)]),
            labels=self._source.labels(reference_ns),
            result=result,
        )

    def _camera(self, frame: CameraFrame, motion: EgoMotion) -> tuple[CameraView, Image]:
        view = CameraView.of(frame, self._source.rig[frame.sensor], motion)
        how = cv2.IMREAD_REDUCED_COLOR_2 if view.camera.width_px > LARGE_PX else cv2.IMREAD_COLOR
        pixels = cv2.imdecode(np.frombuffer(frame.data, dtype=np.uint8), how)
        return view, np.asarray(pixels, dtype=np.uint8)

    def _find(self, sensor: str, capture_ns: int) -> AnyMessage | None:
        return next((m for m in reversed(self._kept.get(sensor, ())) if m.capture_ns == capture_ns), None)

    def _nearest(self, sensor: Sensor, reference_ns: int) -> AnyMessage | None:
        wanted_ns = reference_ns + sensor.offset_ns
        best = min(self._kept.get(sensor.name, ()), key=lambda m: abs(m.capture_ns - wanted_ns), default=None)
        return best if best is not None and abs(best.capture_ns - wanted_ns) <= MAX_AGE_NS else None
