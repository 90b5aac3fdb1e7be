"""`perception sim --routes`: how well a driver drives seeded routes."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click

from perception.cli.display import describe
from perception.cli.service_run import RunOptions, open_service
from perception.config.schema import ServiceConfig
from perception.core.ports import Engine, ResultQueue
from perception.pipeline.laps import replay_laps
from perception.pipeline.replay import ReplayOptions
from sim.held_out import held_out
from sim.routes import ROUTE_LENGTH_M, RouteSource, route_maps, route_scenarios, run_route
from sim.scenario import ScenarioConfig
from sim.score import TABLE_HEAD, RouteScore, table_row, to_json, total_row

Drive = Callable[[ScenarioConfig], RouteScore]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions:
    """Which routes. first_seed: None for 1, or the first that is reserved. duration_s: None for what a route needs."""

    count: int
    maps: tuple[str, ...]
    first_seed: int | None
    duration_s: float | None
    is_held_out: bool


def score_routes(base: ScenarioConfig, routes: RouteOptions, run: RunOptions) -> None:
    """Drive the routes one by one as `base` says (driver, weather, traffic, rig) and print scores as they come.

    With `--json` the table goes to standard error.
    """
    scenarios, scores = planned(base, routes), list[RouteScore]()

    def show(line: str) -> None:
        if not (run.as_json and run.quiet):
            click.echo(line, err=run.as_json)

    with _service_driving(run) if base.driver == "hints" else contextlib.nullcontext(run_route) as drive:
        show(TABLE_HEAD)
        for scenario in scenarios:
            scores.append(drive(scenario))
            show(table_row(scores[-1]))
    if len(scores) > 1:
        show(total_row(scores))
    if run.as_json:
        click.echo(to_json(scores))


def planned(base: ScenarioConfig, routes: RouteOptions) -> list[ScenarioConfig]:
    """`count` scenarios: the first seed on every map, then the next, 600 m each unless `base` says otherwise."""
    maps = routes.maps or route_maps(is_held_out=routes.is_held_out)
    first = routes.first_seed
    if first is None:
        first = held_out().first_seed if routes.is_held_out else 1
    length = base.route_length_m if "route_length_m" in base.model_fields_set else ROUTE_LENGTH_M
    laps = -(-routes.count // len(maps))
    scenarios = route_scenarios(maps, range(first, first + laps), length, base)[: routes.count]
    if routes.duration_s is None:
        return scenarios
    return [scenario.model_copy(update={"duration_s": routes.duration_s}) for scenario in scenarios]


@contextlib.contextmanager
def _service_driving(run: RunOptions) -> Iterator[Drive]:
    """Drives a scenario with the service in the loop, one engine and queue for all."""
    with open_service(run) as (queue, engine):
        if not run.quiet:
            click.echo(describe(engine), err=True)

        yield service_drive(engine, queue, run.config)


def service_drive(engine: Engine, queue: ResultQueue, config: ServiceConfig) -> Drive:
    """Drives a scenario as its driver does with what the service publishes. The drive raises Abort on Ctrl-C."""

    def drive(scenario: ScenarioConfig) -> RouteScore:
        with contextlib.closing(RouteSource(scenario)) as source:
            (summary,) = replay_laps(source, engine, queue, config, options=ReplayOptions())
            if summary.end.reason != "completed":
                raise click.Abort
            return source.score()

    return drive
