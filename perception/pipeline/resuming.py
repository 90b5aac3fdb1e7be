"""Goes on with a run that another process began: which results to leave out, where the tracks were, what to save when.

Replay: the drive is read from its beginning without the model until the first result that the queue does not have, so
that synchroniser, ego motion and health are what they were; then the tracks are put back. The results are those of a
run that was never disturbed. The state that is saved is the one after the last result that the queue has stored; what
it may have stored beyond is sent again, and dropped as a double by server or consumer.

Live: what came meanwhile is gone and counted (`outage`); the run goes on with its tracks if it was not away for long. A
number is spoken for before its result is handed to the queue: never two results under one number. A recorded drive is
read from shortly before the last result on; of a live source, what was missed is known by its reference sensor's rate.
"""

import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from secrets import token_hex
from typing import Protocol, runtime_checkable

from perception.config.schema import ServiceConfig
from perception.core.messages import AnyMessage
from perception.core.ports import Clock, Engine, ResultQueue, Source, Steerable
from perception.core.results import EndOfRun, PerceptionResult
from perception.pipeline.run_state import RunFolder, RunIdentity, RunState, SavedTracks
from perception.pipeline.session import Session
from perception.pipeline.session_state import SessionState
from perception.pipeline.sleeping_engine import SleepingEngine

SERVICE = "service"
"""The role under which results report that the whole process was restarted."""
POLL_S = 0.01
WARM_UP_S = 2.0
"""So long before the last result a live run reads its drive again: ego motion and synchroniser need it."""


