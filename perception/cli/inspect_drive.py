"""`perception inspect`: what is in a drive."""

import contextlib
import json
from dataclasses import asdict

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from perception.cli.main import EXIT_DONE, EXIT_LOSSES
from perception.sources.open import open_drive
from perception.sources.summary import DriveSummary, summarize

SHOWN_ERRORS = 10
PIPE_WIDTH = 160


@click.command("inspect")
@click.argument("path")
@click.option("--format", "format_name", help="The drive's format; found out from the path if not given.")
@click.option("--scene", help="Which scene of a data set with several (name or number).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def inspect_drive(ctx: click.Context, *, path: str, format_name: str | None, scene: str | None, as_json: bool) -> None:
    """Show the sensors, rates, gaps, labels and calibration of the drive at PATH.

    Ends with exit code 3 if some messages cannot be read.
    """
    with contextlib.closing(open_drive(path, format=format_name, scene=scene)) as source:
        summary = summarize(source)
    if as_json:
        click.echo(json.dumps(asdict(summary), indent=2))
    else:
        _show(summary)
    ctx.exit(EXIT_LOSSES if summary.errors else EXIT_DONE)


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
