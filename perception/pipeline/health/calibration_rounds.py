"""Compares each camera's calibration with the lidar in turn: one camera every few sweeps, so that it costs little.

Every other turn belongs to cameras under suspicion, where there are any: a drift is sure sooner, at the same cost.
"""

from collections.abc import Callable
from itertools import count, cycle
from typing import Final

from perception.core.errors import PayloadError
from perception.core.messages import CameraFrame, LidarSweep
from perception.core.rig import Modality, SensorRig
from perception.pipeline.health.calibration import DriftWatch, Twist
from perception.pipeline.health.camera import decode_small
from perception.pipeline.health.evidence import Evidence

MAX_APART_NS: Final = 120_000_000
"""An image further from the sweep than this shows where other traffic was, not where the sweep saw it."""


class CalibrationRounds:
    """Holds the newest image of each camera and looks at the next one with every `stride`-th sweep of the first lidar.

    Images with a calibration of their own (a format that has one for each frame) are left alone.
    """

    def __init__(self, rig: SensorRig, stride: int) -> None:
        lidars = rig.of(Modality.LIDAR)
        self._lidar = lidars[0].name if lidars else None
        cameras = rig.of(Modality.CAMERA)
        self._watches = {camera.name: DriftWatch(camera, lidars[0]) for camera in cameras} if lidars else {}
        self._newest: dict[str, CameraFrame] = {}
        self._stride = stride
        self._sweeps = self._turns = 0
        self._rounds, self._checks = cycle(self._watches), count()

    def add(self, frame: CameraFrame) -> None:
        if frame.calibration is None and frame.ego_SE3_sensor is None:
            self._newest[frame.sensor] = frame

    def look(self, sweep: LidarSweep, twist_at: Callable[[int], Twist | None]) -> tuple[str, Evidence] | None:
        """The camera whose turn it is and what was found, None where this look says nothing."""
        if sweep.sensor != self._lidar or not self._watches or len(sweep.points_m) == 0:
            return None
        self._sweeps += 1
        if (self._sweeps - 1) % self._stride:
            return None
        name = self._next()
        frame = self._newest.get(name)
        if frame is None or abs(sweep.capture_ns - frame.capture_ns) > MAX_APART_NS:
            return None
        if (twist := twist_at(frame.capture_ns)) is None:
            return None
        try:
            evidence = self._watches[name].look(decode_small(frame.data), frame.capture_ns, sweep, twist)
        except PayloadError:
            return None  # reported by the camera's own checks
        return None if evidence is None else (name, evidence)

    def _next(self) -> str:
        """The camera whose turn it is."""
        self._turns += 1
        suspects = [name for name, watch in self._watches.items() if watch.is_suspect]
        if suspects and self._turns % 2 == 0:
            return suspects[next(self._checks) % len(suspects)]
        return next(self._rounds)
