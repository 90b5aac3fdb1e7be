"""`perception consume`: a consumer at the end of the queue."""

import click

from perception.config.load import load_service_config
from perception.core.ports import QueueItem, Start
from perception.core.results import EndOfRun
from perception.queues.json_form import to_json
from perception.queues.open import subscribe

DEFAULT_URL = "zenoh:perception/results"


class StartType(click.ParamType[Start]):
    """`earliest`, `latest` or a sequence number."""

    name = "START"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Start:
        if value == "earliest":
            return "earliest"
        if value == "latest":
            return "latest"
        if not str(value).isdecimal():
            self.fail(f"{value!r} is neither earliest, latest nor a sequence number", param, ctx)
        return int(str(value))


@click.command()
@click.argument("url", default=DEFAULT_URL)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--from", "start", type=StartType(), default="earliest", show_default=True, help="earliest, latest or N.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many results.")
@click.option("--follow", is_flag=True, help="Go on with the next run when one ends.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Give up after S silent seconds."
)
def consume(url: str, *, as_json: bool, start: Start, count: int | None, follow: bool, timeout: float | None) -> None:
    """Print the results of the queue at URL until the run ends.

    May be started before or after the producer.
    """
    config = load_service_config().queue
    taken = 0
    subscription = subscribe(url, start=start, follow=follow, timeout_s=timeout, config=config)
    try:
        for item in subscription:
            click.echo(to_json(item) if as_json else describe(item))
            taken += not isinstance(item, EndOfRun)
            if count is not None and taken >= count:
                break
    finally:
        gaps = subscription.gaps
        subscription.close()
    if gaps:
        click.echo(f"{gaps} results were lost: this consumer was slower than the queue's history", err=True)
        click.get_current_context().exit(3)


def describe(item: QueueItem) -> str:
    """One result as a line for people."""
    if isinstance(item, EndOfRun):
        return f"end of run {item.run_id}: {item.count} results, {item.reason}"
    missing = [status.name for status in item.sensors if not status.present]
    tracks = sum(1 for detection in item.detections if detection.track_id is not None)
    best = item.path_hints.waypoints_m[0, -1] if len(item.path_hints.confidence) else (0.0, 0.0)
    return (
        f"{item.drive_id} #{item.sequence} at {item.reference_ns}: {len(item.detections)} detections, "
        f"{tracks} tracked; best path ends at ({best[0]:.1f}, {best[1]:.1f}) m"
        + (f"; missing {', '.join(missing)}" if missing else "")
    )
