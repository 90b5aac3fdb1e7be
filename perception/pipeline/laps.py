"""A drive's laps through the service into a queue: every run gets its id, its results, and its end."""

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from perception.config.schema import ServiceConfig
from perception.core.labels import Labels
from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan
from perception.core.ports import Engine, Recorder, ResultQueue, Source
from perception.core.results import EndOfRun, PerceptionResult
from perception.pipeline.replay import ReplayOptions, RunSummary, run_drive

OnResult = Callable[[PerceptionResult], None]


def replay_laps(
    source: Source,
    engine: Engine,
    queue: ResultQueue,
    config: ServiceConfig,
    *,
    options: ReplayOptions,
    loop: bool = False,
    recorders: Sequence[Recorder] = (),
    on_result: OnResult | None = None,
) -> Iterator[RunSummary]:
    """Play `source` once, or until interrupted with `loop`, and yield the account of each lap.

    Each lap is a run of its own: a new run id, sequences from 0, fresh tracks, and an `EndOfRun` at its end, also when
    it fails. The recorders get the messages, labels and results of the first lap, one at a time.
    """
    while True:
        summary = _replay_lap(source, engine, queue, config, options, _Recording(source, recorders), on_result)
        yield summary
        recorders = ()
        if not loop or summary.end.reason != "completed":
            return


def _replay_lap(
    source: Source,
    engine: Engine,
    queue: ResultQueue,
    config: ServiceConfig,
    options: ReplayOptions,
    recording: "_Recording",
    on_result: OnResult | None,
) -> RunSummary:
    run_id = new_run_id()
    published = 0

    def deliver(result: PerceptionResult) -> None:
        nonlocal published
        queue.publish(result)
        published += 1
        recording.write(result)
        if on_result is not None:
            on_result(result)

    try:
        summary = run_drive(
            source,
            engine,
            config,
            run_id=run_id,
            on_result=deliver,
            on_message=recording.message,
            options=options,
        )
    except BaseException as error:
        reason = f"failed: {type(error).__name__}: {error}"
        queue.publish(EndOfRun(drive_id=source.drive_id, run_id=run_id, count=published, reason=reason))
        raise
    queue.publish(summary.end)
    return summary


def new_run_id() -> str:
    """A run id that sorts by its start and differs between two runs of the same second."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


class _Recording:
    """Hands messages, the labels that belong to them, and results to recorders; from two threads, so behind a lock."""

    def __init__(self, source: Source, recorders: Sequence[Recorder]) -> None:
        self._source = source
        self._recorders = recorders
        self._unlabelled = set(source.label_times_ns) if recorders else set()
        self._lock = threading.Lock()

    def message(self, message: AnyMessage) -> None:
        self.write(message)
        if message.capture_ns in self._unlabelled and isinstance(message, LidarSweep | CameraFrame | RadarScan):
            self._unlabelled.discard(message.capture_ns)
            if (labels := self._source.labels(message.capture_ns)) is not None:
                self.write(labels)

    def write(self, item: AnyMessage | PerceptionResult | Labels) -> None:
        with self._lock:
            for recorder in self._recorders:
                recorder.write(item)
