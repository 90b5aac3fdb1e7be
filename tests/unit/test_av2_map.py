"""The vector map of an Argoverse 2 log: route commands of the lanes that were followed, drivable areas, bad files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.geometry import se3_from_yaw
from perception.core.messages import Command, RouteCommand
from perception.core.ports import TruthSource
from perception.sources.av2_map import LaneMap, read_map
from perception.sources.av2_route import CHANGE_M, NOTICE_M, Route, followed_lanes, recorded_route
from perception.sources.open import open_drive
from tests.unit.small_av2 import (
    AHEAD,
    APPROACH,
    BESIDE,
    EXIT_AHEAD,
    LEFT,
    SPEED_MPS,
    START_NS,
    WIDTH_M,
    write_log,
    write_map,
)

F64 = NDArray[np.float64]
STEP_NS = 20_000_000
CORNER_M = 60.0


@pytest.fixture(scope="module")
def lane_map(tmp_path_factory: pytest.TempPathFactory) -> LaneMap:
    return read_map(write_map(tmp_path_factory.mktemp("log")))


def _drive(lane_map: LaneMap, points_m: F64) -> Route:
    """Poses 0.2 m apart (10 m/s) along a polyline (N, 2)."""
    steps = np.linalg.norm(np.diff(points_m, axis=0), axis=1)
    arc = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.arange(0.0, arc[-1], SPEED_MPS * STEP_NS / 1e9)
    place = np.stack([np.interp(at, arc, points_m[:, axis]) for axis in (0, 1)], axis=1)
    ahead = np.gradient(place, axis=0)
    yaw = np.arctan2(ahead[:, 1], ahead[:, 0])
    poses = np.stack([se3_from_yaw(float(turn), (x, y, 0.0)) for turn, (x, y) in zip(yaw, place, strict=True)])
    return recorded_route(lane_map, START_NS + np.arange(len(at)) * STEP_NS, poses)


def _around_the_corner(side: float, radius_m: float) -> F64:
    angle = np.linspace(0.0, np.pi / 2, 30)
    bend = np.stack([CORNER_M + radius_m * np.sin(angle), 5.0 + side * radius_m * (1.0 - np.cos(angle))], axis=1)
    return np.concatenate([[[0.0, 5.0]], bend])


@pytest.mark.parametrize(
    ("way", "command"),
    [
        (np.array([[0.0, 5.0], [110.0, 5.0]]), Command.STRAIGHT),
        (_around_the_corner(1.0, 12.0), Command.LEFT),
        (_around_the_corner(-1.0, 6.0), Command.RIGHT),
    ],
)
def test_an_intersection_is_announced_as_it_was_driven(lane_map: LaneMap, way: F64, command: Command) -> None:
    route = _drive(lane_map, way)
    assert [manoeuvre.command for manoeuvre in route.manoeuvres] == [command]
    assert route.manoeuvres[0].begin_m == pytest.approx(CORNER_M, abs=1.5)
    assert route.at(START_NS) == (Command.FOLLOW, None)
    near_ns = START_NS + round((CORNER_M - 20.0) / SPEED_MPS * 1e9)
    announced, distance_m = route.at(near_ns)
    assert announced is command
    assert distance_m == pytest.approx(20.0, abs=1.5)
    assert route.at(near_ns + 2_500_000_000)[1] == 0.0


def test_behind_the_intersection_the_lane_is_followed(lane_map: LaneMap) -> None:
    route = _drive(lane_map, np.array([[0.0, 5.0], [115.0, 5.0]]))
    assert route.at(START_NS + round(90.0 / SPEED_MPS * 1e9)) == (Command.FOLLOW, None)


@pytest.mark.parametrize(("y_m", "command"), [((5.0, 8.5), Command.CHANGE_LEFT), ((8.5, 5.0), Command.CHANGE_RIGHT)])
def test_a_lane_change_is_announced(lane_map: LaneMap, y_m: tuple[float, float], command: Command) -> None:
    route = _drive(lane_map, np.array([[-50.0, y_m[0]], [-10.0, y_m[0]], [20.0, y_m[1]], [50.0, y_m[1]]]))
    assert [manoeuvre.command for manoeuvre in route.manoeuvres] == [command]
    manoeuvre = route.manoeuvres[0]
    assert manoeuvre.begin_m + CHANGE_M / 2 == pytest.approx(55.0, abs=2.0)  # the line lies halfway, at x = 5
    assert route.at(START_NS + round((manoeuvre.begin_m - NOTICE_M / 2) / SPEED_MPS * 1e9))[0] is command


@given(offset_m=st.floats(-1.2, 1.2), seed=st.integers(0, 2**31))
def test_noise_within_a_lane_is_no_change_of_lanes(lane_map: LaneMap, offset_m: float, seed: int) -> None:
    x = np.arange(-40.0, 90.0, 1.0)
    noise = np.random.default_rng(seed).uniform(-0.4, 0.4, len(x))
    lanes = followed_lanes(lane_map, np.stack([x, 5.0 + offset_m + noise], axis=1), np.zeros(len(x)))
    assert list(dict.fromkeys(lanes)) == [APPROACH, AHEAD, EXIT_AHEAD]


def test_oncoming_lanes_and_cycle_lanes_are_not_followed(lane_map: LaneMap) -> None:
    x = np.arange(-40.0, 40.0, 1.0)
    for y_m in (5.0 + 2 * WIDTH_M, 5.0 - WIDTH_M):
        assert set(followed_lanes(lane_map, np.stack([x, np.full(len(x), y_m)], axis=1), np.zeros(len(x)))) == {-1}


def test_a_drive_outside_of_all_lanes_follows(lane_map: LaneMap) -> None:
    route = _drive(lane_map, np.array([[0.0, 500.0], [80.0, 500.0]]))
    assert route.manoeuvres == ()
    assert route.at(START_NS)[0] is Command.FOLLOW


def test_a_standing_ego_has_a_route(lane_map: LaneMap) -> None:
    poses = np.tile(se3_from_yaw(0.0, (40.0, 5.0, 0.0)), (10, 1, 1))
    assert recorded_route(lane_map, START_NS + np.arange(10) * STEP_NS, poses).at(START_NS) == (Command.FOLLOW, None)


def test_lanes_know_what_lies_in_them(lane_map: LaneMap) -> None:
    points = np.array([[0.0, 5.0], [0.0, 6.7], [0.0, 6.8], [70.0, 10.0]])
    assert lane_map.lanes[APPROACH].contains(points).tolist() == [True, True, False, False]
    assert lane_map.lanes[BESIDE].contains(points).tolist() == [False, False, True, False]
    assert lane_map.lanes[LEFT].turn_rad == pytest.approx(np.pi / 2, abs=0.25)


def test_the_source_gives_commands_and_truth(tmp_path: Path) -> None:
    log = write_log(tmp_path)
    write_map(log)
    source = open_drive(str(log))
    assert isinstance(source, TruthSource)
    routes = [message for message in source.messages() if isinstance(message, RouteCommand)]
    assert len(routes) == 5
    assert {route.command for route in routes} == {Command.FOLLOW}
    assert {route.speed_limit_mps for route in routes} == {None}
    path = source.future_path(START_NS, np.array([0.1, 0.2, 0.3]))
    assert path == pytest.approx(np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    with pytest.raises(ValueError, match="poses of the log"):
        source.future_path(START_NS, np.array([1.0]))


def test_drivable_cells_lie_as_the_port_says(tmp_path: Path) -> None:
    """The ego is at y = 5 of a road from y = 0 to y = 14: 9 m to its left, 5 m to its right, 50 m behind."""
    log = write_log(tmp_path)
    write_map(log)
    source = open_drive(str(log))
    assert isinstance(source, TruthSource)
    area = source.drivable(START_NS, 60.0, 1.0)
    assert area.shape == (120, 120)
    across = np.flatnonzero(area[100])  # column 0 is furthest right, at y = -60
    assert (across[0], across[-1]) == (pytest.approx(55, abs=1), pytest.approx(68, abs=1))
    along = np.flatnonzero(area[:, 60])  # row 0 is furthest back, at x = -60
    assert (along[0], along[-1]) == (pytest.approx(10, abs=1), 119)


def test_without_a_map_there_is_no_truth_of_it(tmp_path: Path) -> None:
    source = open_drive(str(write_log(tmp_path)))
    assert not isinstance(source, TruthSource)
    assert not any(isinstance(message, RouteCommand) for message in source.messages())
    assert any("no vector map" in note for note in source.notes)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "no map of a log"),
        (lambda text: "[]", "no map of a log"),
        (lambda text: text.replace('"successors"', '"following"'), "successors"),
        (lambda text: json.dumps(json.loads(text) | {"drivable_areas": {"1": {"area_boundary": []}}}), "0 points"),
        (lambda text: text.replace("-50.0", "1e300"), "no place on a map"),
    ],
)
def test_a_broken_map_is_named(tmp_path: Path, damage: Callable[[str], str], reason: str) -> None:
    log = write_log(tmp_path)
    path = write_map(log)
    path.write_text(damage(path.read_text()))
    with pytest.raises(DriveError, match=reason) as raised:
        open_drive(str(log))
    assert str(path) in str(raised.value)
    assert "move the folder `map` away" in str(raised.value)
