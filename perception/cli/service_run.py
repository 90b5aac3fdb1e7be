"""What `replay` and `sim` have in common: their options, and a source's way through the service with them."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from perception.cli.display import ReplayDisplay, open_display
from perception.cli.main import EXIT_DONE, EXIT_FAILED, EXIT_LOSSES
from perception.cli.options import output_options, service_config, service_options
from perception.cli.recording import open_recorder, rotation_of
from perception.cli.standby import opened_ahead
from perception.config.schema import ServiceConfig
from perception.core.bundle import DropCause
from perception.core.clock import SystemClock
from perception.core.errors import QueueError, UsageError
from perception.core.ports import Engine, Recorder, ResultQueue, Source
from perception.pipeline.decisions import DecisionBook
from perception.pipeline.laps import replay_laps
from perception.pipeline.playback import Playback
from perception.pipeline.replay import ReplayOptions, RunSummary
from perception.pipeline.resuming import Resuming
from perception.pipeline.run_state import RunFolder
from perception.queues.open import open_queue
from perception.queues.sensor_channel import open_sensor_channel
from perception.recorders.mcap_files import Rotation
from perception.runtime.engines import open_engine
from perception.viewer.live_scenes import SensorPublisher
from perception.viewer.sinks import PictureFolder, VideoFile

LOSSES = frozenset(
    {
        DropCause.UNREADABLE,
        DropCause.MASKED,
        DropCause.OVERLOAD,
        DropCause.UNREAD,
        DropCause.OVERFLOW,
        DropCause.LATE,
        DropCause.OUTAGE,
        DropCause.QUARANTINED,
        DropCause.SKIPPED,
        DropCause.DEADLINE,
    }
)
"""What makes a run end with exit code 3; images that no reference time wanted are not losses."""
CONSUMER_TIMEOUT_S = 300.0
PICTURE_EVERY = 10
POSITIVE = click.FloatRange(min=0, min_open=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options that `run_options` adds to a command."""

    config: ServiceConfig
    address: str | None
    record: Path | None
    rotation: Rotation
    pictures: Path | None
    wait_for_consumer: bool
    publish_sensors: bool
    as_json: bool
    quiet: bool


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of commands that take a drive through the service; the command gets them as `run: RunOptions`."""

    @functools.wraps(command)
    def collected(
        *args: Any,
        model: str | None,
        queue_url: str | None,
        placement: str | None,
        config_name: str | None,
        overrides: tuple[str, ...],
        address: str | None,
        record: Path | None,
        rotate_mb: float | None,
        rotate_s: float | None,
        pictures: Path | None,
        wait_for_consumer: bool,
        publish_sensors: bool,
        as_json: bool,
        quiet: bool,
        **own: Any,
    ) -> Any:
        run = RunOptions(
            config=service_config(config_name, overrides, model=model, queue_url=queue_url, placement=placement),
            address=address,
            record=record,
            rotation=rotation_of(rotate_mb, rotate_s),
            pictures=pictures,
            wait_for_consumer=wait_for_consumer,
            publish_sensors=publish_sensors,
            as_json=as_json,
            quiet=quiet,
        )
        return command(*args, run=run, **own)

    folder = click.Path(path_type=Path)
    with_options = service_options(output_options(collected))
    for option in (
        click.option("--wait-for-consumer", is_flag=True, help="Start when somebody is attached to the queue."),
        click.option(
            "--publish-sensors", is_flag=True, help="Send what sensors saw, made small, beside the results: for `view`."
        ),
        click.option("--pictures", type=folder, metavar="DIR", help="Draw every tenth result as a PNG."),
        click.option("--rotate-s", type=POSITIVE, metavar="S", help="With --record FILE.mcap: files of so long."),
        click.option("--rotate-mb", type=POSITIVE, metavar="MB", help="With --record FILE.mcap: files of this size."),
        click.option(
            "--record", type=folder, metavar="FILE.mcap|DIR",
            help="Write sensors and results as MCAP, or the drive as a nuScenes root.",
        ),
    ):  # fmt: skip
        with_options = option(with_options)
    return with_options


def run_service(
    source: Source,
    run: RunOptions,
    *,
    options: ReplayOptions,
    loop: bool = False,
    video: Path | None = None,
    playback: Playback | None = None,
    resume: Path | None = None,
    decisions: DecisionBook | None = None,
) -> RunSummary:
    """Play a source through the service, shown and recorded as `run` says; the account of the last lap.

    resume: the folder that keeps the run's state, and from which it goes on if it holds one that is not complete.
    Raises what source, recorders, queue and engine raise.
    """
    with contextlib.ExitStack() as stack:
        ready = opened_ahead(stack, lambda: open_engine(run.config, address=run.address))
        resuming = stack.enter_context(_open_state(run, resume))
        display = stack.enter_context(open_display(source, as_json=run.as_json, quiet=run.quiet))
        recorders = stack.enter_context(_open_recorders(source, run, video))
        queue, engine = stack.enter_context(open_service(run, ready))
        display.started(engine, run.config)
        if run.wait_for_consumer:
            _await_consumer(queue, display)
        for summary in replay_laps(
            source, engine, queue, run.config,
            options=options, loop=loop, recorders=recorders, on_result=display.result, playback=playback,
            resuming=resuming,
            decisions=decisions,
        ):  # fmt: skip
            display.lap(summary)
    return summary


@contextlib.contextmanager
def open_service(run: RunOptions, engine: Engine | None = None) -> Iterator[tuple[ResultQueue, Engine]]:
    """The queue that results go to and the engine that makes them; `engine` where it is open already."""
    config = run.config
    with contextlib.ExitStack() as stack:
        queue = stack.enter_context(contextlib.closing(open_queue(config.queue.url, config.queue)))
        yield queue, engine or stack.enter_context(open_engine(config, address=run.address))


def exit_code(summary: RunSummary) -> int:
    """0, 3 if messages or frames were lost, 1 if the run was interrupted."""
    if summary.end.reason != "completed":
        return EXIT_FAILED
    return EXIT_LOSSES if any(summary.dropped[cause.value] for cause in LOSSES) else EXIT_DONE


@contextlib.contextmanager
def _open_state(run: RunOptions, folder: Path | None) -> Iterator[Resuming | None]:
    """The state of the run, locked against other processes."""
    if folder is None:
        yield None
        return
    if run.record or run.pictures:
        raise UsageError("--resume goes with neither --record nor --pictures: a recording cannot be gone on with")
    with contextlib.closing(RunFolder(folder)) as state:
        yield Resuming(folder=state, within_s=run.config.runtime.resume_within_s, clock=SystemClock())


@contextlib.contextmanager
def _open_recorders(source: Source, run: RunOptions, video: Path | None) -> Iterator[list[Recorder]]:
    """Whatever writes down the run, closed in the end even where one cannot be opened."""
    recorders: list[Recorder] = []
    with contextlib.ExitStack() as stack:
        if run.record:
            recorders.append(stack.enter_context(contextlib.closing(open_recorder(run.record, source, run.rotation))))
        if video:
            frame_rate = _frame_rate(source.label_times_ns)
            recorders.append(stack.enter_context(contextlib.closing(VideoFile(source, video, frames_per_s=frame_rate))))
        if run.pictures:
            folder = PictureFolder(source, run.pictures, every=PICTURE_EVERY)
            recorders.append(stack.enter_context(contextlib.closing(folder)))
        if run.publish_sensors:
            channel = open_sensor_channel(run.config.queue.url, run.config.queue)
            recorders.append(stack.enter_context(contextlib.closing(SensorPublisher(source, channel))))
        yield recorders


def _frame_rate(times_ns: tuple[int, ...]) -> float:
    """Reference times a second, so that a video plays at the pace of the world."""
    return (len(times_ns) - 1) * 1e9 / (times_ns[-1] - times_ns[0]) if len(times_ns) > 1 else 10.0


def _await_consumer(queue: ResultQueue, display: ReplayDisplay) -> None:
    """Wait until somebody is subscribed. Raises QueueError after five minutes."""
    display.note("waiting for a consumer")
    deadline = time.monotonic() + CONSUMER_TIMEOUT_S
    while not queue.has_consumer():
        if time.monotonic() > deadline:
            raise QueueError(
                f"no consumer attached within {CONSUMER_TIMEOUT_S:.0f} s; start one with `perception consume`"
            )
        time.sleep(0.05)
