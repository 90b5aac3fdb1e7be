"""`perception consume`: a consumer at the end of the queue."""

import contextlib
from importlib.resources import files

import click

from perception.config.load import load_service_config
from perception.core.ports import QueueItem, Start, Subscription
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


def print_schema(ctx: click.Context, param: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        click.echo(files("perception.queues").joinpath("perception_result.proto").read_text(encoding="utf-8"), nl=False)
        ctx.exit()


@click.command()
@click.argument("url", default=DEFAULT_URL)
@click.option(
    "--schema", is_flag=True, is_eager=True, expose_value=False, callback=print_schema,
    help="Print the .proto of what is on every queue, and exit.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--from", "start", type=StartType(), default="earliest", show_default=True, help="earliest, latest or N.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many results.")
@click.option("--follow", is_flag=True, help="Go on with the next run when one ends.")
@click.option("--group", metavar="NAME", help="Go on where NAME was, and remember; with others of the name, share.")
@click.option(
    "--max-age", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Skip results older than S seconds."
)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Give up after S silent seconds."
)
@click.option("--config", "config_name", metavar="NAME|FILE", help="Settings: a shipped name or a YAML file.")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Change one setting; repeatable.")
def consume(
    url: str,
    *,
    as_json: bool,
    start: Start,
    count: int | None,
    follow: bool,
    group: str | None,
    max_age: float | None,
    timeout: float | None,
    config_name: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Print the results of the queue at URL until the run ends.

    May be started before or after the producer. Passwords and certificates are settings (queue.security), not options.
    """
    config = load_service_config(config_name, overrides).queue
    subscription = subscribe(
        url, start=start, follow=follow, timeout_s=timeout, group=group, max_age_s=max_age, config=config
    )
    with contextlib.closing(subscription):
        print_items(subscription, as_json=as_json, count=count)
    if subscription.stale:
        click.echo(f"{subscription.stale} results were skipped: they were older than {max_age:g} s", err=True)
    if gaps := subscription.gaps:
        click.echo(f"{gaps} results were lost: this consumer was slower than the queue's history", err=True)
        click.get_current_context().exit(3)


def print_items(subscription: Subscription, *, as_json: bool, count: int | None) -> None:
    """Print what comes, up to the end of the run or `count` results."""
    taken = 0
    for item in subscription:
        click.echo(to_json(item) if as_json else describe(item))
        taken += not isinstance(item, EndOfRun)
        if count is not None and taken >= count:
            subscription.acknowledge()
            return


def describe(item: QueueItem) -> str:
    """One result as a line for people."""
    if isinstance(item, EndOfRun):
        return f"end of run {item.run_id}: {item.count} results, {item.reason}"
    faulty = [f"{status.name} {fault.kind}" for status in item.sensors for fault in status.faults]
    missing = [status.name for status in item.sensors if not status.present]
    tracks = sum(1 for detection in item.detections if detection.track_id is not None)
    best = item.path_hints.waypoints_m[0, -1] if len(item.path_hints.confidence) else (0.0, 0.0)
    return (
        f"{item.drive_id} #{item.sequence} at {item.reference_ns}: {len(item.detections)} detections, "
        f"{tracks} tracked; best path ends at ({best[0]:.1f}, {best[1]:.1f}) m"
        + (f"; missing {', '.join(missing)}" if missing else "")
        + (f"; faults: {', '.join(faulty)}" if faulty else "")
    )
