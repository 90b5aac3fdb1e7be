"""A drive's laps through the service into a queue: every run gets its id, its results, and its end."""

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from perception.config.schema import ServiceConfig
from perception.core.messages import AnyMessage
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
    recorder: Recorder | None = None,
    on_result: OnResult | None = None,
) -> Iterator[RunSummary]:
    """Play `source` once, or until interrupted with `loop`, and yield the account of each lap.

    Each lap is a run of its own: a new run id, sequences from 0, fresh tracks, and an `EndOfRun` at its end, also when
    it fails. The recorder gets the messages, labels and results of the first lap.
    """
    while True:
        summary = _replay_lap(source, engine, queue, config, options, recorder, on_result)
        yield summary
        recorder = None
        if not loop or summary.end.reason != "completed":
            return


def _replay_lap(
    source: Source,
    engine: Engine,
    queue: ResultQueue,
    config: ServiceConfig,
    options: ReplayOptions,
    recorder: Recorder | None,
    on_result: OnResult | None,
) -> RunSummary:
    run_id = new_run_id()
    published = 0

    def deliver(result: PerceptionResult) -> None:
        nonlocal published
        queue.publish(result)
        published += 1
        if recorder is not None:
            recorder.write(result)
        if on_result is not None:
            on_result(result)

    try:
        summary = run_drive(
            source,
            engine,
            config,
            run_id=run_id,
            on_result=deliver,
            on_message=_recording(source, recorder),
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


def _recording(source: Source, recorder: Recorder | None) -> Callable[[AnyMessage], None] | None:
    if recorder is None:
        return None
    label_times = frozenset(source.label_times_ns)

    def record(message: AnyMessage) -> None:
        recorder.write(message)
        if message.capture_ns in label_times and (labels := source.labels(message.capture_ns)) is not None:
            recorder.write(labels)

    return record
