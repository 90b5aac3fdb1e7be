"""`perception feed`: a drive's sensors published at their pace, as a vehicle would."""

import contextlib

import click

from perception.cli.options import RateType
from perception.core.clock import ReplayClock
from perception.queues.sensor_stream import SensorStream
from perception.sources.open import open_drive


@click.command()
@click.argument("path")
@click.argument("url")
@click.option("--format", "format_name", help="The drive's format; found out from the path if not given.")
@click.option("--scene", help="Which scene of a data set with several (name or number).")
@click.option("--rate", type=RateType(), default=1.0, show_default=True, help="Multiple of real time, or max.")
@click.option("--laps", type=click.IntRange(min=1), default=1, show_default=True, help="How often to play it.")
def feed(*, path: str, url: str, format_name: str | None, scene: str | None, rate: float, laps: int) -> None:
    """Publish the sensor messages of the drive at PATH to URL (`zenoh:KEY`), at the drive's pace.

    A service whose vehicle has the source `sensors:URL` takes them as those of a vehicle. Times are the drive's own.
    """
    with contextlib.closing(open_drive(path, format=format_name, scene=scene)) as source:
        for _ in range(laps):
            notes = source.notes
            with contextlib.closing(SensorStream(url, source.rig, source.drive_id, notes=notes)) as stream:
                clock: ReplayClock | None = None
                for message in source.messages():
                    clock = clock or ReplayClock(message.arrival_ns, rate)
                    clock.sleep_until(message.arrival_ns)
                    stream.write(message)
