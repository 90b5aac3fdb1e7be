"""A live run in simulated time: what overload does to latency, drops and memory, the same on any machine.

Everything that decides is the service's own: session, steering, ladder, deadlines and account. Only the engine and the
clock are made up: an engine takes a given time for each frame, one after the other, and time jumps from event to event.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from heapq import merge
from typing import Any

import numpy as np

from perception.config.schema import ServiceConfig
from perception.core.clock import ManualClock
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, SweepMotion
from perception.core.ports import FeatureHandle
from perception.core.results import Detections, PathHints, PerceptionResult
from perception.core.rig import Modality, Sensor, SensorRig
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.pipeline.account import Account
from perception.pipeline.deadlines import LiveDeadlines
from perception.pipeline.frames import Draft, Frame
from perception.pipeline.session import Session
from perception.pipeline.steering import NewestWins
from perception.pipeline.tiers import Tiers

ServiceTime = Callable[[FuseRequest, bool], int]
"""Nanoseconds that a frame takes; the second argument: by the small model."""

EGO_PERIOD_NS = 20_000_000
ARRIVAL_DELAY_NS = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadRun:
    """What a simulated run came to.

    results: as they were published. latencies_ns: of each, from the closing of its bundle to its publication.
    peak_held, peak_unsettled: messages held at once, and remembered by the account.
    """

    results: tuple[PerceptionResult, ...]
    latencies_ns: tuple[int, ...]
    account: Account
    peak_held: int
    peak_unsettled: int

    def to_dict(self) -> dict[str, Any]:
        """Figures for a table: latencies in ms, the account, frames by level of the ladder."""
        p50, p99, largest = np.percentile(self.latencies_ns or (0,), [50, 99, 100]) / 1e6
        levels = Counter(result.provenance.ladder_level for result in self.results)
        account = self.account
        return {
            "latency_ms": {"p50": float(p50), "p99": float(p99), "max": float(largest)},
            "bundles": account.bundles,
            "published": account.published,
            "degraded": account.degraded,
            "bundles_dropped": dict(account.bundles_dropped),
            "messages": sum(account.messages.values()),
            "messages_used": sum(account.used.values()),
            "messages_dropped": account.dropped_by_cause(),
            "is_exact": account.is_exact,
            "frames_by_level": {str(level): levels[level] for level in sorted(levels)},
            "peak_held": self.peak_held,
        }


def overload_table(
    rig: SensorRig, config: ServiceConfig, *, loads: Sequence[float] = (0.5, 1.0, 2.0, 4.0), duration_s: float = 60.0
) -> dict[float, OverloadRun]:
    """Simulated runs by load: how much more arrives than a full frame's time allows. Half of it goes to the cameras."""
    period_ns = next(iter(rig.of(Modality.LIDAR) or rig.sensors)).period_ns
    cameras = max(1, len(rig.of(Modality.CAMERA)))

    def run(load: float) -> OverloadRun:
        def takes(request: FuseRequest, is_small: bool) -> int:
            share = (0.5 + 0.5 * len(request.cameras) / cameras) * (0.5 if is_small else 1.0)
            return round(load * period_ns * share)

        return simulate_live(rig, light_messages(rig, duration_s), config, takes)

    return {load: run(load) for load in loads}


def simulate_live(
    rig: SensorRig, messages: Iterable[AnyMessage], config: ServiceConfig, takes: ServiceTime
) -> OverloadRun:
    """A live run of messages in the order of arrival through an engine that takes `takes` for each frame.

    Their content is not looked into: made-up messages are all alike, which in a sensor would be a fault.
    """
    config = config.model_copy(update={"health": config.health.model_copy(update={"content": False})})
    simulation = _Simulation(rig, config, takes)
    for message in messages:
        simulation.push(message)
    return simulation.finish()


def light_messages(rig: SensorRig, duration_s: float, *, delay_ns: int = ARRIVAL_DELAY_NS) -> Iterator[AnyMessage]:
    """Messages of every sensor of a rig, without anything in them, and ego states of a straight drive."""

    def of(sensor: Sensor) -> Iterator[AnyMessage]:
        for i in range(int(duration_s * 1e9 / sensor.period_ns)):
            yield _light_message(sensor, 1_000_000_000 + sensor.offset_ns + i * sensor.period_ns, delay_ns)

    def ego() -> Iterator[AnyMessage]:
        for i in range(int(duration_s * 1e9 / EGO_PERIOD_NS)):
            pose = np.eye(4)
            pose[0, 3] = 10.0 * i * EGO_PERIOD_NS / 1e9
            at_ns = 1_000_000_000 + i * EGO_PERIOD_NS
            velocity = np.array([10.0, 0.0])
            yield EgoState(
                capture_ns=at_ns, arrival_ns=at_ns, world_SE3_ego=pose, velocity_mps=velocity, yaw_rate_radps=0.0
            )

    return merge(ego(), *(of(sensor) for sensor in rig.sensors), key=lambda message: message.arrival_ns)


def _light_message(sensor: Sensor, capture_ns: int, delay_ns: int) -> AnyMessage:
    name, arrival_ns = sensor.name, capture_ns + delay_ns
    if sensor.modality is Modality.CAMERA:
        return CameraFrame(sensor=name, capture_ns=capture_ns, arrival_ns=arrival_ns, data=b"")
    none, points = np.zeros(0, dtype=np.float32), np.zeros((0, 3), dtype=np.float32)
    if sensor.modality is Modality.LIDAR:
        return LidarSweep(
            sensor=name,
            capture_ns=capture_ns,
            arrival_ns=arrival_ns,
            points_m=points,
            intensity=none,
            motion=SweepMotion.COMPENSATED,
        )
    return RadarScan(
        sensor=name,
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        points_m=points,
        rcs_dbsm=none,
        radial_mps=none,
        compensated_mps=none,
        is_valid=np.zeros(0, dtype=np.bool_),
    )


