"""The ego's route: connected, smooth, on the road, with limits, turns and stop lines where they belong."""

import cv2
import numpy as np
import pytest

from perception.core.errors import ConfigError
from perception.core.messages import Command
from sim.maps.area import drivable_grid
from sim.maps.catalog import load_map, map_names
from sim.maps.lines import headings
from sim.route import plan_route, trace_route


@pytest.mark.parametrize("name", map_names())
def test_a_route_is_long_smooth_and_on_the_road(name: str) -> None:
    net = load_map(name)
    route = plan_route(net, 1500.0, np.random.default_rng(3))
    assert route.length_m > 1450
    steps = np.linalg.norm(np.diff(route.points_m, axis=0), axis=1)
    assert steps.max() < 1.2
    turn = np.abs(np.diff(np.unwrap(headings(route.points_m))))
    assert turn.max() < 0.45, "a car cannot bend sharper than about 3 m of radius"
    assert drivable_grid(net).contains(route.points_m).mean() > 0.995
    assert (route.speed_limit_mps > 2.0).all()


def test_stop_lines_are_where_lights_are_and_turns_where_the_route_turns() -> None:
    net = load_map("town_grid")
    route = plan_route(net, 6000.0, np.random.default_rng(1))
    assert len(route.stop_lines) > 3
    for line in route.stop_lines:
        point = route.at(np.array([line.arc_m]))[0]
        junction = net.junctions[line.signal]
        outline = junction.shape_m[:, :2].astype(np.float32)
        inside_m = cv2.pointPolygonTest(outline, point.tolist(), True)
        assert abs(inside_m) < 1.0, "the line is at the edge of its junction"
    yaw = np.unwrap(headings(route.points_m))
    for manoeuvre in route.manoeuvres:
        before, after = np.interp([manoeuvre.arc_m - 6, manoeuvre.end_m + 6], route.arc_m, yaw)
        if manoeuvre.command is Command.LEFT:
            assert 0.5 < after - before < 2.6
        elif manoeuvre.command is Command.RIGHT:
            assert -2.6 < after - before < -0.5
    assert {manoeuvre.command for manoeuvre in route.manoeuvres} >= {Command.LEFT, Command.RIGHT, Command.STRAIGHT}


def test_projection_returns_what_it_was_made_from_even_where_the_route_crosses_itself() -> None:
    route = plan_route(load_map("town_grid"), 6000.0, np.random.default_rng(1))
    yaw = headings(route.points_m)
    for arc in np.linspace(20, route.length_m - 20, 60):
        point, heading = route.at(np.array([arc]))[0], np.interp(arc, route.arc_m, np.unwrap(yaw))
        aside = point + 1.2 * np.array([-np.sin(heading), np.cos(heading)])
        found, offset = route.project(aside, near_m=arc + 9.0)
        assert abs(found - arc) < 0.6
        assert abs(offset - 1.2) < 0.1


def test_equal_seeds_plan_equal_routes() -> None:
    net = load_map("arterial")
    one, same, other = (plan_route(net, 2000.0, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert one.edges == same.edges != other.edges


def test_edges_that_do_not_meet_are_refused() -> None:
    net = load_map("town_grid")
    with pytest.raises(ConfigError, match="not connected"):
        trace_route(net, ["n10_n20", "n31_n32"])
