"""How well a route was driven: completion, collisions, off-road, time gaps, comfort and red lights."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import Signal
from sim.obstacles import overlaps
from sim.situation import Situation

F64 = NDArray[np.float64]

MIN_SPEED_MPS = 2.0
"""Time gaps are counted above this speed."""
COMFORT_WINDOW_S = 0.5
"""Jerk is the change of acceleration over this time: what a passenger feels, not a step of the integration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteScore:
    """One drive along one route. completion: driven share of what could be driven, 0..1.

    collisions: actors touched; collisions_at_fault: those the ego drove into while it moved (not: was run into from
    behind or while standing). off_road_s: time with a wheel outside the drivable area. time gaps: to who is ahead, None
    where nobody was. red_lights: stop lines passed at red. jerk: root mean square.
    """

    name: str
    driver: str
    seed: int
    duration_s: float
    route_m: float
    driven_m: float
    completion: float
    finished: bool
    collisions: int
    collisions_at_fault: int
    off_road_s: float
    red_lights: int
    min_time_gap_s: float | None
    mean_time_gap_s: float | None
    jerk_mps3: float
    max_lateral_mps2: float
    max_deceleration_mps2: float
    mean_speed_mps: float
    mean_offset_m: float


class ScoreKeeper:
    """Watches a drive and sums it up; `observe` at a steady rate (10 Hz or more)."""

    def __init__(self, name: str, driver: str, seed: int) -> None:
        self._name, self._driver, self._seed = name, driver, seed
        self._touched: dict[int, bool] = {}
        self._off_road_s = 0.0
        self._red_lights = 0
        self._gaps: list[float] = []
        self._track: list[tuple[float, float, float, float]] = []
        self._first: Situation | None = None
        self._last: Situation | None = None

    def observe(self, situation: Situation, is_off_road: bool) -> None:
        state, last = situation.state, self._last
        if last is not None:
            self._off_road_s += (state.time_ns - last.state.time_ns) / 1e9 if is_off_road else 0.0
            self._red_lights += passed_red(last, situation)
        self._note_contacts(situation)
        if (gap := time_gap(situation)) is not None:
            self._gaps.append(gap)
        lateral = state.speed_mps * state.yaw_rate_radps(situation.spec)
        self._track.append((state.time_ns / 1e9, state.speed_mps, lateral, abs(situation.offset_m)))
        self._first, self._last = self._first or situation, situation

    @property
    def collisions(self) -> int:
        return len(self._touched)

    def finish(self, goal_m: float, finished: bool) -> RouteScore:
        """The score so far; `goal_m` is the arc length at which the route counts as done."""
        if self._first is None or self._last is None:
            raise ValueError("nothing was observed, so there is nothing to score")
        track = np.array(self._track)
        duration = float(track[-1, 0] - track[0, 0])
        driven, route = self._last.s_m - self._first.s_m, max(goal_m - self._first.s_m, 1e-6)
        acceleration = _windowed(track)
        jerk = (
            np.diff(acceleration) / max(float(np.median(np.diff(track[:, 0]))), 1e-6) if len(track) > 2 else np.zeros(1)
        )
        return RouteScore(
            name=self._name,
            driver=self._driver,
            seed=self._seed,
            duration_s=duration,
            route_m=route,
            driven_m=driven,
            completion=1.0 if finished else min(1.0, max(0.0, driven / route)),
            finished=finished,
            collisions=len(self._touched),
            collisions_at_fault=sum(self._touched.values()),
            off_road_s=self._off_road_s,
            red_lights=self._red_lights,
            min_time_gap_s=min(self._gaps, default=None),
            mean_time_gap_s=float(np.mean(self._gaps)) if self._gaps else None,
            jerk_mps3=float(np.sqrt(np.mean(jerk**2))),
            max_lateral_mps2=float(np.abs(track[:, 2]).max()),
            max_deceleration_mps2=max(0.0, -float(acceleration.min(initial=0.0))),
            mean_speed_mps=driven / duration if duration > 0 else 0.0,
            mean_offset_m=float(track[:, 3].mean()),
        )

    def _note_contacts(self, situation: Situation) -> None:
        state, near = situation.state, situation.obstacles.near(_place(situation), 25.0)
        hit = overlaps(state.footprint_m(situation.spec), near.corners_m()) if len(near) else np.zeros(0, dtype=bool)
        forward = np.array([math.cos(state.yaw_rad), math.sin(state.yaw_rad)])
        for k in np.flatnonzero(hit):
            came_from_behind = (near.center_m[k] - _place(situation)) @ forward < 0.0
            actor = int(near.actor_id[k])
            self._touched.setdefault(actor, state.speed_mps > 0.3 and not came_from_behind)


