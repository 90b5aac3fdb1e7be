"""What a navigation would have told the driver of a recorded log: by the lanes that its poses follow.

The lanes are the cheapest sequence through the map (Viterbi): near their middles, along their headings, each a
successor of the one before or its neighbour. An intersection is a manoeuvre, turned as its lanes turn; so is a change
of lanes. Announced as the simulator does it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import Command
from perception.sources.av2_map import Lane, LaneMap

F64 = NDArray[np.float64]

NOTICE_S: Final = 5.0
NOTICE_M: Final = 30.0
"""A manoeuvre is announced so long, or so far, before it begins."""
TURN_RAD: Final = np.deg2rad(30.0)
"""Lanes through an intersection that bend by less go straight on."""
CHANGE_M: Final = 40.0
"""Length of a lane change, half of it before the line is crossed."""

_STEP_M = 1.0
_SPEED_NS = 200_000_000
_MIN_COSINE = 0.5
_HEADING_COST, _CHANGE_COST, _OFF_COST, _JUMP_COST = 5.0, 4.0, 4.0, 12.0
"""In metres from the middle of a lane, for 90 degrees; a lane change; a step outside of all lanes; a jump."""
_OFF = -1

Stretch = tuple[float, Lane | None]
"""Where a lane begins along the way, and the lane; None outside of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manoeuvre:
    """What to do from `begin_m` to `end_m` of the driven way."""

    begin_m: float
    end_m: float
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """times_ns (T,) rising; arc_m (T,): how far the ego had come. manoeuvres: in their order."""

    times_ns: NDArray[np.int64]
    arc_m: F64
    manoeuvres: tuple[Manoeuvre, ...]

    def at(self, time_ns: int) -> tuple[Command, float | None]:
        """The command in force, and the distance in metres to the begin of its manoeuvre; None while following."""
        here, before = self._arc_at(time_ns), self._arc_at(time_ns - _SPEED_NS)
        speed_mps = (here - before) / (_SPEED_NS / 1e9)
        coming = next((manoeuvre for manoeuvre in self.manoeuvres if manoeuvre.end_m > here), None)
        if coming is None or coming.begin_m - here >= max(NOTICE_M, NOTICE_S * speed_mps):
            return Command.FOLLOW, None
        return coming.command, max(0.0, coming.begin_m - here)

    def _arc_at(self, time_ns: int) -> float:
        return float(np.interp(time_ns - int(self.times_ns[0]), self.times_ns - self.times_ns[0], self.arc_m))


def recorded_route(lane_map: LaneMap, times_ns: NDArray[np.int64], city_SE3_vehicle: F64) -> Route:
    """The route of a log whose poses (T, 4, 4) were taken at `times_ns` (T,)."""
    places = city_SE3_vehicle[:, :2, 3]
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    stations = np.arange(0.0, arc[-1] + _STEP_M, _STEP_M)
    rows = np.minimum(np.searchsorted(arc, stations), len(arc) - 1)
    heading = np.arctan2(city_SE3_vehicle[rows, 1, 0], city_SE3_vehicle[rows, 0, 0])
    lanes = followed_lanes(lane_map, places[rows], heading)
    return Route(times_ns=times_ns, arc_m=arc, manoeuvres=_manoeuvres(lane_map, lanes, arc[rows]))


def followed_lanes(lane_map: LaneMap, points_m: F64, heading_rad: F64) -> list[int]:
    """The lane at each point (N, 2) of a way with headings (N,); -1 outside of all."""
    costs = _costs(lane_map, points_m, heading_rad)
    best, came_from = costs[0], list[dict[int, int]]()
    for here in costs[1:]:
        total, origin = dict[int, float](), dict[int, int]()
        for lane, cost in here.items():
            reached = {before: known + _step(lane_map, before, lane) for before, known in best.items()}
            origin[lane] = min(reached, key=reached.__getitem__)
            total[lane] = reached[origin[lane]] + cost
        best = total
        came_from.append(origin)
    lanes = [min(best, key=best.__getitem__)]
    for origin in reversed(came_from):
        lanes.append(origin[lanes[-1]])
    return lanes[::-1]


