"""Right of way along a route, and what the navigation says on the way."""

import itertools

import numpy as np
import pytest

from perception.core.geometry import se3_from_yaw
from perception.core.messages import Command, Signal
from sim.maps.catalog import load_map, map_names
from sim.navigation import ERROR_M, route_command
from sim.right_of_way import junctions_on
from sim.route import EgoRoute, Manoeuvre, StopLine, plan_route
from sim.scene import EgoPose
from tests.unit.sim_situations import StraightWorld


class _OnRoute(StraightWorld):
    """Drives at 10 m/s along 400 m of road: a right turn at 100 m, a light at 250 m."""

    def __init__(self) -> None:
        super().__init__([])
        arc = np.arange(0.0, 401.0)
        self.route = EgoRoute(
            edges=("a", "b"),
            start_lane=0,
            start_m=0.0,
            points_m=np.stack([arc, 0 * arc], axis=1),
            arc_m=arc,
            speed_limit_mps=np.where(arc < 100, 13.9, 8.3),
            lane_width_m=np.full(401, 3.2),
            manoeuvres=(Manoeuvre(arc_m=100.0, end_m=112.0, command=Command.RIGHT),),
            stop_lines=(StopLine(arc_m=250.0, signal="x", link=0),),
        )

    def advance_to(self, time_ns: int) -> None:
        """All is known."""

    def ego_at(self, time_ns: int) -> EgoPose:
        return EgoPose(
            time_ns=time_ns,
            world_SE3_ego=se3_from_yaw(0.0, (time_ns / 1e8, 0.0, 0.0)),
            velocity_mps=np.array([10.0, 0.0]),
            yaw_rate_radps=0.0,
        )

    def ego_arc_m(self, time_ns: int) -> float:
        return time_ns / 1e8

    def next_signal(self, time_ns: int) -> tuple[Signal, float | None]:
        return (Signal.RED, 250.0 - time_ns / 1e8) if time_ns < 25e9 else (Signal.UNKNOWN, None)

    def drivable_at(self, points_m: np.ndarray) -> np.ndarray:
        is_road: np.ndarray = np.abs(points_m[..., 1]) < 3.0
        return is_road

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    ("arc", "command", "limit", "signal", "distance"),
    [
        (20.0, Command.FOLLOW, 13.9, Signal.UNKNOWN, None),
        (60.0, Command.RIGHT, 13.9, Signal.UNKNOWN, 40.0),
        (105.0, Command.RIGHT, 8.3, Signal.UNKNOWN, 0.0),
        (120.0, Command.FOLLOW, 8.3, Signal.UNKNOWN, None),
        (200.0, Command.FOLLOW, 8.3, Signal.RED, 50.0),
        (300.0, Command.FOLLOW, 8.3, Signal.UNKNOWN, None),
    ],
)
def test_the_next_manoeuvre_and_light_are_announced_in_time(
    arc: float, command: Command, limit: float, signal: Signal, distance: float | None
) -> None:
    said = route_command(_OnRoute(), round(arc * 1e8), round(arc * 1e8) + 5)
    assert (said.command, said.signal) == (command, signal)
    assert said.speed_limit_mps == pytest.approx(limit)
    assert said.distance_m == pytest.approx(distance)


def test_the_target_is_the_route_three_seconds_ahead_as_well_as_the_navigation_knows() -> None:
    world = _OnRoute()
    said = [route_command(world, time_ns, time_ns) for time_ns in range(0, 30 * 10**9, 10**8)]
    targets = np.array([one.target_m for one in said])
    error = targets - (30.0, 0.0)  # at 10 m/s along x
    assert np.abs(error).max() <= 2 * ERROR_M
    assert 0.5 * ERROR_M < error.std() < 1.5 * ERROR_M
    assert np.abs(np.diff(error, axis=0)).max() < 0.1  # it wanders, it does not jump
    again = route_command(_OnRoute(), 5 * 10**9, 5 * 10**9)
    np.testing.assert_array_equal(again.target_m, targets[50])


def test_the_target_ends_where_the_route_does() -> None:
    said = route_command(_OnRoute(), 39 * 10**9, 39 * 10**9)
    assert said.target_m is not None
    assert said.target_m[0] == pytest.approx(10.0, abs=2 * ERROR_M)


@pytest.mark.parametrize("name", map_names())
def test_junctions_lie_in_order_between_the_edges_of_a_route(name: str) -> None:
    net = load_map(name)
    route = plan_route(net, 800.0, np.random.default_rng([7, 3]))
    junctions = junctions_on(net, route)
    assert len(junctions) == len(route.edges) - 1
    assert all(j.arc_m <= j.end_m for j in junctions)
    assert all(a.end_m <= b.arc_m for a, b in itertools.pairwise(junctions))
    for line in route.stop_lines:
        assert min(abs(line.arc_m - junction.arc_m) for junction in junctions) < 3.0


def test_minor_roads_give_way_and_main_roads_do_not() -> None:
    net = load_map("town_grid")
    found = set()
    for seed in range(6):
        found |= {j.has_priority for j in junctions_on(net, plan_route(net, 800.0, np.random.default_rng(seed)))}
    assert found == {True, False}