def passed_red(before: Situation, after: Situation) -> bool:
    """Whether the front bumper crossed the stop line of a red light between two observations."""
    front = before.spec.front_m
    room = before.ahead.line_m - front
    moved = after.s_m - before.s_m
    return before.ahead.signal is Signal.RED and 0.0 <= room < moved


def time_gap(situation: Situation) -> float | None:
    """Seconds to the next road user on the ego's lane at the ego's speed, None where there is none or it crawls."""
    state, spec = situation.state, situation.spec
    if state.speed_mps < MIN_SPEED_MPS:
        return None
    stations = np.arange(spec.front_m, spec.front_m + 5.0 * state.speed_mps, 0.5)
    line, _, _ = situation.path.at(situation.s_m + stations)
    near = situation.obstacles.near(_place(situation), float(stations[-1]) + 15.0)
    taken = near.occupied(line, 0.0, np.zeros(1))[:, 0].any(axis=0)
    return float(stations[np.argmax(taken)] - spec.front_m) / state.speed_mps if taken.any() else None


TABLE_HEAD = (
    f"{'route':<28}{'driver':>9}{'done':>7}{'hits':>6}{'fault':>6}{'off s':>7}{'red':>5}{'gap s':>7}{'jerk':>7}"
    f"{'lat':>6}{'m/s':>6}{'m':>7}"
)


def table(scores: Sequence[RouteScore]) -> str:
    """Scores as lines of text below `TABLE_HEAD`; of several, the mean or sum of each column last."""
    lines = [TABLE_HEAD, *map(table_row, scores)]
    return "\n".join([*lines, total_row(scores)] if len(scores) > 1 else lines)


def table_row(score: RouteScore) -> str:
    gap = "-" if score.min_time_gap_s is None else f"{score.min_time_gap_s:.2f}"
    return (
        f"{score.name:<28}{score.driver:>9}{score.completion:>7.1%}{score.collisions:>6}{score.collisions_at_fault:>6}"
        f"{score.off_road_s:>7.1f}{score.red_lights:>5}{gap:>7}{score.jerk_mps3:>7.2f}"
        f"{score.max_lateral_mps2:>6.2f}{score.mean_speed_mps:>6.1f}{score.driven_m:>7.0f}"
    )


def total_row(scores: Sequence[RouteScore]) -> str:
    total = summary(scores)
    return (
        f"{f'{len(scores)} routes':<28}{'':>9}{total['completion']:>7.1%}{total['collisions']:>6.0f}"
        f"{total['collisions_at_fault']:>6.0f}{total['off_road_s']:>7.1f}{total['red_lights']:>5.0f}"
    )


def summary(scores: Sequence[RouteScore]) -> dict[str, float]:
    """Mean completion; sums of what should not happen."""
    summed = ("collisions", "collisions_at_fault", "off_road_s", "red_lights")
    return {
        "routes": float(len(scores)),
        "completion": float(np.mean([score.completion for score in scores])),
        **{name: float(sum(getattr(score, name) for score in scores)) for name in summed},
    }


def to_json(scores: Sequence[RouteScore]) -> str:
    return json.dumps({"summary": summary(scores), "routes": [asdict(score) for score in scores]}, indent=2)


def _place(situation: Situation) -> F64:
    return np.array([situation.state.x_m, situation.state.y_m])


def _windowed(track: F64) -> F64:
    """Acceleration (N,) as the slope of the speed over `COMFORT_WINDOW_S`."""
    time, speed = track[:, 0], track[:, 1]
    low, high = time - COMFORT_WINDOW_S / 2, time + COMFORT_WINDOW_S / 2
    span = np.minimum(high, time[-1]) - np.maximum(low, time[0])
    rise = np.interp(high, time, speed) - np.interp(low, time, speed)
    acceleration: F64 = rise / np.maximum(span, 1e-6)
    return acceleration