class _SimulatedClock:
    now = 0

    def now_ns(self) -> int:
        return self.now

    def seconds_until(self, time_ns: int) -> float:
        return (time_ns - self.now) / 1e9


@dataclass(frozen=True, slots=True)
class _Handle:
    key: str


class _SimulatedEngine:
    """Begins a frame when the worker is free. finish_ns: when each frame that was given to it is done, in order."""

    placement = "simulated"

    def __init__(self, worker: "_Worker", takes: ServiceTime, *, is_small: bool) -> None:
        self.model = ModelInfo(name="small" if is_small else "full", hash="0" * 16, trained=False)
        self._worker = worker
        self._takes = takes
        self._is_small = is_small

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        return _Handle(request.key)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        self._worker.begin(self._takes(request, self._is_small))
        return Future()

    def release(self, features: Sequence[FeatureHandle]) -> None: ...

    def close(self) -> None: ...


class _Worker:
    """One frame after the other."""

    def __init__(self, clock: _SimulatedClock) -> None:
        self._clock = clock
        self._free_ns = 0
        self.finish_ns: deque[int] = deque()

    def begin(self, duration_ns: int) -> None:
        self._free_ns = max(self._clock.now, self._free_ns) + duration_ns
        self.finish_ns.append(self._free_ns)


class _Simulation:
    def __init__(self, rig: SensorRig, config: ServiceConfig, takes: ServiceTime) -> None:
        self._clock = _SimulatedClock()
        self._worker = _Worker(self._clock)
        self._max_in_flight = config.live.max_in_flight
        self._steering = NewestWins(config.live, config.ladder, config.deadline)
        self._session = Session(
            drive_id="simulated",
            run_id="overload",
            rig=rig,
            engine=Tiers(tuple(_SimulatedEngine(self._worker, takes, is_small=small) for small in (False, True))),
            config=config,
            clock=ManualClock(),
            deadlines=LiveDeadlines(config.deadline, self._clock),
        )
        self._session.completion.on_outcome = self._steering.observe
        self._frames: deque[Frame] = deque()
        self._results: list[PerceptionResult] = []
        self._latencies_ns: list[int] = []
        self._peak_held = self._peak_unsettled = 0

    def push(self, message: AnyMessage) -> None:
        self._run_to(message.arrival_ns)
        self._carry_out(self._session.admit(message, None))
        self._peak_held = max(self._peak_held, self._session.held)
        self._peak_unsettled = max(self._peak_unsettled, self._session.ledger.unsettled)

    def finish(self) -> OverloadRun:
        self._carry_out(self._session.flush())
        while self._frames:
            self._run_to(self._worker.finish_ns[0])
        return OverloadRun(
            results=tuple(self._results),
            latencies_ns=tuple(self._latencies_ns),
            account=self._session.ledger.account(),
            peak_held=self._peak_held,
            peak_unsettled=self._peak_unsettled,
        )

    def _run_to(self, until_ns: int) -> None:
        """Let frames become due and be done, each at its time."""
        completion = self._session.completion
        while self._frames:
            late, due_ns = self._first_due()
            done_ns = self._worker.finish_ns[0]
            if min(due_ns, done_ns) > until_ns:
                break
            self._clock.now = max(self._clock.now, min(due_ns, done_ns))
            if late is not None and due_ns < done_ns:
                self._publish(late, completion.degrade(late))
                continue
            self._worker.finish_ns.popleft()
            frame = self._frames.popleft()
            self._publish(frame, completion.apply(frame, _OUTPUT))
            self._carry_out([])
        self._clock.now = max(self._clock.now, until_ns)

    def _first_due(self) -> tuple[Frame | None, int]:
        """The first frame without a result, and when one made of earlier results is due."""
        for frame in self._frames:
            if not self._session.completion.is_degraded(frame):
                due_s = self._session.completion.degrade_in_s(frame, is_next=frame is self._frames[0], is_ready=False)
                return (None, _NEVER_NS) if due_s is None else (frame, self._clock.now + max(0, round(due_s * 1e9)))
        return None, _NEVER_NS

    def _carry_out(self, drafts: list[Draft]) -> None:
        self._obey()
        for draft in drafts:
            self._steering.offer(draft)
            self._obey()

    def _obey(self) -> None:
        while True:
            order = self._steering.order(self._session.taken, has_room=len(self._frames) < self._max_in_flight)
            if order is None:
                return
            if order.cause is None:
                self._frames.append(self._session.dispatch(order.draft, order.rung, order.change))
            else:
                self._session.discard(order.draft, order.cause)

    def _publish(self, frame: Frame, result: PerceptionResult | None) -> None:
        if result is not None:
            self._results.append(replace(result, published_ns=result.published_drive_ns))
            self._latencies_ns.append(result.published_drive_ns - frame.bundle.closed_ns)


_NEVER_NS = 2**62
_OUTPUT = FusionOutput(
    detections=Detections.empty(),
    path_hints=PathHints(
        confidence=np.zeros(0, dtype=np.float32),
        waypoints_m=np.zeros((0, 0, 2), dtype=np.float32),
        times_s=np.zeros(0, dtype=np.float32),
        target_speed_mps=0.0,
    ),
    failures={},
    stage_latency_ns={},
    dense={},
)
