"""`perception bench recordings`: drives as MCAP, measured."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

LARGE_BYTES = 5 * 10**9
QUICK_BYTES = 10**7


@click.command("recordings")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="DRIVE_DATA",
    help="Folder with pieces of real drives; those that are not there are skipped [default: $DRIVE_DATA].",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.2), default=5.0, show_default=True, help="Of the computed drive."
)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="How often each file is read.")
@click.option("--large", is_flag=True, help="Also write, read and delete a file of 5 GB.")
@click.option("--quick", is_flag=True, help="A short computed drive, a small large file, no real ones.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write files [default: a temporary folder].")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch [default: all cores].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def bench_recordings_command(
    *,
    data: Path | None,
    seconds: float,
    rounds: int,
    large: bool,
    quick: bool,
    folder: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Drives as MCAP: sizes, time to convert, equal results, speed and memory of reading.

    Reading is compared with the bare `mcap` reader, which hands out the bytes of the same messages, and with `rosbags`
    on a bag of the same drive; in turn, in one run. Results of the recording are compared with those of the drive.
    """
    from perception.config.load import load_service_config
    from perception.evaluation.bench_recordings import RecordingsPlan, bench_recordings
    from perception.pipeline.local_engine import LocalEngine
    from perception.pipeline.stages import open_model

    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    plan = RecordingsPlan(seconds=seconds, rounds=rounds, data=data, large_bytes=LARGE_BYTES * large, folder=folder)
    if quick:
        plan = RecordingsPlan(seconds=0.4, rounds=1, large_bytes=QUICK_BYTES, folder=folder)
    config = load_service_config(None, ())
    with contextlib.closing(LocalEngine(open_model(config.model), threads=threads or os.cpu_count() or 1)) as engine:
        figures = bench_recordings(plan, engine, config)
    if as_json:
        click.echo(json.dumps(figures))
    else:
        _show(figures)


def _show(figures: dict[str, Any]) -> None:
    console = Console()
    table = Table(
        "drive", "files MB", "sensor data MB", "MCAP MB", "messages", "convert s", "frames", "boxes", "results"
    )
    for name, row in figures["drives"].items():
        results = row["results"]
        is_kept = not row["changed_streams"]
        verdict = "equal" if results["is_equal"] and is_kept else f"apart by {results['largest_difference']:.2g}"
        original = "computed" if row["original_bytes"] is None else f"{row['original_bytes'] / 1e6:.1f}"
        table.add_row(
            name, original, f"{row['payload_bytes'] / 1e6:.1f}", f"{row['mcap_bytes'] / 1e6:.1f}",
            str(row["messages"]), f"{row['convert_s']:.2f}", str(results["frames"]), str(results["boxes"]), verdict,
        )  # fmt: skip
    console.print(table)
    for title, kind in (("MCAP drive", "reading"), ("ROS 2 bag", "bags")):
        table = Table(title, "reader", "messages/s", "MB/s", "perception over it", "by CPU time")
        for name, row in figures[kind].items():
            for reader in (key for key, value in row.items() if isinstance(value, dict)):
                ratios = (row.get(f"over {reader}"), row.get(f"over {reader}, CPU time"))
                shown = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
                rates = row[reader]
                table.add_row(name, reader, f"{rates['messages_per_s']:.0f}", f"{rates['mb_per_s']:.0f}", *shown)
        console.print(table)
    if (large := figures["large"]) is not None:
        click.echo(_large(large))
    for name, reason in figures["skipped"].items():
        click.echo(f"skipped {name}: {reason}", err=True)


def _large(figures: dict[str, Any]) -> str:
    return (
        f"a file of {figures['bytes'] / 1e9:.2f} GB, {figures['messages']} messages: written in "
        f"{figures['write_s']:.1f} s, opened in {figures['open_s']:.2f} s, sought to {figures['sought_share']:.0%} in "
        f"{figures['seek_s']:.2f} s, read in {figures['read_s']:.1f} s; memory at its peak "
        f"{figures['peak_mib']:.0f} MiB, {figures['baseline_mib']:.0f} before"
    )
