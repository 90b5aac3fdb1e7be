"""Runs one lap of a source through a session: pacing, steering, delivery, and the account of what happened."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from perception.config.schema import ServiceConfig
from perception.core.clock import SystemClock
from perception.core.messages import AnyMessage
from perception.core.ports import Engine, LossySource, Source, Steerable, TieredEngine
from perception.core.results import EndOfRun, PerceptionResult
from perception.pipeline.account import Account
from perception.pipeline.completion import MAX_IN_FLIGHT, Outcome
from perception.pipeline.deadlines import Deadlines, LiveDeadlines, ReplayDeadlines
from perception.pipeline.decision_log import DecisionLog, Note
from perception.pipeline.decisions import DecisionBook, RecordedDeadlines, RecordedSteering
from perception.pipeline.frames import Draft
from perception.pipeline.interrupts import Interrupts
from perception.pipeline.pacing import Pace, ReplayOptions
from perception.pipeline.playback import Playback
from perception.pipeline.publisher import Publisher
from perception.pipeline.resuming import KeptRun
from perception.pipeline.session import Session
from perception.pipeline.steering import EveryFrame, NewestWins, Steering
from perception.pipeline.threaded_engine import ThreadedEngine
from perception.pipeline.tiers import Tiers

__all__ = ["ReplayOptions", "RunSummary", "run_drive"]

Handler = Callable[[PerceptionResult], None]
Tap = Callable[[AnyMessage], None]


@dataclass(slots=True, kw_only=True)
class RunSummary:
    """What one lap came to.

    dropped: all losses by cause, as the results told them. account: of every message and bundle, exact. jumped_s,
    slowed_s: of a recorded drive played live that could not be read in time: how much of it was never read, and by how
    much it was slowed down.
    """

    end: EndOfRun
    messages: int
    dropped: Counter[str] = field(default_factory=Counter)
    account: Account = field(default_factory=Account)
    jumped_s: float = 0.0
    slowed_s: float = 0.0


def run_drive(
    source: Source,
    engine: Engine,
    config: ServiceConfig,
    *,
    run_id: str,
    on_result: Handler,
    options: ReplayOptions,
    on_message: Tap | None = None,
    reference_times: frozenset[int] | None = None,
    playback: Playback | None = None,
    decisions: DecisionBook | None = None,
    on_decision: Note | None = None,
    kept: KeptRun | None = None,
) -> RunSummary:
    """Play one lap of `source` through `engine` and call `on_result` with each result, in order, from one thread.

    A `Steerable` source gets each result before its next message (lock-step), from the thread that reads it. On Ctrl-C
    what was under way is still delivered and the summary's reason is `interrupted`; so it is where `playback`, which
    then sets the pace, cuts the lap short. A second Ctrl-C raises KeyboardInterrupt.

    decisions: those of a live run, to be made again; `options.live` and the part that `options` name are then not
    looked at. on_decision: told what a live run decides, from two threads.
    kept: a run to go on with, whose state is kept. Raises DecisionError where `decisions` do not fit.
    """
    if decisions is not None:
        decisions.check(source, engine)
    if kept is not None:
        engine = kept.engine(engine)
    with _beside(engine, options) as worker, Interrupts() as interrupts:
        lap = _Lap(
            source, worker, config, run_id, on_result, options, reference_times, playback, decisions, on_decision, kept,
            interrupts,
        )  # fmt: skip
        try:
            reason = lap.run(on_message)
        except BaseException:
            with contextlib.suppress(Exception):  # the error on its way says more than what follows from it
                lap.publisher.close()
            raise
    if lap.log is not None:
        lap.log.end(lap.session.taken, reason)
    return RunSummary(
        end=EndOfRun(drive_id=source.drive_id, run_id=run_id, count=lap.delivered, reason=reason),
        messages=lap.session.taken,
        dropped=lap.dropped + lap.session.undelivered,
        account=lap.session.ledger.account(),
        jumped_s=lap.pace.jumped_s,
        slowed_s=lap.pace.slowed_s,
    )


class _Lap:
    """One lap: who reads, who decides, who delivers."""

    def __init__(
        self,
        source: Source,
        engine: Engine,
        config: ServiceConfig,
        run_id: str,
        on_result: Handler,
        options: ReplayOptions,
        reference_times: frozenset[int] | None,
        playback: Playback | None,
        decisions: DecisionBook | None,
        on_decision: Note | None,
        kept: KeptRun | None,
        interrupts: Interrupts,
    ) -> None:
        self._interrupts = interrupts
        self._steerable = source if isinstance(source, Steerable) else None
        self._lossy = source if isinstance(source, LossySource) else None
        self._lost = 0 if self._lossy is None else self._lossy.lost
        self._on_result = on_result
        self._latest: list[PerceptionResult] = []
        self._kept = kept
        self._known = kept.published if kept is not None and not options.live else 0
        """Frames to come whose results an earlier process published."""
        self.delivered = kept.published if kept is not None else 0
        self.dropped: Counter[str] = kept.dropped if kept is not None else Counter()
        self.pace = Pace(source, options, config.live, playback, kept)
        self._recorded = RecordedSteering.of(decisions, config) if decisions is not None else None
        self._steering: Steering
        deadlines: Deadlines
        if decisions is not None and self._recorded is not None:
            self._steering, deadlines = self._recorded, RecordedDeadlines(decisions, config)
        elif options.live:
            self._steering = NewestWins(config.live, config.ladder, config.deadline)
            deadlines = LiveDeadlines(config.deadline, self.pace)
        else:
            self._steering, deadlines = EveryFrame(), ReplayDeadlines(config.deadline)
        self.log = None if on_decision is None else DecisionLog(on_decision)
        if self.log is not None:
            self.log.begin(source, run_id, engine, config, options.start_s, options.duration_s)
        self.session = Session(
            drive_id=source.drive_id,
            run_id=run_id,
            rig=source.rig,
            engine=engine,
            config=config,
            clock=SystemClock(),
            reference_times=reference_times,
            strict=options.strict,
            deadlines=deadlines,
        )
        self.session.completion.on_outcome = self._outcome
        if kept is not None:
            kept.attach(self.session)
        is_live = options.live and decisions is None
        self.publisher = Publisher(
            self.session.completion,
            self._deliver,
            max_in_flight=min(config.live.max_in_flight if is_live else config.runtime.max_in_flight, MAX_IN_FLIGHT),
            timeout_s=config.runtime.result_timeout_s,
        )

    def run(self, on_message: Tap | None) -> str:
        """Every message of the source, and what is open or under way at its end; the reason of the end.

        An interrupt ends the reading, or is noted while the rest is worked off; another one raises KeyboardInterrupt.
        """
        reason = "completed"
        try:
            self._read(on_message)
            if self.pace.is_cut:
                reason = "interrupted"
        except KeyboardInterrupt:
            reason = "interrupted"
        is_finished = False
        try:
            with self._interrupts.held():
                self._finish()
                self.publisher.close()
                is_finished = True
        except KeyboardInterrupt:
            if not is_finished:
                raise
            reason = "interrupted"
        return reason

    def _read(self, on_message: Tap | None) -> None:
        for message in self.pace.messages(self._idle):
            if self._recorded is not None:
                if self._recorded.is_over:
                    return
                if self._recorded.is_jumped_over(message):
                    continue
            with self._interrupts.held():
                self._play(message, on_message)

    def _play(self, message: AnyMessage, on_message: Tap | None) -> None:
        session, steering = self.session, self._steering
        if self.log is not None and self.pace.has_jumped:
            self.log.jumped(session.taken, message)
        if self._kept is not None:
            self._kept.observe(message)
        if on_message is not None:
            on_message(message)
        if self._lossy is not None and (lost := self._lossy.lost) > self._lost:
            session.missed(lost - self._lost)
            self._lost = lost
        if steering.takes(message, self.pace.lag_ns):
            eager = steering.eager(has_room=not self.publisher.is_full)
            self._carry_out(session.admit(message, eager))
        else:
            if self.log is not None:
                self.log.passed(session.taken)
            session.pass_over(message)
            self._carry_out([])

    def _finish(self) -> None:
        """The source has ended: what is open is closed, and what waits is worked on."""
        self._carry_out(self.session.flush())
        if self._recorded is not None:
            self._recorded.check_done()
        while self._steering.is_waiting:
            self.publisher.wait_for_room()
            self._carry_out([])

    def _carry_out(self, drafts: list[Draft]) -> None:
        """Give new drafts, one by one, to whoever steers, and do what he says."""
        begun = self._obey()
        for draft in drafts:
            self._steering.offer(draft)
            begun = self._obey() or begun
        if begun and self._steerable is not None:
            self.publisher.drain()
            for result in self._latest:
                self._steerable.apply(result)
            self._latest.clear()

    def _obey(self) -> bool:
        """Carry out every order there is; whether a frame was begun."""
        steering, session = self._steering, self.session
        begun = False
        while (order := steering.order(session.taken, has_room=not self.publisher.is_full)) is not None:
            if order.cause is None:
                frame = session.dispatch(order.draft, order.rung, order.change)
                if self._known:
                    self._known -= 1
                    session.completion.pass_by(frame)
                else:
                    self.publisher.submit(frame)
                    begun = True
            else:
                cause = order.cause if self._recorded is not None else session.why_dropped(order.cause)
                if self.log is not None:
                    self.log.dropped(order.draft, cause, turn=session.turns, at_message=session.taken)
                session.discard(order.draft, cause)
        return begun

    def _idle(self, seconds: float) -> None:
        """Nothing is due for so long; a frame that waits may begin meanwhile."""
        if not self._steering.is_waiting:
            time.sleep(seconds)
        elif self.publisher.wait_for_room(seconds):
            with self._interrupts.held():
                self._carry_out([])

    def _outcome(self, outcome: Outcome) -> None:
        self._steering.observe(outcome)
        if self.log is not None:
            self.log.outcome(outcome)

    def _deliver(self, result: PerceptionResult) -> None:
        self.delivered += 1
        self.dropped.update(result.provenance.dropped)
        if self._steerable is not None:
            self._latest.append(result)
        self._on_result(result)


@contextlib.contextmanager
def _beside(engine: Engine, options: ReplayOptions) -> Iterator[Engine]:
    """The engine, so that it does not hold up the one who reads, where the run is live and it works in this process."""
    if not options.live or engine.placement != "local":
        yield engine
        return
    threads = torch.get_num_threads()
    inner = engine.tiers if isinstance(engine, TieredEngine) else (engine,)
    # The number of threads is a setting of each thread.
    with contextlib.ExitStack() as stack:
        tiers = [
            stack.enter_context(contextlib.closing(ThreadedEngine(one, lambda: torch.set_num_threads(threads))))
            for one in inner
        ]
        yield Tiers(tuple(tiers)) if len(tiers) > 1 else tiers[0]