def _costs(lane_map: LaneMap, points_m: F64, heading_rad: F64) -> list[dict[int, float]]:
    """For each point the lanes it may be on, and what that costs; outside of all is always one."""
    costs: list[dict[int, float]] = [{_OFF: _OFF_COST} for _ in points_m]
    for lane_id, lane in lane_map.lanes.items():
        inside = np.flatnonzero(lane.contains(points_m))
        distance, heading = lane.offsets(points_m[inside])
        cosine = np.cos(heading - heading_rad[inside])
        cost = distance + _HEADING_COST * (1.0 - cosine)
        for row in np.flatnonzero(cosine > _MIN_COSINE).tolist():
            costs[inside[row]][lane_id] = float(cost[row])
    return costs


def _step(lane_map: LaneMap, before: int, after: int) -> float:
    """What it costs to go from one lane to another."""
    if before == after:
        return 0.0
    if _OFF in (before, after):
        return _OFF_COST
    lane = lane_map.lanes[before]
    if after in _onward(lane_map, lane):
        return 0.0
    return _CHANGE_COST if _change(lane_map, lane, after) is not None else _JUMP_COST


def _onward(lane_map: LaneMap, lane: Lane) -> set[int]:
    """Successors and, since segments may be shorter than a step, theirs."""
    known = [number for number in lane.successors if number in lane_map.lanes]
    return {*known, *(later for number in known for later in lane_map.lanes[number].successors)}


def _change(lane_map: LaneMap, lane: Lane, after: int) -> Command | None:
    """Which change of lanes leads from `lane` to `after`, None where none does."""
    sides = ((lane.left_neighbour, Command.CHANGE_LEFT), (lane.right_neighbour, Command.CHANGE_RIGHT))
    for number, command in sides:
        neighbour = lane_map.lanes.get(number) if number is not None else None
        if neighbour is not None and after in {neighbour.lane_id, *neighbour.successors}:
            return command
    return None


def _manoeuvres(lane_map: LaneMap, lanes: Sequence[int], arc_m: F64) -> tuple[Manoeuvre, ...]:
    """lanes: at each of `arc_m` (N,)."""
    starts = [0, *(k for k in range(1, len(lanes)) if lanes[k] != lanes[k - 1])]
    stretches = [(float(arc_m[k]), lane_map.lanes.get(lanes[k])) for k in starts]
    found = [*_crossings(stretches), *_changes(lane_map, stretches)]
    return tuple(sorted(found, key=lambda manoeuvre: manoeuvre.begin_m))


def _crossings(stretches: Sequence[Stretch]) -> Iterator[Manoeuvre]:
    """Intersections; one in which the drive ends does not end."""
    ends = [*(begin_m for begin_m, _ in stretches[1:]), float("inf")]
    rows = zip(stretches, ends, strict=True)
    for is_inside, group in groupby(rows, key=lambda row: row[0][1] is not None and row[0][1].is_intersection):
        if is_inside:
            parts = list(group)
            turn_rad = sum(lane.turn_rad for (_, lane), _ in parts if lane is not None)
            yield Manoeuvre(begin_m=parts[0][0][0], end_m=parts[-1][1], command=_turn(turn_rad))


def _changes(lane_map: LaneMap, stretches: Sequence[Stretch]) -> Iterator[Manoeuvre]:
    for (_, before), (middle_m, lane) in pairwise(stretches):
        if before is None or lane is None or lane.lane_id in _onward(lane_map, before):
            continue
        if (command := _change(lane_map, before, lane.lane_id)) is not None:
            yield Manoeuvre(begin_m=middle_m - CHANGE_M / 2, end_m=middle_m + CHANGE_M / 2, command=command)


def _turn(turn_rad: float) -> Command:
    if abs(turn_rad) < TURN_RAD:
        return Command.STRAIGHT
    return Command.LEFT if turn_rad > 0 else Command.RIGHT
