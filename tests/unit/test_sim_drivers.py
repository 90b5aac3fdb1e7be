"""The drivers on a straight road and in a bend: keeping the lane, stopping, yielding, braking."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from perception.core.errors import ConfigError
from perception.core.geometry import se3_from_yaw
from perception.core.messages import Signal
from perception.core.motion import MotionSource
from perception.core.results import Detections, PathHints, PerceptionResult, Provenance
from sim.drivers import ConstantDriver, HintsDriver, make_driver
from sim.ego import DriveTarget
from sim.obstacles import overlaps
from sim.oracle import OracleDriver
from sim.situation import Ahead, Heard, Situation
from tests.unit.sim_situations import LIMIT_MPS, OPEN_ROAD, SPEC, Actor, bend, ego, run, situation, straight


def _touches(seen: list[Situation]) -> bool:
    return any(overlaps(s.state.footprint_m(SPEC), s.obstacles.corners_m()).any() for s in seen if len(s.obstacles))


def test_oracle_holds_the_lane_and_the_limit_in_a_bend() -> None:
    seen = run(OracleDriver(), bend(), ego(10.0), 14.0)
    assert max(abs(s.offset_m) for s in seen) < 0.35
    assert max(s.state.speed_mps for s in seen) <= LIMIT_MPS + 0.1
    lateral = [s.state.speed_mps * abs(s.state.yaw_rate_radps(SPEC)) for s in seen]
    assert max(lateral) < 2.8
    assert 100.0 < seen[-1].s_m < bend().length_m


@pytest.mark.parametrize(("offset", "heading", "speed"), [(2.0, 0.0, 8.0), (-1.5, 0.3, 12.0), (0.0, -0.4, 3.0)])
def test_oracle_comes_back_from_off_its_path(offset: float, heading: float, speed: float) -> None:
    seen = run(OracleDriver(), straight(), ego(speed, y=offset, yaw=heading), 12.0)
    assert abs(seen[-1].offset_m) < 0.1
    after = [s.offset_m for s in seen[80:]]
    assert max(map(abs, after)) < 1.0


def test_oracle_stops_behind_a_standing_car_and_follows_a_slow_one() -> None:
    stopped = run(OracleDriver(), straight(), ego(13.0), 20.0, [(1, "car", 120.0, 0.0, 0.0, 0.0)])
    gap = 120.0 - 2.25 - (stopped[-1].state.x_m + SPEC.front_m)
    assert stopped[-1].state.speed_mps < 0.05
    assert 1.0 < gap < 6.0
    following = run(OracleDriver(), straight(), ego(13.0), 20.0, [(1, "car", 60.0, 0.0, 0.0, 6.0)])
    assert abs(following[-1].state.speed_mps - 6.0) < 0.5
    assert not _touches(stopped + following)


def test_oracle_stops_before_a_red_light_and_passes_a_green_one() -> None:
    red = run(OracleDriver(), straight(), ego(13.0), 20.0, line_m=100.0, ahead=Ahead(signal=Signal.RED))
    room = 100.0 - SPEC.front_m - red[-1].state.x_m
    assert red[-1].state.speed_mps < 0.05
    assert 0.2 < room < 3.0
    green = run(OracleDriver(), straight(), ego(13.0), 10.0, line_m=100.0, ahead=Ahead(signal=Signal.GREEN))
    assert green[-1].state.x_m > 120.0


def test_oracle_passes_a_yellow_light_that_it_cannot_stop_for() -> None:
    late = situation(ego(13.0), straight(), ahead=Ahead(signal=Signal.YELLOW, line_m=SPEC.front_m + 12.0))
    early = situation(ego(13.0), straight(), ahead=Ahead(signal=Signal.YELLOW, line_m=SPEC.front_m + 45.0))
    assert OracleDriver().act(late).acceleration_mps2 > -0.5
    assert OracleDriver().act(early).acceleration_mps2 < -0.5


@pytest.mark.parametrize("start_x", [45.0, 55.0, 65.0, 80.0, 100.0])
@pytest.mark.parametrize("kind", ["pedestrian", "car"])
def test_oracle_yields_to_who_crosses(start_x: float, kind: str) -> None:
    speed = 1.4 if kind == "pedestrian" else 9.0
    actors = [(1, kind, start_x, -speed * 4.0, math.pi / 2, speed)]
    seen = run(OracleDriver(), straight(), ego(12.0), 15.0, actors, ahead=Ahead(has_priority=False))
    assert not _touches(seen)
    assert seen[-1].state.x_m > start_x


def test_oracle_keeps_its_right_of_way_while_others_can_still_yield() -> None:
    actors = [(1, "car", 60.0, -60.0, math.pi / 2, 8.0)]
    first = situation(ego(12.0), straight(), actors, Ahead(has_priority=True))
    yielding = situation(ego(12.0), straight(), actors, Ahead(has_priority=False))
    assert OracleDriver().act(first).acceleration_mps2 > 0.0
    assert OracleDriver().act(yielding).acceleration_mps2 <= OracleDriver().act(first).acceleration_mps2


def test_oracle_ignores_who_follows_behind_and_who_comes_on_the_other_lane() -> None:
    others = [(1, "car", -12.0, 0.0, 0.0, 16.0), (2, "car", 50.0, 3.2, math.pi, 12.0), (3, "car", 8.0, -3.2, 0.0, 12.0)]
    alone = OracleDriver().act(situation(ego(12.0), straight()))
    among = OracleDriver().act(situation(ego(12.0), straight(), others))
    assert among == alone


def test_constant_drives_straight_on_through_a_bend() -> None:
    seen = run(ConstantDriver(), bend(), ego(9.0), 10.0)
    assert abs(seen[-1].state.y_m) < 1e-6
    assert abs(seen[-1].state.speed_mps - 9.0) < 1e-6


def _heard(waypoints: np.ndarray, speed: float, boxes: tuple[tuple[float, float], ...] = ()) -> Heard:
    n = len(boxes)
    detections = Detections(
        class_index=np.zeros(n, dtype=np.int64),
        score=np.full(n, 0.9, dtype=np.float32),
        center_m=np.array([[x, y, 0.8] for x, y in boxes], dtype=np.float32).reshape(n, 3),
        size_m=np.tile(np.array([4.5, 1.8, 1.5], dtype=np.float32), (n, 1)),
        yaw_rad=np.zeros(n, dtype=np.float32),
        velocity_mps=np.zeros((n, 2), dtype=np.float32),
        attribute_index=np.full(n, -1, dtype=np.int64),
        track_id=np.arange(n, dtype=np.int64),
    )
    wrong = np.stack([np.zeros(6), -np.arange(1.0, 7.0) * 5], axis=1)
    hints = PathHints(
        confidence=np.array([0.7, 0.3], dtype=np.float32),
        waypoints_m=np.stack([waypoints, wrong]).astype(np.float32),
        times_s=np.arange(1, 7, dtype=np.float32) * 0.5,
        target_speed_mps=speed,
    )
    result = PerceptionResult(
        drive_id="d",
        run_id="r",
        sequence=0,
        reference_ns=0,
        published_ns=0,
        detections=detections,
        path_hints=hints,
        sensors=(),
        world_SE3_ego=None,
        provenance=Provenance(
            model="test",
            model_hash="0",
            trained=False,
            calibration_hash="0",
            ego_motion=MotionSource.NONE,
            placement="local",
            deadline_slack_ns=0,
        ),
    )
    return Heard(result=result, world_SE3_ego=se3_from_yaw(0.5, (10.0, 5.0, 0.0)))


def _hinted(heard: Heard | None, speed: float, time_ns: int = 0) -> Situation:
    return replace(situation(ego(speed, 10.0, 5.0, 0.5, time_ns), straight()), heard=heard)


def test_hints_follow_the_best_mode_at_its_speed() -> None:
    ahead = np.stack([np.arange(1.0, 7.0) * 5, np.zeros(6)], axis=1)
    left = np.stack([10 * np.sin(np.arange(1.0, 7.0) / 4), 10 - 10 * np.cos(np.arange(1.0, 7.0) / 4)], axis=1)
    straight_on = HintsDriver().act(_hinted(_heard(ahead, 10.0), 6.0))
    turning = HintsDriver().act(_hinted(_heard(left, 6.0), 6.0))
    assert abs(straight_on.steer_rad) < 0.02
    assert straight_on.acceleration_mps2 > 0.5
    assert 0.7 < turning.steer_rad / math.atan(SPEC.wheelbase_m / 10.0) < 1.3


def test_hints_brake_for_a_detection_on_the_path_only() -> None:
    ahead = np.stack([np.arange(1.0, 7.0) * 5, np.zeros(6)], axis=1)
    on_path = HintsDriver().act(_hinted(_heard(ahead, 10.0, ((18.0, 0.0),)), 10.0))
    beside = HintsDriver().act(_hinted(_heard(ahead, 10.0, ((18.0, 4.0),)), 10.0))
    assert on_path.acceleration_mps2 == -SPEC.max_deceleration_mps2
    assert beside.acceleration_mps2 > -0.5


@pytest.mark.parametrize("side", [-1, 1])
def test_hints_pass_who_stands_close_beside_the_path_with_room_between(side: int) -> None:
    ahead = np.stack([np.arange(1.0, 7.0) * 5, np.zeros(6)], axis=1)
    close = HintsDriver().act(_hinted(_heard(ahead, 10.0, ((14.0, side * 2.0),)), 10.0))
    assert -side * close.steer_rad > 0.01
    assert close.acceleration_mps2 > -0.5


def _standing(heard: Heard, seconds: float, ahead: Ahead = OPEN_ROAD) -> DriveTarget:
    """What the driver does in the end of so long at a standstill."""
    driver, target = HintsDriver(), None
    for step in range(round(seconds * 10) + 1):
        now = _hinted(heard, 0.0, time_ns=round(step * 1e8))
        fresh = replace(heard, result=replace(heard.result, reference_ns=now.state.time_ns))
        target = driver.act(replace(now, heard=fresh, ahead=ahead))
    assert target is not None
    return target


def test_hints_creep_after_a_while_unless_there_is_a_reason_to_stand() -> None:
    """Two modes: the surest stays where it is, the other goes to the right."""
    here = _heard(np.zeros((6, 2)), 0.0)
    assert _standing(here, 3.0).acceleration_mps2 < 0
    creeping = _standing(here, 6.0)
    assert creeping.acceleration_mps2 > 0
    assert creeping.steer_rad < 0
    assert _standing(here, 6.0, Ahead(signal=Signal.RED, line_m=8.0)).acceleration_mps2 < 0
    assert _standing(here, 6.0, Ahead(signal=Signal.RED, line_m=80.0)).acceleration_mps2 > 0
    blocked = _heard(np.zeros((6, 2)), 0.0, ((0.3, -7.0),))
    assert _standing(blocked, 6.0).acceleration_mps2 == -SPEC.max_deceleration_mps2


def test_hints_creep_along_a_mode_that_is_free() -> None:
    ahead = np.stack([np.arange(1.0, 7.0), np.zeros(6)], axis=1)
    assert _standing(_heard(ahead, 0.0), 6.0).steer_rad == pytest.approx(0.0, abs=0.02)
    around = _standing(_heard(ahead, 0.0, ((6.5, 0.0),)), 6.0)
    assert around.acceleration_mps2 > 0
    assert around.steer_rad < -0.1


def test_hints_stop_without_results_and_on_old_ones() -> None:
    ahead = np.stack([np.arange(1.0, 7.0) * 5, np.zeros(6)], axis=1)
    assert HintsDriver().act(_hinted(None, 8.0)).acceleration_mps2 == -SPEC.comfort_deceleration_mps2
    old = HintsDriver().act(_hinted(_heard(ahead, 10.0), 8.0, time_ns=1_500_000_000))
    assert old.acceleration_mps2 == -SPEC.comfort_deceleration_mps2


def test_an_unknown_driver_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="oracle, hints, constant"):
        make_driver("nobody")


def test_oracle_passes_close_beside_who_stands_with_room_between() -> None:
    close: list[Actor] = [(1, "car", 60.0, -1.95, 0.0, 0.0), (2, "pedestrian", 90.0, 1.35, 0.0, 0.0)]
    seen = run(OracleDriver(), straight(), ego(10.0), 14.0, close)
    assert not _touches(seen)
    assert seen[-1].s_m > 100.0
    assert max(s.offset_m for s in seen if 55 < s.s_m < 60) > 0.15
    assert min(s.offset_m for s in seen if 84 < s.s_m < 90) < -0.1


def test_oracle_waits_before_a_junction_until_it_can_leave_it() -> None:
    def at_line(actors: Sequence[Actor], priority: bool) -> float:
        ahead = Ahead(has_priority=priority, enter_m=SPEC.front_m + 12.0, leave_m=SPEC.front_m + 27.0)
        return OracleDriver().act(situation(ego(6.0), straight(), actors, ahead)).acceleration_mps2

    blocked: list[Actor] = [(1, "car", SPEC.front_m + 32.0, 0.0, 0.0, 0.2)]
    moving: list[Actor] = [(1, "car", SPEC.front_m + 32.0, 0.0, 0.0, 9.0)]
    crossing: list[Actor] = [(1, "car", SPEC.front_m + 20.0, -22.0, math.pi / 2, 8.0)]
    assert at_line(blocked, True) < -0.5 < at_line(moving, True)
    assert at_line(crossing, False) < -0.5 < at_line([], False)
