"""One vehicle of the service: its source, its runs, its queue, in a thread of its own. What breaks here stays here."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from perception.config.schema import ServiceConfig
from perception.config.serving import ReconnectConfig, VehicleConfig
from perception.core.errors import DriveError, QueueError
from perception.core.ports import ResultQueue, Source
from perception.core.results import PerceptionResult
from perception.pipeline.laps import replay_laps
from perception.pipeline.playback import Playback
from perception.pipeline.replay import ReplayOptions
from perception.pipeline.resuming import Resuming
from perception.runtime.service_engine import NotNowError
from perception.runtime.service_sources import WatchedSource, watched
from perception.runtime.service_tiers import SharedTiers
from perception.runtime.service_watch import VehicleState, Watcher

OpenSource = Callable[[VehicleConfig, ServiceConfig], Source]
OpenQueue = Callable[[ServiceConfig], ResultQueue]

MEND_TIMEOUT_S = 10.0
IDLE = frozenset({VehicleState.STOPPED, VehicleState.FINISHED})


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleStatus:
    """What `/status` says of a vehicle. run_id, drive_id: of the last result, None before the first.

    results: since the service began. failures: runs that broke. error: why the last one did, None once it runs again.
    """

    name: str
    state: VehicleState
    source: str
    queue: str
    drive_id: str | None
    run_id: str | None
    sequence: int | None
    results: int
    failures: int
    frames_under_way: int
    error: str | None


class Vehicle:
    """Plays `config.source` through the shared engine until it is stopped or at its end; begins anew where it breaks.

    `start`, `drain`, `stop` and `status` may be called from any thread.
    """

    def __init__(
        self,
        config: VehicleConfig,
        settings: ServiceConfig,
        reconnect: ReconnectConfig,
        engine: SharedTiers,
        watcher: Watcher,
        *,
        open_source: OpenSource,
        open_queue: OpenQueue,
        resuming: Resuming | None = None,
    ) -> None:
        """resuming: how its runs are kept, so that another process can go on with the last one."""
        self.config = config
        self._settings = settings
        self._reconnect = reconnect
        self._shared = engine
        self._watcher = watcher
        self._open_source = open_source
        self._open_queue = open_queue
        self._resuming = resuming
        name = config.name
        has_small = settings.ladder.small_model is not None
        self._engine = engine.view(name, lambda *fused: watcher.fused(name, *fused), small=has_small)
        self._changed = threading.Condition()
        self._state = VehicleState.STOPPED
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._playback: Playback | None = None
        self._source: WatchedSource | None = None
        self._queue: ResultQueue | None = None
        self._latest: PerceptionResult | None = None
        self._error: str | None = None
        self._results = self._failures = 0
        self._has_played = False
        watcher.state(name, self._state)

    @property
    def status(self) -> VehicleStatus:
        with self._changed:
            latest = self._latest
            return VehicleStatus(
                name=self.config.name,
                state=self._state,
                source=self.config.source,
                queue=self.config.queue_url,
                drive_id=latest.drive_id if latest else None,
                run_id=latest.run_id if latest else None,
                sequence=latest.sequence if latest else None,
                results=self._results,
                failures=self._failures,
                frames_under_way=self._engine.frames_under_way,
                error=self._error,
            )

    @property
    def queue(self) -> ResultQueue | None:
        """Where results go now; None while it is not open."""
        return self._queue

    def start(self) -> bool:
        """Begin, unless it runs; whether it had to be. Raises NotNowError while it drains."""
        with self._changed:
            if self._is_stopping:
                raise NotNowError(f"vehicle {self.config.name} is still draining; start it when it is stopped")
            if self._thread is not None:
                return False
            self._thread = threading.Thread(target=self._run, name=f"vehicle-{self.config.name}", daemon=True)
            self._thread.start()
            return True

    def stop(self) -> None:
        """Take no more messages; frames under way are published and the run ends, but nobody waits for it."""
        with self._changed:
            if self._thread is None:
                return
            self._is_stopping = True
            if self._state not in IDLE:
                self._enter(VehicleState.DRAINING)
            playback, source = self._playback, self._source
            self._changed.notify_all()
        if playback is not None:
            playback.quit()
        if source is not None:
            source.interrupt()

    def drain(self, timeout_s: float) -> bool:
        """As `stop`, and wait until the queue has everything. Whether that was so within `timeout_s`."""
        self.stop()
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout_s)

    def _run(self) -> None:
        final = VehicleState.STOPPED
        try:
            if self._run_until_stopped():
                final = VehicleState.FINISHED
        finally:
            self._engine.rest()
            self._close_queue()
            with self._changed:
                self._thread, self._is_stopping = None, False
                self._enter(final)

    def _run_until_stopped(self) -> bool:
        """Whether the drive came to its end."""
        pause_s = self._reconnect.first_s
        while not self._is_stopping:
            began_s = time.monotonic()
            problem: Exception = DriveError(f"{self.config.source}: the source ended")
            try:
                if self._run_once():
                    return True
            except Exception as error:  # whatever it is, the other vehicles go on
                problem = error
            if time.monotonic() - began_s >= self._reconnect.steady_s:
                pause_s = self._reconnect.first_s
            self._wait_after(problem, pause_s)
            pause_s = min(self._reconnect.longest_s, pause_s * 2)
        return False

    def _run_once(self) -> bool:
        """Open and play the source. Whether it is a drive that came to its end; False for a live source that did."""
        self._set_state(VehicleState.STARTING)
        self._shared.mend(timeout_s=MEND_TIMEOUT_S)
        name = self.config.name
        opened = self._open_source(self.config, self._settings)
        with contextlib.closing(watched(opened, lambda message: self._watcher.message(name, message))) as source:
            self._watcher.opened(name, source)
            if self._queue is None:
                self._queue = self._open_queue(self._settings)
            rate = float("inf") if source.is_live else self.config.rate
            playback = Playback(rate, None)
            with self._changed:
                self._playback, self._source = playback, source
                if self._is_stopping:
                    return False
                self._enter(VehicleState.RUNNING)
            try:
                self._play(source, self._queue, playback)
            finally:
                with self._changed:
                    self._playback = self._source = None
            return not source.is_live and not playback.is_cut

    def _play(self, source: WatchedSource, queue: ResultQueue, playback: Playback) -> None:
        resuming = self._resuming
        if resuming is not None:
            # A drive that another process played to its end is not played again, unless somebody starts it again.
            resuming = replace(resuming, again=source.is_live or self._has_played)
        laps = replay_laps(
            source,
            self._engine,
            queue,
            self._settings,
            options=ReplayOptions(live=True),
            loop=self.config.loop,
            on_result=self._heard,
            playback=playback,
            resuming=resuming,
        )
        self._has_played = True
        for summary in laps:
            self._watcher.ended(self.config.name, summary)

    def _heard(self, result: PerceptionResult) -> None:
        with self._changed:
            self._latest = result
            self._results += 1
            self._error = None
        self._watcher.result(self.config.name, result)

    def _wait_after(self, error: Exception, pause_s: float) -> None:
        if isinstance(error, QueueError):
            self._close_queue()
        with self._changed:
            if self._is_stopping:
                return
            self._failures += 1
            self._error = f"{type(error).__name__}: {error}"
            self._enter(VehicleState.WAITING)
        self._watcher.failed(self.config.name, error, pause_s)
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping, pause_s)

    def _close_queue(self) -> None:
        queue, self._queue = self._queue, None
        if queue is not None:
            try:
                queue.close()
            except QueueError as error:
                with self._changed:
                    self._error = f"QueueError: {error}"
                self._watcher.failed(self.config.name, error, 0.0)

    def _set_state(self, state: VehicleState) -> None:
        with self._changed:
            if not self._is_stopping:
                self._enter(state)

    def _enter(self, state: VehicleState) -> None:
        self._state = state
        self._watcher.state(self.config.name, state)
        self._changed.notify_all()
