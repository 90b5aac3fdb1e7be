"""`perception diff`: two runs of the same drive, compared."""

import contextlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from perception.cli.drive_part import open_results
from perception.cli.main import EXIT_DONE, EXIT_FAILED
from perception.cli.options import output_options
from perception.core.errors import QueueError, UsageError
from perception.core.results import EndOfRun, PerceptionResult
from perception.evaluation.run_diff import RunDiff, Tolerance, diff_runs

AT_LEAST_0 = click.FloatRange(min=0)
DEFAULT = Tolerance()
HELP = {
    "match_m": "Boxes of one class further apart are two boxes.",
    "position_m": "How far the centre of a box may move.",
    "size_ratio": "By what share a box may grow or shrink.",
    "yaw_rad": "How far a box may turn.",
    "velocity_mps": "How far the velocity of a box may differ.",
    "score": "How far scores may differ.",
    "path_m": "How far the surest path may move.",
    "speed_mps": "How far the target speed may differ.",
    "frames": "How many reference times may be in one run alone.",
}


def tolerance_options(command: Any) -> Any:
    """An option for each number of `Tolerance`; the command gets them by their names."""
    for field in reversed(fields(Tolerance)):
        if field.name in HELP:
            kind = click.IntRange(min=0) if field.name == "frames" else AT_LEAST_0
            command = click.option(
                f"--{field.name.replace('_', '-')}", field.name, type=kind, default=field.default, show_default=True,
                help=HELP[field.name],
            )(command)  # fmt: skip
    return command


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@tolerance_options
@click.option("--sync/--no-sync", default=True, help="Whether both must have used the same messages [default].")
@output_options
@click.pass_context
def diff(ctx: click.Context, /, *, first: Path, second: Path, as_json: bool, quiet: bool, **limits: Any) -> None:
    """Compare the results in FIRST and SECOND, two .mcap files of runs of the same drive.

    They come from `perception replay DRIVE --queue mcap:FILE` or `--record FILE.mcap`. Boxes are matched by class and
    distance; what moved, what came and went, other tracks, other paths, other messages used, and latency (reported, not
    judged) are told. Exit codes: 0 the same within the tolerance, 1 not the same, 2 cannot be compared.
    """
    found = diff_runs(_results(first), _results(second), Tolerance(**limits))
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    elif not quiet:
        _show(found)
    ctx.exit(EXIT_DONE if found.is_same else EXIT_FAILED)


def _results(path: Path) -> list[PerceptionResult]:
    """The first run in a file, to where it ends. Raises UsageError where there is none to compare."""
    results: list[PerceptionResult] = []
    try:
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        with contextlib.closing(open_results(path)) as subscription:
            try:
                results.extend(item for item in subscription if not isinstance(item, EndOfRun))
            except QueueError as error:
                if not results:
                    raise
                click.echo(f"note: {path}: compared to where it breaks off, {len(results)} results ({error})", err=True)
    except QueueError as error:
        raise UsageError(f"{path}: {error}") from error
    if not results:
        raise UsageError(f"{path}: it holds no results; replay with `--queue mcap:FILE` or `--record FILE.mcap`")
    return results


def _show(found: RunDiff) -> None:
    for note in found.notes:
        click.echo(f"not the same to begin with: {note}")
    click.echo(
        f"{found.frames} frames in both, {found.missing} in the first alone, {found.added} in the second alone; "
        f"{found.boxes} boxes in both, {found.lost} lost, {found.gained} gained; "
        f"{found.identity_changes} boxes with another track"
    )
    table = Table("difference", "mean", "p99", "largest", "tolerated")
    for name, spread in found.spreads.items():
        mark = "" if spread.is_within else " !"
        table.add_row(
            name, f"{spread.mean:.4f}", f"{spread.p99:.4f}", f"{spread.largest:.4f}{mark}", f"{spread.limit:g}"
        )
    Console().print(table)
    for name, count in found.sync_changes.items():
        click.echo(f"{name}: another message was used in {count} frames")
    (p50, p99), (p50_then, p99_then) = found.latency_ms["first"], found.latency_ms["second"]
    click.echo(f"latency p50 {p50:.1f} ms, then {p50_then:.1f} ms; p99 {p99:.1f} ms, then {p99_then:.1f} ms")
    click.echo("the same within the tolerance" if found.is_same else f"not the same: {'; '.join(found.beyond)}")
