"""All detectors over a rig: takes each message once, tells each sensor's state and findings when a bundle closes."""

import math
from collections.abc import Callable, Iterator
from typing import Final

from perception.config.schema import HealthConfig
from perception.core.bundle import SensorBundle
from perception.core.faults import FaultKind, SensorFault, Severity
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, Unreadable
from perception.core.motion import EgoMotion, MotionSource
from perception.core.results import SensorStatus
from perception.core.rig import Modality, Sensor, SensorRig
from perception.pipeline.health.calibration import Twist
from perception.pipeline.health.calibration_rounds import CalibrationRounds
from perception.pipeline.health.camera import CameraChecks
from perception.pipeline.health.evidence import Evidence, Latch
from perception.pipeline.health.lidar import LidarChecks
from perception.pipeline.health.radar import RadarChecks
from perception.pipeline.health.timing import TimingWatch

ALIVE_PERIODS: Final = 5.0
"""A sensor unheard for so many nominal periods is not alive."""
MIN_ALIVE_NS: Final = 500_000_000
SPEED_EVERY_NS: Final = 500_000_000
"""How often the ego's speed is estimated where the vehicle does not tell it."""
TOLD_NS: Final = 100_000_000
"""What the vehicle tells of itself holds for so long."""

MotionAt = Callable[[int], EgoMotion]


class SensorHealth:
    """Watches the messages of a rig. What it finds depends on them alone: the same drive gives the same findings."""

    def __init__(self, rig: SensorRig, config: HealthConfig, motion_at: MotionAt) -> None:
        self._sensors = {sensor.name: _SensorWatch(sensor, config) for sensor in rig.sensors}
        self._mask = frozenset(kind.value for kind in config.mask)
        self._has_content = config.content
        self._motion_at = motion_at
        self._rounds = (
            CalibrationRounds(rig, config.calibration_stride) if config.content and config.calibration else None
        )
        self._told: EgoState | None = None
        self._speed_mps = 0.0
        self._speed_ns: int | None = None
        self._first_ns: int | None = None

    def observe(self, message: AnyMessage) -> None:
        """Take a message, before a bundle can use it."""
        if self._first_ns is None:
            self._first_ns = message.arrival_ns
        if isinstance(message, EgoState) and message.velocity_mps is not None:
            self._told = message
        if (watch := self._sensors.get(message.sensor)) is None:
            return
        watch.observe(message)
        if not self._has_content:
            return
        if isinstance(message, CameraFrame):
            watch.take(watch.camera.check(message, self._speed_at(message.capture_ns)), message.capture_ns)
            if self._rounds is not None:
                self._rounds.add(message)
        elif isinstance(message, LidarSweep):
            watch.take(watch.lidar.check(message), message.capture_ns)
            if self._rounds is not None and (found := self._rounds.look(message, self._twist_at)) is not None:
                name, evidence = found
                self._sensors[name].take([evidence], message.capture_ns)
        elif isinstance(message, RadarScan):
            watch.take(watch.radar.check(message), message.capture_ns)

    def status(self, bundle: SensorBundle) -> tuple[SensorStatus, ...]:
        """The state of every sensor as `bundle` closed, in rig order."""
        return tuple(watch.status(bundle, self._first_ns, self._mask) for watch in self._sensors.values())

    def findings(self, now_ns: int) -> dict[str, tuple[SensorFault, ...]]:
        """What is wrong with each sensor at a time of the arrival clock; sensors without a fault are left out."""
        found = {name: watch.faults(now_ns, self._first_ns) for name, watch in self._sensors.items()}
        return {name: faults for name, faults in found.items() if faults}

    def masked(self, bundle: SensorBundle) -> tuple[str, ...]:
        """Sensors that hit `bundle` but have a fault for which they are left out."""
        return tuple(name for name in bundle.hits if self._sensors[name].is_masked(self._mask))

    def _speed_at(self, capture_ns: int) -> float:
        if (velocity := self._told_at(capture_ns)) is not None:
            return math.hypot(*velocity)
        if self._speed_ns is None or abs(capture_ns - self._speed_ns) > SPEED_EVERY_NS:
            self._speed_mps, self._speed_ns = self._motion_at(capture_ns).speed_mps, capture_ns
        return self._speed_mps

    def _twist_at(self, capture_ns: int) -> Twist | None:
        """How the ego moves at a capture time, None where that is not known."""
        velocity, yaw_rate_radps = self._told_at(capture_ns), self._told.yaw_rate_radps if self._told else None
        if velocity is not None and yaw_rate_radps is not None:
            return Twist(velocity_mps=velocity, yaw_rate_radps=yaw_rate_radps)
        motion = self._motion_at(capture_ns)
        if motion.source is MotionSource.NONE:
            return None
        vx, vy = motion.velocity_mps.tolist()
        return Twist(velocity_mps=(vx, vy), yaw_rate_radps=motion.yaw_rate_radps)

    def _told_at(self, capture_ns: int) -> tuple[float, float] | None:
        """The velocity that the vehicle last told of itself, where that is not long ago: to estimate it takes a
        millisecond.
        """
        told = self._told
        if told is None or told.velocity_mps is None or abs(capture_ns - told.capture_ns) > TOLD_NS:
            return None
        vx, vy = told.velocity_mps.tolist()
        return vx, vy


