"""`perception inspect`: what is in a drive."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from perception.cli.main import EXIT_DONE, EXIT_LOSSES
from perception.core.errors import UsageError
from perception.core.ports import Source
from perception.evaluation.drive_measuring import measure_drives
from perception.evaluation.drive_statistics import DriveStatistics, read_statistics, write_statistics
from perception.evaluation.statistics_plots import draw_statistics
from perception.sources.open import open_drive
from perception.sources.summary import DriveSummary, summarize

SHOWN_ERRORS = 10
PIPE_WIDTH = 160
STATISTICS_SUFFIX = ".json"


@click.command("inspect")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--format", "format_name", help="The drive's format; found out from the path if not given.")
@click.option("--scene", help="Which scene of a data set with several (name or number).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option(
    "--statistics",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Measure what lidars, radars and labels hold, all drives pooled, and write it.",
)
@click.option(
    "--statistics-plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw the statistics of each drive beside the others' (pooled with --statistics). A PATH may be a file that "
    "--statistics wrote.",
)
@click.pass_context
def inspect_drive(
    ctx: click.Context,
    *,
    paths: tuple[str, ...],
    format_name: str | None,
    scene: str | None,
    as_json: bool,
    statistics: Path | None,
    statistics_plot: Path | None,
) -> None:
    """Show the sensors, rates, gaps, labels and calibration of the drive at PATH.

    Ends with exit code 3 if some messages cannot be read. With --statistics or --statistics-plot, several drives can be
    given, and what they hold is measured instead.
    """
    if statistics is not None or statistics_plot is not None:
        if statistics is not None:
            measured = [measure_drives(_opened(paths, format_name, scene), statistics.stem)]
            write_statistics(measured[0], statistics)
        else:
            measured = [_measured(path, format_name, scene) for path in paths]
        if statistics_plot is not None:
            draw_statistics(measured, statistics_plot)
        return
    if len(paths) != 1:
        raise UsageError("give one drive, or --statistics or --statistics-plot for several")
    with contextlib.closing(open_drive(paths[0], format=format_name, scene=scene)) as source:
        summary = summarize(source)
    if as_json:
        click.echo(json.dumps(asdict(summary), indent=2))
    else:
        _show(summary)
    ctx.exit(EXIT_LOSSES if summary.errors else EXIT_DONE)


def _opened(paths: tuple[str, ...], format_name: str | None, scene: str | None) -> Iterator[Source]:
    """Each drive, open until the next one is asked for."""
    for path in paths:
        with contextlib.closing(open_drive(path, format=format_name, scene=scene)) as source:
            yield source


def _measured(path: str, format_name: str | None, scene: str | None) -> DriveStatistics:
    if Path(path).suffix == STATISTICS_SUFFIX:
        return read_statistics(Path(path))
    return measure_drives(_opened((path,), format_name, scene), Path(path).name)


def _show(summary: DriveSummary) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    poses = f"{summary.poses} ego states" if summary.poses else "no ego states"
    console.print(f"[bold]{summary.drive_id}[/]  {summary.duration_s:.2f} s, {poses}, rig {summary.calibration_hash}")
    table = Table(box=SIMPLE_HEAD)
    for heading in ("sensor", "kind", "messages", "Hz", "jitter ms", "gaps", "mean size", "position m", "optics"):
        table.add_column(heading, no_wrap=True)
    for sensor in summary.sensors:
        unreadable = f" (+{sensor.unreadable} unreadable)" if sensor.unreadable else ""
        gaps = f"{sensor.gaps} (to {sensor.longest_gap_s:.2f} s)" if sensor.longest_gap_s else "0"
        unit = "KB" if sensor.modality == "camera" else "points"
        size = sensor.elements / 1000 if unit == "KB" else sensor.elements
        position = ", ".join(f"{value:.2f}" for value in sensor.position_m or ())
        table.add_row(
            sensor.name,
            sensor.modality,
            f"{sensor.count}{unreadable}",
            f"{sensor.frequency_hz:.1f}",
            f"{sensor.jitter_ms:.1f}",
            gaps,
            f"{size:.0f} {unit}",
            position,
            sensor.optics or "",
        )
    console.print(table)
    counts = ", ".join(f"{name} {count}" for name, count in summary.label_counts.items()) or "none"
    console.print(f"labels at {summary.labelled_times} times: {counts}")
    for note in summary.notes:
        console.print(f"note: {note}")
    for error in summary.errors[:SHOWN_ERRORS]:
        console.print(f"[red]unreadable[/] {error}")
    if len(summary.errors) > SHOWN_ERRORS:
        console.print(f"... and {len(summary.errors) - SHOWN_ERRORS} more")
