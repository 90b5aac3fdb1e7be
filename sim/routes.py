"""Drives routes without sensors, many times faster than real time: how drivers are scored."""

from collections.abc import Callable, Iterable, Iterator

from sim.drivers import make_driver
from sim.loop import EgoLoop, is_off_road
from sim.scenario import DriverName, ScenarioConfig
from sim.score import RouteScore, ScoreKeeper
from sim.settings import ScenerySettings
from sim.situation import Situation
from sim.world import World

GOAL_M = 15.0
"""A route counts as driven where the ego is this close to its end."""
SLOWEST_MPS = 2.5
"""Mean speed below which a route is given up."""
OBSERVE_NS = 100_000_000
CHECK_NS = 500_000_000


def route_scenarios(maps: Iterable[str], seeds: Iterable[int], route_length_m: float = 600.0) -> list[ScenarioConfig]:
    """Scenarios to score drivers on: one route of that length for each map and seed, with time enough for lights.

    Houses and trees are left out: nobody looks at them, and they never stand on the road.
    """
    bare = ScenerySettings(buildings=False, trees_per_km=0.0)
    duration_s = route_length_m / SLOWEST_MPS + 60.0
    seeds = tuple(seeds)
    return [
        ScenarioConfig(map=name, seed=seed, duration_s=duration_s, route_length_m=route_length_m, scenery=bare)
        for name in maps
        for seed in seeds
    ]


def run_route(
    scenario: ScenarioConfig, driver: DriverName | None = None, watch: Callable[[Situation], None] | None = None
) -> RouteScore:
    """Drive a scenario's route to its end, or for `duration_s`, with nobody perceiving.

    driver: in place of the scenario's. watch: shown each situation. Without results `hints` stands still.
    """
    name = driver or scenario.driver
    with World(scenario.world) as world:
        keeper = ScoreKeeper(f"{scenario.map}/{scenario.seed}", name, scenario.seed)

        def observe(situation: Situation) -> None:
            if situation.state.time_ns % OBSERVE_NS == 0:
                keeper.observe(situation, is_off_road(situation, world.drivable_at))
            if watch is not None:
                watch(situation)

        loop = EgoLoop(world, make_driver(name), scenario.start, observe)
        goal = loop.path.length_m - GOAL_M
        time_ns, end_ns = 0, round(scenario.duration_s * 1e9)
        while time_ns < end_ns and loop.s_m < goal:
            time_ns += CHECK_NS
            loop.advance_to(min(time_ns, end_ns))
        return keeper.finish(goal, finished=loop.s_m >= goal)


def run_routes(scenarios: Iterable[ScenarioConfig], driver: DriverName | None = None) -> Iterator[RouteScore]:
    """Scores of several routes, one after the other."""
    for scenario in scenarios:
        yield run_route(scenario, driver)
