"""Drives routes to their ends: how drivers are scored, without sensors in a blink or with the service in the loop."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from perception.core.messages import AnyMessage
from sim.drivers import make_driver
from sim.held_out import held_out
from sim.loop import EgoLoop, is_off_road
from sim.maps.catalog import load_map, map_names
from sim.scenario import DriverName, ScenarioConfig
from sim.score import RouteScore, ScoreKeeper
from sim.situation import Situation
from sim.source import SteerableSimulator
from sim.world import World

ROUTE_LENGTH_M = 600.0
SLOWEST_MPS = 2.5
"""Mean speed below which a route is given up."""
WAITING_S = 60.0
"""Time for lights on top."""
OBSERVE_NS = 100_000_000
CHECK_NS = 500_000_000


def route_maps(*, is_held_out: bool = False) -> tuple[str, ...]:
    """Shipped maps for routes: those that may be trained on, or those reserved for evaluation."""
    reserved = held_out().maps
    return reserved if is_held_out else tuple(name for name in map_names() if name not in reserved)


def route_scenarios(
    maps: Iterable[str],
    seeds: Iterable[int],
    route_length_m: float = ROUTE_LENGTH_M,
    base: ScenarioConfig | None = None,
) -> list[ScenarioConfig]:
    """Scenarios to score drivers on: `base` in closed loop on every map, for each seed in turn.

    Each has one route of that length, and time for it. Raises ConfigError where a map cannot be read.
    """
    base, maps = base or ScenarioConfig(), tuple(maps)
    for name in maps:
        load_map(name)
    changes = {
        "loop": "lockstep" if base.loop == "open" else base.loop,
        "route_length_m": route_length_m,
        "duration_s": route_length_m / SLOWEST_MPS + WAITING_S,
    }
    return [base.model_copy(update={**changes, "map": name, "seed": seed}) for seed in seeds for name in maps]


def run_route(
    scenario: ScenarioConfig, driver: DriverName | None = None, watch: Callable[[Situation], None] | None = None
) -> RouteScore:
    """Drive a scenario's route until its end, until the ego is lost, or for `duration_s`, with nobody perceiving.

    Houses and trees are left out: nobody looks at them, and they never stand on the road. driver: in place of the
    scenario's. watch: shown each situation. Without results `hints` stands still.
    """
    name = driver or scenario.driver
    bare = scenario.scenery.model_copy(update={"buildings": False, "trees_per_km": 0.0})
    with World(scenario.world.model_copy(update={"scenery": bare})) as world:
        keeper = ScoreKeeper(route_name(scenario), name, scenario.seed)

        def observe(situation: Situation) -> None:
            if situation.state.time_ns % OBSERVE_NS == 0:
                keeper.observe(situation, is_off_road(situation, world.drivable_at))
            if watch is not None:
                watch(situation)

        loop = EgoLoop(world, make_driver(name), scenario.start, observe)
        time_ns, end_ns = 0, round(scenario.duration_s * 1e9)
        while time_ns < end_ns and not loop.is_over:
            time_ns += CHECK_NS
            loop.advance_to(min(time_ns, end_ns))
        return keeper.finish(loop.goal_m, loop.is_finished)


def run_routes(scenarios: Iterable[ScenarioConfig], driver: DriverName | None = None) -> Iterator[RouteScore]:
    """Scores of several routes, one after the other."""
    for scenario in scenarios:
        yield run_route(scenario, driver)


class RouteSource(SteerableSimulator):
    """A scenario whose messages end with its route, or where the ego is lost."""

    def messages(self) -> Iterator[AnyMessage]:
        for message in super().messages():
            yield message
            if self._loop is not None and self._loop.is_over:
                return

    def score(self) -> RouteScore:
        return replace(super().score(), name=route_name(self.scenario))


def route_name(scenario: ScenarioConfig) -> str:
    return f"{scenario.map}/{scenario.seed}"
