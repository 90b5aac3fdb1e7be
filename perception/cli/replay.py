"""`perception replay`: a drive through the service."""

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import click

from perception.cli.options import RateType
from perception.cli.playback_keys import KEYS, steered_by_keys
from perception.cli.playback_socket import steered_by_socket
from perception.cli.service_run import RunOptions, exit_code, run_options, run_service
from perception.config.schema import ServiceConfig
from perception.core.errors import UsageError
from perception.core.ports import Source
from perception.pipeline.decisions import DecisionBook
from perception.pipeline.playback import Playback
from perception.pipeline.replay import ReplayOptions
from perception.sources.mcap import McapSource, is_drive
from perception.sources.open import open_drive

OWN = "the drive's own"
"""Stands for `--decisions` without a file."""
LIVE_SILENT_AFTER_S = 1.0
"""Live: an engine process that hangs is to be replaced within two seconds."""


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
@click.option("--control", type=click.Path(path_type=Path), metavar="SOCKET", help="Steer by JSON lines on a socket.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep the state of the run in DIR; go on with the run that DIR holds, if its process died.",
)
@click.option(
    "--decisions", is_flag=False, flag_value=OWN, metavar="[RUN.mcap]", help="Decide as the live run did that RUN.mcap "
    "records (PATH itself if not given): the same bundles, drops, deadlines and results, at any speed.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Stop at the first message that cannot be read.")
@run_options
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
    control: Path | None,
    resume: Path | None,
    decisions: str | None,
    strict: bool,
    run: RunOptions,
) -> None:
    """Replay the drive at PATH through the service and publish the results.

    PATH is a drive in any supported format, or `synthetic:` for one that is made up on the spot. On a terminal, keys
    steer: space pauses, s steps, [ and ] seek, - and + change the rate, q quits.
    """
    book = None
    if decisions is not None:
        _refuse_with_decisions(live=live, loop=loop, start=start, duration=duration, control=control, resume=resume)
        book = read_decisions(Path(path if decisions == OWN else decisions))
        run = replace(run, config=book.settings(run.config))
        if decisions != OWN:
            start, duration = book.run.start_s, book.run.duration_s
    if reference:
        sync = run.config.sync.model_copy(update={"reference": reference})
        run = replace(run, config=run.config.model_copy(update={"sync": sync}))
    if live:
        rate = 1.0 if math.isinf(rate) else rate
        run = replace(run, config=quick_to_replace(never_waiting(run.config)))
    if resume is not None and control is not None:
        raise UsageError("--resume and --control exclude each other: a run that was steered cannot be gone on with")
    options = ReplayOptions(rate=rate, start_s=start, duration_s=duration, live=live, strict=strict)
    opened = open_drive(path, format=format_name, scene=scene, latency=run.config.latency)
    with contextlib.closing(opened) as source, contextlib.ExitStack() as stack:
        playback = Playback(rate, _seconds_of(source))
        is_own = resume is None and book is None
        steers = is_own and not run.quiet and not run.as_json and stack.enter_context(steered_by_keys(playback))
        if steers:
            click.echo(KEYS, err=True)
        if control is not None:
            stack.enter_context(steered_by_socket(playback, control))
        summary = run_service(
            source,
            run,
            options=options,
            loop=loop,
            playback=playback if steers or control is not None else None,
            resume=resume,
            decisions=book,
        )
    ctx.exit(exit_code(summary))


def read_decisions(path: Path) -> DecisionBook:
    """What the live run recorded in `path` decided. Raises UsageError where that is no recording, DecisionError."""
    if not path.is_file() and not path.is_dir():
        raise UsageError(f"--decisions {path}: no such file")
    if not is_drive(path):
        raise UsageError(f"--decisions {path}: no recording of a run; make one with `--live --record FILE.mcap`")
    with contextlib.closing(McapSource(path)) as recording:
        return DecisionBook.of(str(path), recording.decisions())


def _refuse_with_decisions(
    *, live: bool, loop: bool, start: float, duration: float | None, control: Path | None, resume: Path | None
) -> None:
    asked = {
        "--live": live,
        "--loop": loop,
        "--start": start,
        "--duration": duration,
        "--control": control,
        "--resume": resume,
    }
    for name, value in asked.items():
        if value:
            raise UsageError(f"{name} does not go with --decisions: the recorded run says what is played")


def _seconds_of(source: Source) -> float | None:
    span = source.span_ns
    return None if span is None else (span[1] - span[0]) / 1e9


def quick_to_replace(config: ServiceConfig) -> ServiceConfig:
    """The settings with a spare engine process and less patience with one that hangs, unless they say otherwise."""
    runtime = config.runtime
    wanted = {"standby": True, "silent_after_s": LIVE_SILENT_AFTER_S}
    changes = {name: value for name, value in wanted.items() if name not in runtime.supervision.model_fields_set}
    supervision = runtime.supervision.model_copy(update=changes)
    return config.model_copy(update={"runtime": runtime.model_copy(update={"supervision": supervision})})


def never_waiting(config: ServiceConfig) -> ServiceConfig:
    """The settings with a queue that drops the oldest result rather than wait, unless they say otherwise."""
    if "when_full" in config.queue.model_fields_set:
        return config
    return config.model_copy(update={"queue": config.queue.model_copy(update={"when_full": "drop"})})
