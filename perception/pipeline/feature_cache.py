"""Keeps each message until no bundle can want it, and sees to it that it is encoded once."""

from collections import deque
from collections.abc import Iterable, Sequence

from perception.core.bundle import SensorBundle
from perception.core.cameras import CameraModel
from perception.core.messages import CameraFrame, LidarSweep, RadarScan, SensorMessage
from perception.core.motion import EgoMotion
from perception.core.ports import Engine, FeatureHandle
from perception.core.rig import Modality, SensorRig
from perception.core.stages import CameraRequest, CameraView, LidarRequest, RadarRequest

SWEEPS_AHEAD = 8
MAX_SWEEP_AGE_NS = 1_000_000_000
"""Earlier sweeps older than this do not join a sweep: the network's time channel ends there."""


class FeatureCache:
    """Messages and their features by the index of their stamp. Encodes when asked, each once by each engine.

    engines: `tier` is an index into them. What a sweep's features are does not depend on when it is encoded:
    `plan_lidar` fixes the motion that it is moved by. For a model that takes several sweeps at once the last ones of
    each lidar are kept beside the messages.
    """

    def __init__(self, rig: SensorRig, engines: Sequence[Engine]) -> None:
        self._rig = rig
        self._engines = engines
        self._sweeps = SweepHistory(max(engine.model.lidar_sweeps for engine in engines))
        self._messages: dict[int, SensorMessage] = {}
        self._handles: dict[int, dict[tuple[int, int | None], FeatureHandle]] = {}
        self._motions: dict[int, EgoMotion] = {}

    def __len__(self) -> int:
        """How many messages are held."""
        return len(self._messages)

    def add(self, index: int, message: SensorMessage) -> None:
        self._messages[index] = message
        if isinstance(message, LidarSweep):
            self._sweeps.add(message)

    def release(self, indices: Iterable[int]) -> None:
        """Forget messages that no bundle can use again, and their features."""
        for index in indices:
            self._messages.pop(index, None)
            self._motions.pop(index, None)
            for (tier, _), handle in self._handles.pop(index, {}).items():
                self._engines[tier].release([handle])

    def clear(self) -> None:
        self.release(list(self._messages))
        self._sweeps.clear()

    def encode_camera(self, index: int, tier: int = 0) -> FeatureHandle:
        """Features of an image; they are free of geometry, so one encoding serves every bundle."""
        frame = self._messages[index]
        assert isinstance(frame, CameraFrame)
        handles = self._handles.setdefault(index, {})
        if (tier, None) not in handles:
            request = CameraRequest(key=f"{frame.sensor}:{index}", frame=frame, camera=self._camera_of(frame))
            handles[tier, None] = self._engines[tier].encode(request)
        return handles[tier, None]

    def plan_lidar(self, index: int, motion: EgoMotion) -> None:
        """Whenever this sweep is encoded for the reference time of `motion`, it is moved by `motion`."""
        self._motions[index] = motion

    def encode_lidar(self, index: int, motion: EgoMotion, tier: int = 0) -> FeatureHandle:
        """Features of a sweep moved to the reference time of `motion`."""
        sweep = self._messages[index]
        assert isinstance(sweep, LidarSweep)
        handles = self._handles.setdefault(index, {})
        planned = self._motions.get(index)
        if planned is not None and planned.reference_ns == motion.reference_ns:
            motion = planned
        if (tier, motion.reference_ns) not in handles:
            mount = self._rig[sweep.sensor].ego_SE3_sensor
            key = f"{sweep.sensor}:{index}@{motion.reference_ns}"
            earlier = self._sweeps.before(sweep)[: self._engines[tier].model.lidar_sweeps - 1]
            request = LidarRequest(key=key, sweep=sweep, ego_SE3_sensor=mount, motion=motion, earlier=earlier)
            handles[tier, motion.reference_ns] = self._engines[tier].encode(request)
        return handles[tier, motion.reference_ns]

    def encode_radars(self, bundle: SensorBundle, motion: EgoMotion, tier: int = 0) -> FeatureHandle | None:
        """Features of all radars of a bundle together; None if it has none. The caller releases them."""
        scans: list[RadarScan] = []
        for sensor in self._rig.of(Modality.RADAR):
            if sensor.name in bundle.hits:
                scan = self._messages[bundle.hits[sensor.name].index]
                assert isinstance(scan, RadarScan)
                scans.append(scan)
        if not scans:
            return None
        mounts = tuple(self._rig[scan.sensor].ego_SE3_sensor for scan in scans)
        key = f"radars@{motion.reference_ns}"
        request = RadarRequest(key=key, scans=tuple(scans), ego_SE3_sensor=mounts, motion=motion)
        return self._engines[tier].encode(request)

    def camera_views(self, names: Sequence[str], bundle: SensorBundle, motion: EgoMotion) -> tuple[CameraView, ...]:
        """How present cameras saw the world, the ego's motion between capture and reference included."""
        frames = []
        for name in names:
            frame = self._messages[bundle.hits[name].index]
            assert isinstance(frame, CameraFrame)
            frames.append((frame, self._rig[name]))
        return CameraView.of_each(frames, motion)

    def _camera_of(self, frame: CameraFrame) -> CameraModel:
        camera = frame.calibration or self._rig[frame.sensor].camera
        assert camera is not None
        return camera


class SweepHistory:
    """The last sweeps of each lidar, as many as a model that takes `count` at once can want."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sweeps: dict[str, deque[LidarSweep]] = {}

    def add(self, sweep: LidarSweep) -> None:
        """Take a sweep in the order of arrival. Nothing is kept for a model that takes one."""
        if self._count > 1:
            # A bundle may be encoded when one or two newer sweeps have come already.
            kept = self._sweeps.setdefault(sweep.sensor, deque(maxlen=self._count + SWEEPS_AHEAD))
            kept.append(sweep)

    def before(self, sweep: LidarSweep) -> tuple[LidarSweep, ...]:
        """At most `count` - 1 sweeps of the same lidar captured in the second before `sweep`, newest first.

        Captured, not arrived: a clock that was set back or a duplicate adds nothing twice.
        """
        oldest_ns = sweep.capture_ns - MAX_SWEEP_AGE_NS
        kept = {
            one.capture_ns: one
            for one in self._sweeps.get(sweep.sensor, ())
            if oldest_ns <= one.capture_ns < sweep.capture_ns
        }
        return tuple(kept[time_ns] for time_ns in sorted(kept, reverse=True)[: self._count - 1])

    def clear(self) -> None:
        self._sweeps.clear()
