"""`perception ros2`: a consumer that turns results into messages of ROS 2."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

import click

from perception.cli.consume import DEFAULT_URL, StartType
from perception.config.load import load_service_config
from perception.core.errors import UsageError
from perception.core.ports import Start
from perception.core.results import EndOfRun, PerceptionResult
from perception.queues.open import subscribe


class RosSink(Protocol):
    """Takes results as ROS sees them: a bag or a network."""

    def write(self, result: PerceptionResult) -> None: ...

    def close(self) -> None: ...


@click.command()
@click.argument("url", default=DEFAULT_URL)
@click.option("--bag", type=click.Path(path_type=Path), help="Write a bag (MCAP) to this new folder.")
@click.option("--zenoh", "endpoint", metavar="ENDPOINT", help="Publish to the rmw_zenoh router at tcp/HOST:PORT.")
@click.option(
    "--domain", type=click.IntRange(0, 232), default=0, show_default=True, help="ROS_DOMAIN_ID, with --zenoh."
)
@click.option("--from", "start", type=StartType(), default="earliest", show_default=True, help="earliest, latest or N.")
@click.option("--follow", is_flag=True, help="Go on with the next run when one ends.")
@click.option("--config", "config_name", metavar="NAME|FILE", help="Settings: a shipped name or a YAML file.")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Change one setting; repeatable.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Give up after S silent seconds."
)
def ros2(
    url: str,
    *,
    bag: Path | None,
    endpoint: str | None,
    domain: int,
    start: Start,
    follow: bool,
    timeout: float | None,
    config_name: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Turn the results of the queue at URL into messages of ROS 2: vision_msgs, nav_msgs and tf2_msgs.

    No ROS installation is needed. Ends with the run, as `consume` does.
    """
    if bag is None and endpoint is None:
        raise UsageError("nothing to do: name a --bag to write, a --zenoh router to publish to, or both")
    config = load_service_config(config_name, overrides).queue
    written = 0
    with ExitStack() as stack:
        subscription = subscribe(url, start=start, follow=follow, timeout_s=timeout, config=config)
        stack.enter_context(closing(subscription))
        sinks = [stack.enter_context(closing(sink)) for sink in _sinks(bag, endpoint, domain)]
        for item in subscription:
            if isinstance(item, EndOfRun):
                continue
            for sink in sinks:
                sink.write(item)
            written += 1
    click.echo(f"{written} results" + (f" in {bag}" if bag is not None else ""))
    if subscription.gaps:
        click.echo(
            f"{subscription.gaps} results were lost: this consumer was slower than the queue's history", err=True
        )
        click.get_current_context().exit(3)


def _sinks(bag: Path | None, endpoint: str | None, domain: int) -> list[RosSink]:
    # Imported here, as it takes a while.
    from perception.recorders.ros_bag import RosBag
    from perception.recorders.ros_zenoh import RosZenoh

    sinks: list[RosSink] = [] if endpoint is None else [RosZenoh(endpoint, domain=domain)]
    return sinks if bag is None else [*sinks, RosBag(bag)]
