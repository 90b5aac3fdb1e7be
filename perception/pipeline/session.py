"""One drive through the service: what to encode, when to fuse, and how a result is put together."""

from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, replace
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import ServiceConfig
from perception.core.bundle import DropCause, SensorBundle, Stamp
from perception.core.errors import PayloadError
from perception.core.messages import (
    AnyMessage,
    CameraFrame,
    Command,
    LidarSweep,
    RadarScan,
    RouteCommand,
    SensorMessage,
    Signal,
    Unreadable,
)
from perception.core.motion import EgoMotion, relative_motion
from perception.core.ports import Clock, Engine, Supervised
from perception.core.results import PerceptionResult, Provenance, SensorStatus
from perception.core.rig import Modality, SensorRig
from perception.core.stages import FuseRequest, FusionOutput
from perception.models.tracker import Tracker
from perception.pipeline.feature_cache import FeatureCache
from perception.pipeline.health import SensorHealth
from perception.pipeline.session_state import SessionState
from perception.sync.ego_estimator import ACCUMULATION_SPAN_NS, MOTION_SPAN_NS, EgoMotionEstimator
from perception.sync.synchronizer import Synchronizer

F64 = NDArray[np.float64]


@dataclass(slots=True, kw_only=True, eq=False)
class Frame:
    """One bundle on its way through the engine. received_ns: monotonic time when its last message came in."""

    sequence: int
    bundle: SensorBundle
    future: Future[FusionOutput]
    status: tuple[SensorStatus, ...]
    motion: EgoMotion
    dropped: Counter[str]
    received_ns: int


