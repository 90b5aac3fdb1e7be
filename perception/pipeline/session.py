"""One drive through the service: what to encode, and what is fused when a bundle's turn has come."""

from collections import Counter
from collections.abc import Iterable
from time import monotonic_ns

from perception.config.schema import ServiceConfig
from perception.core.bundle import DropCause, SensorBundle, Stamp
from perception.core.errors import ConfigError, PayloadError
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
from perception.core.motion import EgoMotion
from perception.core.ports import Clock, Engine, Supervised, TieredEngine
from perception.core.results import PerceptionResult
from perception.core.rig import Modality, SensorRig
from perception.core.stages import FuseRequest, target_at_reference
from perception.pipeline.account import Ledger
from perception.pipeline.completion import Completion
from perception.pipeline.deadlines import Deadlines, ReplayDeadlines
from perception.pipeline.feature_cache import FeatureCache
from perception.pipeline.frames import Draft, Frame, absent
from perception.pipeline.health import SensorHealth
from perception.pipeline.ladder import FULL, Rung
from perception.pipeline.session_state import SessionState
from perception.sync.ego_estimator import ACCUMULATION_SPAN_NS, MOTION_SPAN_NS, EgoMotionEstimator
from perception.sync.synchronizer import Synchronizer


class Session:
    """Feeds messages to an engine. One drive, one lap, one thread.

    `admit` takes a message and gives drafts of the bundles that closed; each draft is then given to `dispatch` or to
    `discard`, when whoever steers the run finds it right, in the order of the drafts. `completion` makes results of the
    frames, maybe in another thread. `push`, `finish` and `complete` do all at once, for a run in which nothing is
    dropped. With `strict` an unreadable message raises PayloadError instead of being counted.
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
        deadlines: Deadlines | None = None,
    ) -> None:
        self.drive_id = drive_id
        self.run_id = run_id
        self._rig = rig
        self._engines = engine.tiers if isinstance(engine, TieredEngine) else (engine,)
        self._strict = strict
        self._synchronizer = Synchronizer(rig, config.sync, reference_times=reference_times)
        self._estimator = EgoMotionEstimator(rig)
        self._health = SensorHealth(rig, config.health, self._motion_at)
        self._route: RouteCommand | None = None
        self._features = FeatureCache(rig, self._engines)
        sweeps = max(one.model.lidar_sweeps for one in self._engines)
        self._motion_span_ns = ACCUMULATION_SPAN_NS if sweeps > 1 else MOTION_SPAN_NS
        self._cameras = _by_worth(rig, config.ladder.camera_order)
        self._dropped: Counter[str] = Counter()
        self._masked: dict[str, int] = {}
        self._reported_until_ns: int | None = None
        self.in_outage = False
        """Live: what comes now is from while the service was down; set by whoever resumes a run."""
        self.unseen_since_ns: int | None = None
        """Live: what came between then and the first bundle was never seen; set as `in_outage`."""
        self._held: Counter[int] = Counter()
        self._released_but_held: set[int] = set()
        self._pushed = 0
        self.taken = 0
        """Messages taken so far, of any kind."""
        self.turns = 0
        """Drafts dispatched or discarded so far."""
        self.ledger = Ledger()
        self.completion = Completion(
            drive_id=drive_id,
            run_id=run_id,
            calibration_hash=rig.calibration_hash(),
            placement=engine.placement,
            config=config,
            clock=clock,
            deadlines=deadlines or ReplayDeadlines(config.deadline),
            ledger=self.ledger,
            strict=strict,
        )

    def push(self, message: AnyMessage) -> list[Frame]:
        """Take one message in arrival order; returns the frames that it made ready."""
        return [self.dispatch(draft) for draft in self.admit(message, FULL)]

    def finish(self) -> list[Frame]:
        """No more messages come: close what is open."""
        return [self.dispatch(draft) for draft in self.flush()]

    def complete(self, frame: Frame, timeout_s: float) -> PerceptionResult | None:
        """Wait for a frame's fusion; its result, None where it is not published. In the order of the frames."""
        return self.completion.apply(frame, frame.future.result(timeout_s))

    def admit(self, message: AnyMessage, eager: Rung | None) -> list[Draft]:
        """Take one message in arrival order; returns the bundles that closed.

        eager: what can be encoded now is, as far as this rung wants it; None: nothing is encoded before its bundle's
        turn.
        """
        received_ns = monotonic_ns()
        self.taken += 1
        self._estimator.observe(message)
        self._health.observe(message)
        if isinstance(message, CameraFrame | LidarSweep | RadarScan):
            bundles = self._push_sensor(message, None if self.in_outage else eager)
        else:
            if isinstance(message, Unreadable):
                self._count_unreadable(message)
            else:
                self.ledger.used(message.sensor)
                self._route = message if isinstance(message, RouteCommand) else self._route
            bundles = self._synchronizer.advance(message.arrival_ns)
        return self._drafts(bundles, received_ns)

    def pass_over(self, message: AnyMessage) -> None:
        """A sensor's message was read too late to be of use."""
        self.taken += 1
        self.ledger.lost(message.sensor, DropCause.UNREAD)
        self._dropped[DropCause.UNREAD.value] += 1

    def missed(self, count: int) -> None:
        """So many messages were lost before they could be taken."""
        self._dropped[DropCause.OVERFLOW.value] += count

    def flush(self) -> list[Draft]:
        """No more messages come: the bundles that were open."""
        return self._drafts(self._synchronizer.flush(), monotonic_ns())

    def dispatch(self, draft: Draft, rung: Rung = FULL, change: str = "") -> Frame:
        """Encode what is not encoded yet, and fuse, with what the rung leaves."""
        bundle, motion = draft.usable, draft.motion
        self._count_masked(draft)
        tier = len(self._engines) - 1 if rung.is_small else 0
        wanted = self._wanted_cameras(rung)
        cameras = [name for name in self._present(bundle, Modality.CAMERA) if name in wanted]
        lidars = self._present(bundle, Modality.LIDAR)
        features = [self._features.encode_camera(bundle.hits[name].index, tier) for name in cameras]
        features += [self._features.encode_lidar(bundle.hits[name].index, motion, tier) for name in lidars]
        radar = self._features.encode_radars(bundle, motion, tier)
        if radar is not None:
            features.append(radar)
        engine = self._engines[tier]
        left_out = frozenset(self._present(bundle, Modality.CAMERA)) - wanted
        frame = Frame(
            draft=draft,
            future=engine.fuse(self._request(draft, cameras, lidars), features),
            status=tuple(absent(status) if status.name in left_out else status for status in draft.status),
            left_out=left_out,
            rung=rung,
            change=change,
            model=engine.model,
            turn=self.turns,
            at_message=self.taken,
            dropped=self._dropped,
        )
        if radar is not None:
            engine.release([radar])
        self._dropped = Counter()
        self.turns += 1
        self._let_go(draft.bundle)
        return frame

    def discard(self, draft: Draft, cause: DropCause) -> None:
        """Leave a bundle; the next frame says so."""
        self.turns += 1
        self._dropped[cause.value] += 1
        self.ledger.discarded(draft.bundle, cause)
        self._let_go(draft.bundle)

    def why_dropped(self, cause: DropCause) -> DropCause:
        """The cause of a drop in a live run: there is no overload where the engine is being restarted."""
        is_recovering = any(isinstance(one, Supervised) and one.supervision().recovering for one in self._engines)
        return DropCause.OUTAGE if cause is DropCause.OVERLOAD and is_recovering else cause

    @property
    def state(self) -> SessionState:
        """What another session needs to go on after the last result; from the thread that completes frames."""
        return self.completion.state

    def restore(self, state: SessionState, sequence: int) -> None:
        """Go on from `state`, before the first message; `sequence` is the number of the first result."""
        self.completion.restore(state, sequence)
        self._reported_until_ns = state.reference_ns

    @property
    def held(self) -> int:
        """Messages that are held for bundles to come or to be dispatched."""
        return len(self._features)

    @property
    def undelivered(self) -> Counter[str]:
        """Losses by cause since the last result: what no result could report."""
        return +(self._dropped + self.completion.undelivered)

    def _push_sensor(self, message: SensorMessage, eager: Rung | None) -> list[SensorBundle]:
        index = self._pushed
        self._pushed += 1
        self.ledger.took(index, message.sensor)
        stamp = Stamp(arrival_ns=message.arrival_ns, index=index, sensor=message.sensor, capture_ns=message.capture_ns)
        self._features.add(index, message)
        is_wanted = self._synchronizer.is_wanted(message.sensor, message.capture_ns)
        bundles = self._synchronizer.push(stamp)
        tier = len(self._engines) - 1 if eager is not None and eager.is_small else 0
        if isinstance(message, CameraFrame) and is_wanted:
            if eager is not None and message.sensor in self._wanted_cameras(eager):
                self._features.encode_camera(index, tier)
        elif isinstance(message, LidarSweep) and self._synchronizer.is_open(message.sensor, message.capture_ns):
            motion = self._motion_at(message.capture_ns)
            self._features.plan_lidar(index, motion)
            if eager is not None:
                self._features.encode_lidar(index, motion, tier)
        return bundles

    def _drafts(self, bundles: list[SensorBundle], received_ns: int) -> list[Draft]:
        drafts = []
        for bundle in bundles:
            self.ledger.made(bundle)
            if self.in_outage:
                self._miss(bundle)
                continue
            self._count_unseen(bundle)
            self._held.update(stamp.index for stamp in bundle.hits.values())
            masked = self._health.masked(bundle)
            drafts.append(
                Draft(
                    bundle=bundle,
                    masked=masked,
                    motion=self._motion_at(bundle.reference_ns),
                    status=self._health.status(bundle),
                    route=self._route,
                    received_ns=received_ns,
                )
            )
        drops = self._synchronizer.take_drops()
        self._dropped.update(cause.value for _, cause in drops)
        self.ledger.dropped(drops)
        released = self._synchronizer.take_released()
        self.ledger.released(released)
        self._release(released)
        return drafts

    def _miss(self, bundle: SensorBundle) -> None:
        """A bundle of the time in which the service was down."""
        self.ledger.discarded(bundle, DropCause.OUTAGE)
        if bundle.reference_ns <= (self._reported_until_ns or bundle.reference_ns - 1):
            self._dropped.clear()  # it was reported before the outage
        else:
            self._dropped[DropCause.OUTAGE.value] += 1

    def _count_unseen(self, bundle: SensorBundle) -> None:
        """Before the first bundle of a live source: as many were missed as its reference sensor's rate makes."""
        since_ns, self.unseen_since_ns = self.unseen_since_ns, None
        if since_ns is not None and bundle.reference_sensor in self._rig:
            missed = round((bundle.reference_ns - since_ns) / self._rig[bundle.reference_sensor].period_ns) - 1
            self._dropped[DropCause.OUTAGE.value] += max(0, missed)

    def _count_masked(self, draft: Draft) -> None:
        """Tell of messages that are left out for a fault of their sensor, of each once."""
        for name in draft.masked:
            index = draft.bundle.hits[name].index
            if self._masked.get(name) != index:
                self._masked[name] = index
                self._dropped[DropCause.MASKED.value] += 1

    def _request(self, draft: Draft, cameras: list[str], lidars: list[str]) -> FuseRequest:
        bundle, motion, route = draft.usable, draft.motion, draft.route
        radar_ages = [bundle.age_ns(name) for name in self._present(bundle, Modality.RADAR)]
        return FuseRequest(
            reference_ns=bundle.reference_ns,
            received_ns=draft.received_ns,
            cameras=self._features.camera_views(cameras, bundle, motion),
            lidars=tuple(lidars),
            lidar_age_ns=tuple(bundle.age_ns(name) for name in lidars),
            radar_age_ns=sum(radar_ages) // len(radar_ages) if radar_ages else None,
            speed_mps=motion.speed_mps,
            yaw_rate_radps=motion.yaw_rate_radps,
            command=route.command if route else Command.FOLLOW,
            speed_limit_mps=route.speed_limit_mps if route else None,
            signal=route.signal if route else Signal.UNKNOWN,
            route_distance_m=route.distance_m if route else None,
            route_target_m=target_at_reference(route, motion) if route else None,
        )

    def _present(self, bundle: SensorBundle, modality: Modality) -> list[str]:
        return [sensor.name for sensor in self._rig.of(modality) if sensor.name in bundle.hits]

    def _wanted_cameras(self, rung: Rung) -> frozenset[str]:
        return frozenset(self._cameras[: rung.cameras])

    def _let_go(self, bundle: SensorBundle) -> None:
        """A draft's turn is over: what it alone held is released."""
        free = []
        for stamp in bundle.hits.values():
            self._held[stamp.index] -= 1
            if not self._held[stamp.index]:
                del self._held[stamp.index]
                if stamp.index in self._released_but_held:
                    self._released_but_held.discard(stamp.index)
                    free.append(stamp.index)
        self._features.release(free)

    def _release(self, indices: Iterable[int]) -> None:
        held = {index for index in indices if index in self._held}
        self._released_but_held |= held
        self._features.release(index for index in indices if index not in held)

    def _motion_at(self, reference_ns: int) -> EgoMotion:
        return self._estimator.motion_at(reference_ns, self._motion_span_ns)

    def _count_unreadable(self, message: Unreadable) -> None:
        if self._strict:
            raise PayloadError(f"{message.sensor} at {message.capture_ns}: {message.error}")
        self._dropped[DropCause.UNREADABLE.value] += 1
        self.ledger.lost(message.sensor, DropCause.UNREADABLE)


def _by_worth(rig: SensorRig, order: tuple[str, ...]) -> tuple[str, ...]:
    """All cameras, those of `order` first. Raises ConfigError where it names others."""
    cameras = [sensor.name for sensor in rig.of(Modality.CAMERA)]
    for name in order:
        if name not in cameras:
            raise ConfigError(f"ladder.camera_order names {name!r}; the cameras of the rig are {', '.join(cameras)}")
    return (*order, *(name for name in cameras if name not in order))