class _SensorWatch:
    def __init__(self, sensor: Sensor, config: HealthConfig) -> None:
        self._sensor = sensor
        self._timing = TimingWatch(sensor.period_ns)
        self._last_arrival_ns: int | None = None
        self._alive_ns = max(MIN_ALIVE_NS, round(ALIVE_PERIODS * sensor.period_ns))
        self._is_valid = True
        self._latches: dict[FaultKind, Latch] = {}
        self.camera = CameraChecks(config.camera_stride)
        self.lidar = LidarChecks(sensor.ego_SE3_sensor)
        self.radar = RadarChecks()

    def observe(self, message: AnyMessage) -> None:
        """Note its times and whether it could be read."""
        self._last_arrival_ns = max(message.arrival_ns, self._last_arrival_ns or message.arrival_ns)
        self._is_valid = not isinstance(message, Unreadable)
        self.take(self._timing.observe(message), message.capture_ns)
        if isinstance(message, Unreadable):
            self.take([Evidence(FaultKind.UNREADABLE, is_bad=True, detail=message.error[:200])], message.capture_ns)
        elif self._sensor.modality is not Modality.CAMERA:  # a camera's bytes are tried by its own checks
            self.take([Evidence(FaultKind.UNREADABLE, is_bad=False)], message.capture_ns)

    def take(self, evidence: Iterator[Evidence] | list[Evidence], time_ns: int) -> None:
        for one in evidence:
            latch = self._latches.get(one.kind)
            if latch is None and one.is_bad:
                latch = self._latches[one.kind] = Latch(one.kind)
            if latch is not None:
                latch.update(one, time_ns)

    def is_masked(self, mask: frozenset[str]) -> bool:
        return any(fault.kind in mask for fault in self._found())

    def status(self, bundle: SensorBundle, first_ns: int | None, mask: frozenset[str]) -> SensorStatus:
        name = self._sensor.name
        is_masked = name in bundle.hits and self.is_masked(mask)
        present = name in bundle.hits and not is_masked
        heard = self._last_arrival_ns
        is_alive = heard is not None and bundle.closed_ns - heard <= self._alive_ns
        return SensorStatus(
            name=name,
            modality=self._sensor.modality,
            present=present,
            age_ns=bundle.age_ns(name) if present else None,
            alive=is_alive,
            valid=heard is not None and self._is_valid,
            frequency_hz=self._timing.frequency_hz,
            jitter_ns=self._timing.jitter_ns,
            faults=self.faults(bundle.closed_ns, first_ns),
            masked=is_masked,
        )

    def faults(self, now_ns: int, first_ns: int | None) -> tuple[SensorFault, ...]:
        """What is wrong at `now_ns`, silence first."""
        silent, found = self._silence(now_ns, first_ns), self._found()
        if silent is None:
            return found
        return (silent, *(fault for fault in found if fault.kind != FaultKind.SILENT))

    def _silence(self, now_ns: int, first_ns: int | None) -> SensorFault | None:
        """The finding that nothing was heard, neither lately nor since the drive began."""
        since_ns = self._last_arrival_ns if self._last_arrival_ns is not None else first_ns
        if since_ns is None or now_ns - since_ns <= self._alive_ns:
            return None
        detail = f"nothing for {(now_ns - since_ns) / 1e9:.1f} s"
        return SensorFault(kind=FaultKind.SILENT.value, since_ns=since_ns, severity=Severity.ERROR, detail=detail)

    def _found(self) -> tuple[SensorFault, ...]:
        return tuple(fault for latch in self._latches.values() if (fault := latch.fault) is not None)
