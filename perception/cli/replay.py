"""`perception replay`: a drive through the service."""

import contextlib
import math
import time
from pathlib import Path

import click

from perception.cli.display import ReplayDisplay, open_display
from perception.cli.main import EXIT_DONE, EXIT_FAILED, EXIT_LOSSES
from perception.cli.options import RateType, output_options, service_config, service_options
from perception.cli.recording import open_recorder
from perception.core.bundle import DropCause
from perception.core.errors import QueueError
from perception.core.ports import Recorder, ResultQueue
from perception.pipeline.laps import replay_laps
from perception.pipeline.replay import ReplayOptions, RunSummary
from perception.queues.open import open_queue
from perception.runtime.engines import open_engine
from perception.sources.open import open_drive
from perception.viewer.sinks import PictureFolder

LOSSES = frozenset({DropCause.UNREADABLE, DropCause.OVERLOAD, DropCause.OVERFLOW, DropCause.LATE})
"""What makes a replay end with exit code 3; images that no reference time wanted are not losses."""
CONSUMER_TIMEOUT_S = 300.0
PICTURE_EVERY = 10


@click.command()
@click.argument("path")
@click.option("--format", "format_name", help="The drive's format; found out from the path if not given.")
@click.option("--scene", help="Which scene of a data set with several (name or number).")
@click.option("--rate", type=RateType(), default="max", show_default=True, help="Multiple of real time, or max.")
@click.option("--loop", is_flag=True, help="Play again and again, each lap as a new run.")
@click.option("--start", type=click.FloatRange(min=0), default=0.0, metavar="S", help="Skip the first S seconds.")
@click.option(
    "--duration", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Stop after S seconds of data."
)
@click.option("--live", is_flag=True, help="As if live: at --rate 1 unless given, late frames are dropped and counted.")
@click.option(
    "--reference", type=click.Choice(["sweeps", "keyframes"]), help="Which lidar sweeps give a result [sweeps]."
)
@click.option("--strict", is_flag=True, help="Stop at the first message that cannot be read.")
@click.option(
    "--record", type=click.Path(path_type=Path), metavar="DIR", help="Write drive and results to a nuScenes root."
)
@click.option("--pictures", type=click.Path(path_type=Path), metavar="DIR", help="Draw every tenth result as a PNG.")
@click.option("--wait-for-consumer", is_flag=True, help="Start when somebody is attached to the queue.")
@service_options
@output_options
@click.pass_context
def replay(
    ctx: click.Context,
    *,
    path: str,
    format_name: str | None,
    scene: str | None,
    rate: float,
    loop: bool,
    start: float,
    duration: float | None,
    live: bool,
    reference: str | None,
    strict: bool,
    record: Path | None,
    pictures: Path | None,
    wait_for_consumer: bool,
    model: str | None,
    queue_url: str | None,
    placement: str | None,
    address: str | None,
    config_name: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Replay the drive at PATH through the service and publish the results.

    PATH is a drive in any supported format, or `synthetic:` for one that is made up on the spot.
    """
    if reference:
        overrides = (*overrides, f"sync.reference={reference}")
    config = service_config(config_name, overrides, model=model, queue_url=queue_url, placement=placement)
    if live and math.isinf(rate):
        rate = 1.0
    options = ReplayOptions(rate=rate, start_s=start, duration_s=duration, live=live, strict=strict)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(
            contextlib.closing(open_drive(path, format=format_name, scene=scene, latency=config.latency))
        )
        display = stack.enter_context(open_display(source, as_json=as_json, quiet=quiet))
        recorders: list[Recorder] = [open_recorder(record, source)] if record else []
        if pictures:
            recorders.append(PictureFolder(source, pictures, every=PICTURE_EVERY))
        for recorder in recorders:
            stack.enter_context(contextlib.closing(recorder))
        queue = stack.enter_context(contextlib.closing(open_queue(config.queue.url, config.queue)))
        engine = stack.enter_context(open_engine(config, address=address))
        display.started(engine, config)
        if wait_for_consumer:
            await_consumer(queue, display)
        summaries = []
        for summary in replay_laps(
            source, engine, queue, config, options=options, loop=loop, recorders=recorders, on_result=display.result
        ):
            display.lap(summary)
            summaries = [summary]
    ctx.exit(exit_code(summaries[0]))


def await_consumer(queue: ResultQueue, display: ReplayDisplay) -> None:
    """Wait until somebody is subscribed. Raises QueueError after five minutes."""
    display.note("waiting for a consumer")
    deadline = time.monotonic() + CONSUMER_TIMEOUT_S
    while not queue.has_consumer():
        if time.monotonic() > deadline:
            raise QueueError(
                f"no consumer attached within {CONSUMER_TIMEOUT_S:.0f} s; start one with `perception consume`"
            )
        time.sleep(0.05)


def exit_code(summary: RunSummary) -> int:
    """0, 3 if messages or frames were lost, 1 if the run was interrupted."""
    if summary.end.reason != "completed":
        return EXIT_FAILED
    return EXIT_LOSSES if any(summary.dropped[cause.value] for cause in LOSSES) else EXIT_DONE