class Session:
    """Feeds messages to an engine and turns what comes back into results. One drive, one lap, one thread.

    `complete` may run in another thread than `push`, in the order of the frames. With `strict` an unreadable message
    raises PayloadError instead of being counted.
    """

    def __init__(
        self,
        *,
        drive_id: str,
        run_id: str,
        rig: SensorRig,
        engine: Engine,
        config: ServiceConfig,
        clock: Clock,
        reference_times: frozenset[int] | None = None,
        strict: bool = False,
    ) -> None:
        self.drive_id = drive_id
        self.run_id = run_id
        self._rig = rig
        self._engine = engine
        self._config = config
        self._clock = clock
        self._strict = strict
        self._calibration_hash = rig.calibration_hash()
        self._synchronizer = Synchronizer(rig, config.sync, reference_times=reference_times)
        self._estimator = EgoMotionEstimator(rig)
        self._health = SensorHealth(rig, config.health, self._motion_at)
        self._tracker = Tracker(config.tracker)
        self._route: RouteCommand | None = None
        self._features = FeatureCache(rig, engine)
        self._motion_span_ns = ACCUMULATION_SPAN_NS if engine.model.lidar_sweeps > 1 else MOTION_SPAN_NS
        self._dropped: Counter[str] = Counter()
        self._masked: dict[str, int] = {}
        self._previous_motion: EgoMotion | None = None
        self._reported_until_ns: int | None = None
        self._pushed = 0
        self._submitted = 0
        self.in_outage = False
        """Live: what comes now is from while the service was down; set by whoever resumes a run."""

    def push(self, message: AnyMessage, *, is_busy: bool = False) -> list[Frame]:
        """Take one message in arrival order; returns the frames that it made ready.

        With `is_busy` (a live service that cannot keep up) frames are dropped and counted instead.
        """
        received_ns = monotonic_ns()
        self._estimator.observe(message)
        self._health.observe(message)
        if isinstance(message, CameraFrame | LidarSweep | RadarScan):
            bundles = self._push_sensor(message, is_busy)
        else:
            if isinstance(message, RouteCommand):
                self._route = message
            elif isinstance(message, Unreadable):
                self._count_unreadable(message)
            bundles = self._synchronizer.advance(message.arrival_ns)
        return self._fuse_all(bundles, received_ns, is_busy)

    def finish(self) -> list[Frame]:
        """No more messages come: close what is open."""
        frames = self._fuse_all(self._synchronizer.flush(), monotonic_ns(), is_busy=False)
        self._features.clear()
        return frames

    def complete(self, frame: Frame, timeout_s: float) -> PerceptionResult:
        """Wait for a frame's fusion and build its result. Must be called in the order of the frames."""
        output = frame.future.result(timeout_s)
        if self._strict and output.failures:
            raise PayloadError("; ".join(f"{sensor}: {error}" for sensor, error in output.failures.items()))
        started_ns = monotonic_ns()
        moved = self._moved_since_last(frame.motion)
        detections = self._tracker.step(output.detections, frame.bundle.reference_ns, moved)
        self._previous_motion = frame.motion
        dropped = frame.dropped + _failed(output)
        finished_ns = monotonic_ns()
        latency = {
            **output.stage_latency_ns,
            "tracking": finished_ns - started_ns,
            "since_last_message": finished_ns - frame.received_ns,
        }
        info = output.model or self._engine.model
        return PerceptionResult(
            drive_id=self.drive_id,
            run_id=self.run_id,
            sequence=frame.sequence,
            reference_ns=frame.bundle.reference_ns,
            published_ns=self._clock.now_ns(),
            detections=detections,
            path_hints=output.path_hints,
            sensors=tuple(_mark_failed(status, output) for status in frame.status),
            world_SE3_ego=frame.motion.world_SE3_ego,
            provenance=Provenance(
                model=info.name,
                model_hash=info.hash,
                trained=info.trained,
                calibration_hash=self._calibration_hash,
                ego_motion=frame.motion.source,
                placement=self._engine.placement,
                deadline_slack_ns=frame.bundle.slack_ns,
                stage_latency_ns=latency,
                dropped={cause: count for cause, count in sorted(dropped.items()) if count},
                restarts=output.restarts,
                quarantined=output.quarantined,
            ),
        )

    @property
    def state(self) -> SessionState:
        """What another session needs to go on after the last result; from the thread that calls `complete`."""
        previous = self._previous_motion
        return SessionState(
            tracker=self._tracker.state,
            reference_ns=previous.reference_ns if previous else None,
            world_SE3_ego=previous.world_SE3_ego if previous else None,
        )

    def restore(self, state: SessionState, sequence: int) -> None:
        """Go on from `state`, before the first message; `sequence` is the number of the first frame."""
        self._tracker = Tracker(self._config.tracker, state.tracker)
        self._previous_motion = state.previous_motion()
        self._reported_until_ns = state.reference_ns
        self._submitted = sequence

    @property
    def undelivered(self) -> Counter[str]:
        """Losses by cause since the last frame: what no result could report."""
        return +self._dropped

    def _push_sensor(self, message: SensorMessage, is_busy: bool) -> list[SensorBundle]:
        index = self._pushed
        self._pushed += 1
        stamp = Stamp(arrival_ns=message.arrival_ns, index=index, sensor=message.sensor, capture_ns=message.capture_ns)
        self._features.add(index, message)
        is_wanted = self._synchronizer.is_wanted(message.sensor, message.capture_ns)
        bundles = self._synchronizer.push(stamp)
        if is_busy or self.in_outage:
            return bundles
        if isinstance(message, CameraFrame) and is_wanted:
            self._features.encode_camera(index)
        elif isinstance(message, LidarSweep) and self._synchronizer.is_open(message.sensor, message.capture_ns):
            self._features.encode_lidar(index, self._motion_at(message.capture_ns))
        return bundles

    def _fuse_all(self, bundles: list[SensorBundle], received_ns: int, is_busy: bool) -> list[Frame]:
        for cause, count in self._synchronizer.take_dropped().items():
            self._dropped[cause.value] += count
        frames = []
        for bundle in bundles:
            if self.in_outage and bundle.reference_ns <= (self._reported_until_ns or bundle.reference_ns - 1):
                self._dropped.clear()  # it was reported before the outage
            elif is_busy or self.in_outage:
                self._dropped[self._why_busy().value] += 1
            else:
                frames.append(self._fuse(bundle, received_ns))
        self._features.release(self._synchronizer.take_released())
        return frames

    def _why_busy(self) -> DropCause:
        if self.in_outage or (isinstance(self._engine, Supervised) and self._engine.supervision().recovering):
            return DropCause.OUTAGE
        return DropCause.OVERLOAD

    def _fuse(self, bundle: SensorBundle, received_ns: int) -> Frame:
        status = self._health.status(bundle)
        bundle = self._without_masked(bundle)
        motion = self._motion_at(bundle.reference_ns)
        cameras = [sensor.name for sensor in self._rig.of(Modality.CAMERA) if sensor.name in bundle.hits]
        lidars = [sensor.name for sensor in self._rig.of(Modality.LIDAR) if sensor.name in bundle.hits]
        radar_ages = [
            bundle.age_ns(sensor.name) for sensor in self._rig.of(Modality.RADAR) if sensor.name in bundle.hits
        ]
        features = [self._features.encode_camera(bundle.hits[name].index) for name in cameras]
        features += [self._features.encode_lidar(bundle.hits[name].index, motion) for name in lidars]
        radar = self._features.encode_radars(bundle, motion)
        if radar is not None:
            features.append(radar)
        route = self._route
        request = FuseRequest(
            reference_ns=bundle.reference_ns,
            received_ns=received_ns,
            cameras=self._features.camera_views(cameras, bundle, motion),
            lidars=tuple(lidars),
            lidar_age_ns=tuple(bundle.age_ns(name) for name in lidars),
            radar_age_ns=sum(radar_ages) // len(radar_ages) if radar_ages else None,
            speed_mps=motion.speed_mps,
            yaw_rate_radps=motion.yaw_rate_radps,
            command=route.command if route else Command.FOLLOW,
            speed_limit_mps=route.speed_limit_mps if route else None,
            signal=route.signal if route else Signal.UNKNOWN,
        )
        frame = Frame(
            sequence=self._submitted,
            bundle=bundle,
            future=self._engine.fuse(request, features),
            status=status,
            motion=motion,
            dropped=self._dropped,
            received_ns=received_ns,
        )
        if radar is not None:
            self._engine.release([radar])
        self._submitted += 1
        self._dropped = Counter()
        return frame

    def _without_masked(self, bundle: SensorBundle) -> SensorBundle:
        """The bundle as if sensors with a fault that `health.mask` names had not been there."""
        masked = self._health.masked(bundle)
        if not masked:
            return bundle
        for name in masked:
            index = bundle.hits[name].index
            if self._masked.get(name) != index:
                self._masked[name] = index
                self._dropped[DropCause.MASKED.value] += 1
        hits = {name: stamp for name, stamp in bundle.hits.items() if name not in masked}
        return replace(bundle, hits=hits, misses=(*bundle.misses, *masked))

    def _moved_since_last(self, motion: EgoMotion) -> F64:
        """current_SE3_previous between two results; where the data's clock jumped back, tracks start afresh."""
        previous = self._previous_motion
        if previous is None:
            return np.eye(4)
        if motion.reference_ns <= previous.reference_ns:
            self._tracker.reset()
            return np.eye(4)
        return relative_motion(previous, motion)

    def _motion_at(self, reference_ns: int) -> EgoMotion:
        return self._estimator.motion_at(reference_ns, self._motion_span_ns)

    def _count_unreadable(self, message: Unreadable) -> None:
        if self._strict:
            raise PayloadError(f"{message.sensor} at {message.capture_ns}: {message.error}")
        self._dropped[DropCause.UNREADABLE.value] += 1


def _failed(output: FusionOutput) -> Counter[str]:
    """What could not be encoded, by cause."""
    aside = len(output.quarantined)
    return Counter({DropCause.UNREADABLE.value: len(output.failures) - aside, DropCause.QUARANTINED.value: aside})


def _mark_failed(status: SensorStatus, output: FusionOutput) -> SensorStatus:
    if status.name not in output.failures:
        return status
    return replace(status, present=False, age_ns=None, valid=False)
