"""The score against drives whose figures are known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from perception.core.messages import Signal
from sim.obstacles import overlaps
from sim.score import RouteScore, ScoreKeeper, passed_red, summary, table, time_gap, to_json
from sim.situation import Ahead, Situation
from tests.unit.sim_situations import SPEC, Actor, bend, ego, moved, situation, straight


def _drive(speeds: list[float], actors: list[Actor], off_road_from: float = math.inf) -> ScoreKeeper:
    keeper, x = ScoreKeeper("test", "oracle", 7), 0.0
    for i, speed in enumerate(speeds):
        state = replace(ego(speed, x=x), time_ns=i * 100_000_000)
        keeper.observe(situation(state, straight(), moved(actors, i * 0.1)), is_off_road=x >= off_road_from)
        x += speed * 0.1
    return keeper


def test_steady_drive_scores_its_distance_and_nothing_else() -> None:
    score = _drive([10.0] * 101, []).finish(goal_m=200.0, finished=False)
    assert math.isclose(score.driven_m, 100.0, abs_tol=0.01)
    assert math.isclose(score.completion, 0.5, abs_tol=1e-3)
    assert math.isclose(score.mean_speed_mps, 10.0, abs_tol=0.01)
    assert (score.collisions, score.red_lights, score.off_road_s, score.min_time_gap_s) == (0, 0, 0.0, None)
    assert score.jerk_mps3 < 1e-6


def test_one_actor_is_one_collision_however_long_it_touches() -> None:
    score = _drive([5.0] * 40, [(1, "car", 12.0, 0.5, 0.3, 0.0)]).finish(100.0, finished=False)
    assert (score.collisions, score.collisions_at_fault) == (1, 1)


def test_who_is_run_into_from_behind_is_not_at_fault() -> None:
    score = _drive([2.0] * 40, [(1, "car", -20.0, 0.0, 0.0, 12.0)]).finish(100.0, finished=False)
    assert (score.collisions, score.collisions_at_fault) == (1, 0)


def test_off_road_time_counts_from_where_the_road_ends() -> None:
    score = _drive([10.0] * 51, [], off_road_from=29.9).finish(100.0, finished=False)
    assert math.isclose(score.off_road_s, 2.1, abs_tol=0.11)


def test_braking_shows_in_deceleration_and_jerk() -> None:
    speeds = [10.0] * 20 + [10.0 - 0.4 * i for i in range(20)] + [2.4] * 20
    score = _drive(speeds, []).finish(100.0, finished=True)
    assert math.isclose(score.max_deceleration_mps2, 4.0, abs_tol=0.05)
    assert 0.5 < score.jerk_mps3 < 8.0
    assert score.completion == 1.0


def test_time_gap_is_the_room_ahead_over_the_speed() -> None:
    ahead: list[Actor] = [(1, "car", SPEC.front_m + 20.0 + 2.25, 0.0, 0.0, 0.0), (2, "car", 15.0, 3.5, 0.0, 0.0)]
    gap = time_gap(situation(ego(10.0), straight(), ahead))
    assert gap is not None
    assert math.isclose(gap, 2.0, abs_tol=0.06)
    assert time_gap(situation(ego(10.0), straight(), ahead[1:])) is None
    assert time_gap(situation(ego(0.5), straight(), ahead)) is None


def _at(x: float, signal: Signal, line_at: float) -> Situation:
    return situation(ego(10.0, x=x), straight(), ahead=Ahead(signal=signal, line_m=line_at - x))


def test_red_light_is_run_by_the_front_bumper_at_red_only() -> None:
    line = 50.0 + SPEC.front_m
    assert passed_red(_at(49.5, Signal.RED, line), _at(50.5, Signal.RED, 150.0))
    assert not passed_red(_at(49.5, Signal.GREEN, line), _at(50.5, Signal.GREEN, 150.0))
    assert not passed_red(_at(48.0, Signal.RED, line), _at(49.0, Signal.RED, line))
    assert not passed_red(_at(50.5, Signal.RED, line), _at(51.5, Signal.RED, line))


def test_lateral_acceleration_is_speed_squared_by_radius() -> None:
    keeper = ScoreKeeper("bend", "oracle", 1)
    steer = math.atan(SPEC.wheelbase_m / 20.0)
    for i in range(5):
        state = replace(ego(6.0, x=i * 0.6), steer_rad=steer, time_ns=i * 100_000_000)
        keeper.observe(situation(state, bend()), is_off_road=False)
    assert math.isclose(keeper.finish(100.0, finished=False).max_lateral_mps2, 36.0 / 20.0, rel_tol=1e-6)


def test_rectangles_touch_only_where_no_axis_separates_them() -> None:
    own = ego().footprint_m(SPEC)
    corner = own[0]
    others = np.array(
        [corner + np.array([[0.5, 0.6], [-0.1, 0.6], [-0.1, -0.1], [0.5, -0.1]]), own + np.array([0.0, 1.9])]
    )
    diamond = corner + np.array([0.62, 0.62]) + 0.8 * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert overlaps(own, others).tolist() == [True, False]
    assert overlaps(own, diamond[None]).tolist() == [False]


def test_json_and_table_carry_every_route_and_the_sums() -> None:
    scores = [_drive([10.0] * 11, []).finish(20.0, finished=False), _drive([10.0] * 21, []).finish(20.0, finished=True)]
    read = json.loads(to_json(scores))
    assert [RouteScore(**row) for row in read["routes"]] == scores
    assert math.isclose(read["summary"]["completion"], 0.75, abs_tol=1e-3)
    assert summary(scores)["collisions"] == 0
    lines = table(scores).splitlines()
    assert len(lines) == 4
    assert "2 routes" in lines[-1]
    assert len({len(line) for line in lines[:3]}) == 1


def test_nothing_observed_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was observed"):
        ScoreKeeper("empty", "oracle", 1).finish(10.0, finished=False)