@runtime_checkable
class Buffering(Protocol):
    """A queue that stores what is published a little later."""

    def waiting(self) -> int:
        """Items published that are not stored yet."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Resuming:
    """How runs are kept.

    within_s: a live run that was away for longer is ended, and a new one begun; so is one of a simulator, whose world
    begins anew. again: a run that is complete is followed by another. replaces: so is the run of another drive, model
    or setting, which is refused else.
    """

    folder: RunFolder
    within_s: float
    clock: Clock
    again: bool = False
    replaces: bool = False

    def begin(
        self,
        source: Source,
        engine: Engine,
        queue: ResultQueue,
        config: ServiceConfig,
        *,
        live: bool,
        part: str,
        again: bool,
    ) -> "KeptRun":
        """The run that the folder holds and that is to go on, or a new one. Raises UsageError as `RunFolder` does.

        part: says in words what of the source is played. again: as `self.again`.
        """
        identity = RunIdentity.of(drive_id=source.drive_id, model_hash=engine.model.hash, config=config, part=part)
        state = self.folder.load(None if self.replaces else identity)
        is_mine = state is not None and state.identity == identity
        if state is not None and state.ended is None and not (is_mine and self._goes_on(state, source, live=live)):
            reason = "failed: the service died"
            drive_id = state.identity.drive_id
            queue.publish(EndOfRun(drive_id=drive_id, run_id=state.run_id, count=state.published, reason=reason))
            state = None
        again = again or self.again or not is_mine
        if state is None or (state.ended is not None and (again or state.ended != "completed")):
            state = RunState(identity=identity, run_id=new_run_id(), saved_ns=self.clock.now_ns())
        elif state.ended is None:
            state = replace(state, restarts=state.restarts + 1)
        return KeptRun(self.folder, state, queue, self.clock, live=live)

    def _goes_on(self, state: RunState, source: Source, *, live: bool) -> bool:
        away_s = (self.clock.now_ns() - state.saved_ns) / 1e9
        return not live or (away_s <= self.within_s and not isinstance(source, Steerable))


class KeptRun:
    """One run whose state is kept. `published`: the number of its next result."""

    def __init__(self, folder: RunFolder, state: RunState, queue: ResultQueue, clock: Clock, *, live: bool) -> None:
        self._folder, self._queue, self._clock = folder, queue, clock
        self._state = state
        self._is_live = live
        self._session: Session | None = None
        self._sleeper: SleepingEngine | None = None
        self._live_from_ns: int | None = None
        self._unsaved: deque[tuple[int, SessionState, dict[str, int]]] = deque()
        self._dropped: Counter[str] = Counter(state.dropped)
        self._unreported = int(self.is_resumed)
        # A result that the queue may have is dropped there as a double, and with it what it reports.
        self._news_from = state.published if live else state.handed + 1
        self.published = state.published
        if state.ended is None:
            folder.save(state)

    @property
    def run_id(self) -> str:
        return self._state.run_id

    @property
    def is_resumed(self) -> bool:
        return self._state.restarts > 0

    @property
    def ended(self) -> str | None:
        """Why the run is over, None while it goes on."""
        return self._state.ended

    @property
    def dropped(self) -> Counter[str]:
        """What its results reported so far, by cause."""
        return Counter(self._dropped)

    @property
    def is_asleep(self) -> bool:
        """Whether the replay is still on its way to the first result that is missing."""
        return self._sleeper is not None and self._sleeper.is_asleep

    def engine(self, engine: Engine) -> Engine:
        """The engine to run with: one that sleeps through what was published."""
        if self._is_live or not self.published:
            return engine
        self._sleeper = SleepingEngine(engine, self.published)
        return self._sleeper

    def attach(self, session: Session) -> None:
        """Have `session` go on where the run was."""
        self._session = session
        if self.is_resumed:
            session.restore(self._state.tracks.session(), self.published if self._is_live else 0)

    def start_s(self, source: Source) -> float:
        """Where in a recorded drive a live run that is gone on with is read from, in seconds after its beginning."""
        last_ns, span = self._state.tracks.reference_ns, source.span_ns
        if not self._is_live or not self.is_resumed or last_ns is None or span is None:
            return 0.0
        return max(0.0, (last_ns - span[0]) / 1e9 - WARM_UP_S)

    def data_time_ns(self, first: AnyMessage, begun_ns: int, rate: float) -> int:
        """Data time now, as `first` is about to be played; `begun_ns` is that of the part's beginning."""
        if not self._is_live or not self.is_resumed:
            return first.arrival_ns if self.is_resumed else begun_ns
        then_ns = begun_ns if self._state.drive_ns is None else self._state.drive_ns
        self._live_from_ns = then_ns + round((self._clock.now_ns() - self._state.saved_ns) * rate)
        return self._live_from_ns

    def joins_at(self, first: AnyMessage) -> None:
        """A live source gives its first message: what came between the last result and this one was missed.

        No longer than the process was away: a source whose own clock jumped says nothing of how much it was.
        """
        last_ns = self._state.tracks.reference_ns
        if self.is_resumed and self._session is not None and last_ns is not None:
            away_ns = self._clock.now_ns() - self._state.saved_ns
            self._session.unseen_since_ns = max(last_ns, first.arrival_ns - away_ns)

    def observe(self, message: AnyMessage) -> None:
        """Called with each message before the session gets it."""
        if self._session is not None and self._live_from_ns is not None:
            self._session.in_outage = message.arrival_ns < self._live_from_ns

    def before(self, result: PerceptionResult) -> PerceptionResult:
        """The result as it is to be published."""
        self._dropped.update(result.provenance.dropped)
        if self._unreported and result.sequence >= self._news_from:
            restarts = {**result.provenance.restarts, SERVICE: self._unreported}
            result = replace(result, provenance=replace(result.provenance, restarts=restarts))
            self._unreported = 0
        if self._is_live:
            self._state = replace(self._state, drive_ns=result.published_drive_ns)
            self._save(result.sequence + 1, self._session_state(), dict(self._dropped))
        return result

    def after(self, result: PerceptionResult) -> None:
        """`result` was handed to the queue: save the state after the last one that it has stored."""
        self.published = result.sequence + 1
        if self._is_live:
            return
        self._unsaved.append((self.published, self._session_state(), dict(self._dropped)))
        stored = self.published - self._waiting()
        newest = None
        while self._unsaved and self._unsaved[0][0] <= stored:
            newest = self._unsaved.popleft()
        if newest is not None:
            self._save(*newest)

    def end(self, reason: str, *, is_stored: bool = True) -> None:
        """The run's `EndOfRun` was handed to the queue: wait until it is stored, where it can be, and say so."""
        while is_stored and self._waiting():
            time.sleep(POLL_S)
        self._state = replace(
            self._state,
            ended=reason,
            published=self.published,
            dropped=dict(self._dropped),
            saved_ns=self._clock.now_ns(),
        )
        self._folder.save(self._state)

    def _save(self, published: int, session: SessionState, dropped: dict[str, int]) -> None:
        self._state = replace(
            self._state,
            published=published,
            handed=self.published,
            tracks=SavedTracks.of(session),
            dropped=dropped,
            saved_ns=self._clock.now_ns(),
        )
        self._folder.save(self._state)

    def _session_state(self) -> SessionState:
        assert self._session is not None
        return self._session.state

    def _waiting(self) -> int:
        return self._queue.waiting() if isinstance(self._queue, Buffering) else 0


def new_run_id() -> str:
    """A run id that sorts by its start and differs between two runs of the same second."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{token_hex(3)}"
