"""The same work without a service: read, decode, model, serialise, one message after the other in one process.

Which messages make up a frame is given (`plan_frames`): the loop has no synchronizer, no health, no tracker, no queue.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perception.core.bundle import SensorBundle
from perception.core.messages import AnyMessage, CameraFrame, Command, LidarSweep, RadarScan, RouteCommand, Signal
from perception.core.motion import EgoMotion
from perception.core.results import PerceptionResult, Provenance
from perception.core.rig import Modality, SensorRig
from perception.core.stages import (
    CameraRequest,
    CameraView,
    FuseRequest,
    LidarRequest,
    RadarRequest,
    target_at_reference,
)
from perception.pipeline.stages import Encoded, Stages
from perception.queues.codec import encode
from perception.runtime.bench_live_drive import PlannedFrame
from perception.sync.ego_estimator import MOTION_SPAN_NS, EgoMotionEstimator


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainFrame:
    """One frame's way through the loop. due_ns: when its last message arrived; model_ns: the model's work since."""

    sequence: int
    due_ns: int
    model_ns: int
    done_ns: int
    payload: bytes


class PlainLoop:
    """`take` messages in order; what closes a planned frame gives it. Images and sweeps are encoded as they come."""

    def __init__(self, rig: SensorRig, stages: Stages, plan: Iterable[PlannedFrame]) -> None:
        self._rig = rig
        self._stages = stages
        self._estimator = EgoMotionEstimator(rig)
        self._route: RouteCommand | None = None
        self._closing = {frame.closed_by: frame.bundle for frame in plan}
        uses = [stamp.index for bundle in self._closing.values() for stamp in bundle.hits.values()]
        self._uses = Counter(uses)
        self._kept: dict[int, tuple[AnyMessage, Encoded | None]] = {}

    def take(self, place: int, message: AnyMessage, due_ns: int) -> PlainFrame | None:
        """One message, by its place in the drive."""
        self._estimator.observe(message)
        if isinstance(message, RouteCommand):
            self._route = message
        if self._uses[place]:
            self._kept[place] = (message, self._encode(message))
        bundle = self._closing.get(place)
        return None if bundle is None else self._fuse(bundle, due_ns)

    def _encode(self, message: AnyMessage) -> Encoded | None:
        if isinstance(message, CameraFrame):
            camera = message.calibration or self._rig[message.sensor].camera
            assert camera is not None
            return self._stages.encode(CameraRequest(key="", frame=message, camera=camera))
        if isinstance(message, LidarSweep):
            mount = self._rig[message.sensor].ego_SE3_sensor
            motion = self._motion_at(message.capture_ns)
            return self._stages.encode(LidarRequest(key="", sweep=message, ego_SE3_sensor=mount, motion=motion))
        return None

    def _fuse(self, bundle: SensorBundle, due_ns: int) -> PlainFrame:
        motion = self._motion_at(bundle.reference_ns)
        used = {name: self._kept[stamp.index] for name, stamp in bundle.hits.items() if stamp.index in self._kept}
        views, cameras, lidars = [], [], []
        for sensor in self._rig.sensors:
            message, encoded = used.get(sensor.name, (None, None))
            if isinstance(message, CameraFrame) and encoded is not None:
                views.append((message, sensor))
                cameras.append(encoded)
            elif isinstance(message, LidarSweep) and encoded is not None:
                lidars.append((sensor.name, encoded))
        radars = self._encode_radars(used, motion)
        ages = [bundle.age_ns(sensor.name) for sensor in self._rig.of(Modality.RADAR) if sensor.name in used]
        route = self._route
        request = FuseRequest(
            reference_ns=bundle.reference_ns,
            received_ns=due_ns,
            cameras=CameraView.of_each(views, motion),
            lidars=tuple(name for name, _ in lidars),
            lidar_age_ns=tuple(bundle.age_ns(name) for name, _ in lidars),
            radar_age_ns=sum(ages) // len(ages) if ages else None,
            speed_mps=motion.speed_mps,
            yaw_rate_radps=motion.yaw_rate_radps,
            command=route.command if route else Command.FOLLOW,
            speed_limit_mps=route.speed_limit_mps if route else None,
            signal=route.signal if route else Signal.UNKNOWN,
            route_distance_m=route.distance_m if route else None,
            route_target_m=target_at_reference(route, motion) if route else None,
        )
        output = self._stages.fuse(request, [*cameras, *(one for _, one in lidars), *radars])
        payload = encode(
            PerceptionResult(
                drive_id="bench/bare",
                run_id="bench",
                sequence=bundle.sequence,
                reference_ns=bundle.reference_ns,
                published_ns=time.time_ns(),
                detections=output.detections,
                path_hints=output.path_hints,
                sensors=(),
                world_SE3_ego=motion.world_SE3_ego,
                provenance=self._provenance(motion, output.stage_latency_ns),
            )
        )
        self._forget(bundle)
        return PlainFrame(
            sequence=bundle.sequence,
            due_ns=due_ns,
            model_ns=output.stage_latency_ns["model_since_last_message"],
            done_ns=time.monotonic_ns(),
            payload=payload,
        )

    def _encode_radars(
        self, used: dict[str, tuple[AnyMessage, Encoded | None]], motion: EgoMotion
    ) -> tuple[Encoded, ...]:
        messages = [used[sensor.name][0] for sensor in self._rig.of(Modality.RADAR) if sensor.name in used]
        scans = [message for message in messages if isinstance(message, RadarScan)]
        if not scans:
            return ()
        mounts = tuple(self._rig[scan.sensor].ego_SE3_sensor for scan in scans)
        return (self._stages.encode(RadarRequest(key="", scans=tuple(scans), ego_SE3_sensor=mounts, motion=motion)),)

    def _provenance(self, motion: EgoMotion, latency_ns: Mapping[str, int]) -> Provenance:
        info = self._stages.info
        return Provenance(
            model=info.name,
            model_hash=info.hash,
            trained=info.trained,
            calibration_hash="",
            ego_motion=motion.source,
            placement="bare",
            deadline_slack_ns=0,
            stage_latency_ns=latency_ns,
        )

    def _forget(self, bundle: SensorBundle) -> None:
        for stamp in bundle.hits.values():
            self._uses[stamp.index] -= 1
            if not self._uses[stamp.index]:
                self._kept.pop(stamp.index, None)

    def _motion_at(self, reference_ns: int) -> EgoMotion:
        return self._estimator.motion_at(reference_ns, MOTION_SPAN_NS)


def run_bare(
    rig: SensorRig, messages: Sequence[AnyMessage], plan: Sequence[PlannedFrame], stages: Stages, *, rate: float
) -> list[PlainFrame]:
    """The loop at the drive's pace times `rate`; with infinite `rate` as fast as it goes. It drops nothing."""
    loop = PlainLoop(rig, stages, plan)
    frames = []
    begun_ns, first_ns = time.monotonic_ns(), messages[0].arrival_ns
    for place, message in enumerate(messages):
        due_ns = time.monotonic_ns()
        if not np.isinf(rate):
            due_ns = begun_ns + round((message.arrival_ns - first_ns) / rate)
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        frame = loop.take(place, message, due_ns)
        if frame is not None:
            frames.append(frame)
    return frames
