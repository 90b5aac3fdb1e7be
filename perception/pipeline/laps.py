"""A drive's laps through the service into a queue: every run gets its id, its results, and its end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from perception.config.schema import ServiceConfig
from perception.core.bundle import DropCause
from perception.core.ports import Engine, Recorder, ResultQueue, Source
from perception.core.results import EndOfRun, PerceptionResult
from perception.pipeline.decisions import DecisionBook
from perception.pipeline.playback import Playback
from perception.pipeline.recording import Recording
from perception.pipeline.replay import ReplayOptions, RunSummary, run_drive
from perception.pipeline.resuming import KeptRun, Resuming, new_run_id

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
    playback: Playback | None = None,
    resuming: Resuming | None = None,
    decisions: DecisionBook | None = None,
) -> Iterator[RunSummary]:
    """Play `source` once, or until interrupted with `loop`, and yield the account of each lap.

    Each lap is a run of its own: a new run id, sequences from 0, fresh tracks, and an `EndOfRun` at its end, also when
    it fails or is cut short. The recorders get the messages, labels and results of the first lap, one at a time. A seek
    of `playback` ends a lap as an interrupt does, and the next one begins where it leads to. With `resuming` the state
    of each run is kept, and a run that another process left behind is gone on with first; one that is complete is not
    run again.
    decisions: of a live run, made again.
    """
    part = options
    end_s = None if options.duration_s is None else options.start_s + options.duration_s
    while True:
        recording = Recording(source, recorders)
        kept = None if resuming is None else _kept(resuming, source, engine, queue, config, part, loop)
        if kept is not None and kept.ended is not None:
            end = EndOfRun(drive_id=source.drive_id, run_id=kept.run_id, count=kept.published, reason=kept.ended)
            yield RunSummary(end=end, messages=0, dropped=kept.dropped)
            return
        summary = _replay_lap(source, engine, queue, config, part, recording, on_result, playback, kept, decisions)
        yield summary
        recorders = ()
        if playback is not None and (target_s := playback.target_s) is not None:
            duration_s = None if end_s is None else max(0.0, end_s - target_s)
            part = replace(options, start_s=target_s, duration_s=duration_s)
            continue
        part = options
        if not loop or summary.end.reason != "completed":
            return


def _kept(
    resuming: Resuming,
    source: Source,
    engine: Engine,
    queue: ResultQueue,
    config: ServiceConfig,
    options: ReplayOptions,
    again: bool,
) -> KeptRun:
    length = "all" if options.duration_s is None else f"{options.duration_s:g} s"
    part = f"{'live, ' * options.live}{length} from {options.start_s:g} s"
    return resuming.begin(source, engine, queue, config, live=options.live, part=part, again=again)


def _replay_lap(
    source: Source,
    engine: Engine,
    queue: ResultQueue,
    config: ServiceConfig,
    options: ReplayOptions,
    recording: Recording,
    on_result: OnResult | None,
    playback: Playback | None,
    kept: KeptRun | None,
    decisions: DecisionBook | None,
) -> RunSummary:
    run_id = new_run_id() if kept is None else kept.run_id
    published = 0 if kept is None else kept.published

    def deliver(result: PerceptionResult) -> None:
        nonlocal published
        result = _with_losses(result, queue.take_losses())
        if kept is not None:
            result = kept.before(result)
        queue.publish(result)
        if kept is not None:
            kept.after(result)
        published = result.sequence + 1
        recording.write(result)
        if playback is not None:
            playback.delivered()
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
            reference_times=frozenset(source.label_times_ns) if config.sync.reference == "keyframes" else None,
            playback=playback,
            kept=kept,
            decisions=decisions,
            on_decision=recording.decision if options.live and recording.keeps_decisions else None,
        )
    except BaseException as error:
        is_cut = isinstance(error, KeyboardInterrupt)
        reason = "interrupted" if is_cut else f"failed: {type(error).__name__}: {error}"
        queue.publish(EndOfRun(drive_id=source.drive_id, run_id=run_id, count=published, reason=reason))
        if kept is not None:
            kept.end(reason, is_stored=False)
        raise
    queue.publish(summary.end)
    if kept is not None:
        kept.end(summary.end.reason, is_stored=not options.live)  # a live run waits for no broker
    recording.write(summary.end)
    return summary


def _with_losses(result: PerceptionResult, lost: int) -> PerceptionResult:
    """The result, telling its consumers of items before it that the queue had to drop."""
    if not lost:
        return result
    dropped = {**result.provenance.dropped, DropCause.QUEUE.value: lost}
    return replace(result, provenance=replace(result.provenance, dropped=dropped))
