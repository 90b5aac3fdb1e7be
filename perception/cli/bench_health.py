"""`perception bench health`: what it costs to watch the sensors for faults."""

import contextlib
import json
from typing import Any

import click

DRIVE = "sim:tiny,duration_s=10"


@click.command("health")
@click.argument("drive", default=DRIVE)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="The least of so many counts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def bench_health(*, drive: str, rounds: int, as_json: bool) -> None:
    """CPU time a frame that the sensor checks of the service take, on the messages of DRIVE [sim:tiny,duration_s=10].

    One part after the other in one process, without the model; the messages are held in memory.
    """
    from perception.evaluation.health_cost import health_cost
    from perception.sources.open import open_drive

    with contextlib.closing(open_drive(drive)) as source:
        report = {"drive": source.drive_id} | health_cost(list(source.messages()), source.rig, rounds)
    click.echo(json.dumps(report) if as_json else as_table(report))


def as_table(report: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    rows = [f"| {name} | {value:.2f} |" for name, value in report["cpu_ms_per_frame"].items()]
    head = f"{report['drive']}: {report['frames']} frames of {report['sensors']} sensors"
    return "\n".join([head, "", "| looked at | CPU ms a frame |", "|---|---|", *rows])
