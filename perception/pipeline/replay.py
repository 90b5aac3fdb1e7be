"""Runs one lap of a source through a session: pacing, delivery, and the account of what happened."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from perception.config.schema import ServiceConfig
from perception.core.clock import ReplayClock, SystemClock
from perception.core.messages import AnyMessage
from perception.core.ports import Engine, Source, Steerable
from perception.core.results import EndOfRun, PerceptionResult
from perception.pipeline.drive_part import part_of
from perception.pipeline.playback import Playback
from perception.pipeline.publisher import Publisher
from perception.pipeline.resuming import KeptRun
from perception.pipeline.session import Frame, Session

Handler = Callable[[PerceptionResult], None]
Tap = Callable[[AnyMessage], None]


@dataclass(slots=True, kw_only=True)
class RunSummary:
    """What one lap came to. dropped: all losses by cause."""

    end: EndOfRun
    messages: int
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How to play a drive.

    rate: multiple of real time, infinite for as fast as it goes. start_s and duration_s select a part, counted from the
    first arrival. live: late frames are dropped instead of waited for. strict: an unreadable message is an error.
    """

    rate: float = float("inf")
    start_s: float = 0.0
    duration_s: float | None = None
    live: bool = False
    strict: bool = False


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
    kept: KeptRun | None = None,
) -> RunSummary:
    """Play one lap of `source` through `engine` and call `on_result` with each result, in order, from one thread.

    A `Steerable` source gets each result before its next message (lock-step), from the thread that reads it. On
    KeyboardInterrupt what was under way is still delivered and the summary's reason is `interrupted`; so it is where
    `playback`, which then sets the pace, cuts the lap short. `kept`: a run to go on with, whose state is kept.
    """
    if kept is not None:
        engine = kept.engine(engine)
    session = Session(
        drive_id=source.drive_id,
        run_id=run_id,
        rig=source.rig,
        engine=engine,
        config=config,
        clock=SystemClock(),
        reference_times=reference_times,
        strict=options.strict,
    )
    lap = _Lap(session, source, on_result, config, kept)
    if kept is not None:
        kept.attach(session)
    reason = "completed"
    try:
        try:
            for message in _paced(source, options, playback, kept):
                lap.messages += 1
                if kept is not None:
                    kept.observe(message)
                if on_message is not None:
                    on_message(message)
                lap.submit(session.push(message, is_busy=options.live and lap.publisher.is_full))
            if playback is not None and playback.is_cut:
                reason = "interrupted"
        except KeyboardInterrupt:
            reason = "interrupted"
        lap.submit(session.finish())
    except BaseException:
        with contextlib.suppress(Exception):  # the error on its way says more than what follows from it
            lap.publisher.close()
        raise
    lap.publisher.close()
    end = EndOfRun(drive_id=source.drive_id, run_id=run_id, count=lap.delivered, reason=reason)
    return RunSummary(end=end, messages=lap.messages, dropped=lap.dropped + session.undelivered)


class _Lap:
    """Delivery of one lap's frames."""

    def __init__(
        self, session: Session, source: Source, on_result: Handler, config: ServiceConfig, kept: KeptRun | None
    ) -> None:
        self._steerable = source if isinstance(source, Steerable) else None
        self._on_result = on_result
        self._latest: list[PerceptionResult] = []
        self.messages = 0
        self._first = self.delivered = kept.published if kept is not None else 0
        self.dropped: Counter[str] = kept.dropped if kept is not None else Counter()
        self.publisher = Publisher(
            session,
            self._deliver,
            max_in_flight=config.runtime.max_in_flight,
            timeout_s=config.runtime.result_timeout_s,
        )

    def submit(self, frames: list[Frame]) -> None:
        frames = [frame for frame in frames if frame.sequence >= self._first]
        for frame in frames:
            self.publisher.submit(frame)
        if frames and self._steerable is not None:
            self.publisher.drain()
            for result in self._latest:
                self._steerable.apply(result)
            self._latest.clear()

    def _deliver(self, result: PerceptionResult) -> None:
        self.delivered += 1
        self.dropped.update(result.provenance.dropped)
        if self._steerable is not None:
            self._latest.append(result)
        self._on_result(result)


def _paced(
    source: Source, options: ReplayOptions, playback: Playback | None, kept: KeptRun | None
) -> Iterator[AnyMessage]:
    """The chosen part of the messages, each when its time has come."""
    if playback is not None:
        playback.begin(options.start_s)
    clock: ReplayClock | None = None
    for elapsed_s, message in part_of(source, options.start_s, options.duration_s):
        if playback is not None:
            if not playback.wait_until(elapsed_s):
                return
        elif kept is None or not kept.is_asleep:
            if clock is None:
                begun_ns = message.arrival_ns - round((elapsed_s - options.start_s) * 1e9)
                now_ns = begun_ns if kept is None else kept.data_time_ns(message, begun_ns, options.rate)
                clock = ReplayClock(now_ns, options.rate)
            clock.sleep_until(message.arrival_ns)
        yield message
