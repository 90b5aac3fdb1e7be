"""The ego's route: edges drawn at random, the lanes that lead along them, one smooth line with limits and signals."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from perception.core.errors import ConfigError
from perception.core.messages import Command
from sim.maps.lines import arc_lengths, at_arc, resample, without_doubles
from sim.maps.net import Connection, Edge, LaneKind, RoadMap
from sim.traffic_demand import random_route, usable_edges

F64 = NDArray[np.float64]

STEP_M = 1.0
SMOOTH_M = 1.5
CHANGE_M = 40.0
"""Length of a lane change."""
START_M = 12.0

_COMMANDS = {"l": Command.LEFT, "L": Command.LEFT, "r": Command.RIGHT, "R": Command.RIGHT, "s": Command.STRAIGHT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manoeuvre:
    """What to do from `arc_m` to `end_m` along the route."""

    arc_m: float
    end_m: float
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class StopLine:
    """A light on the route: its stop line, its name in SUMO and the link of this route through it."""

    arc_m: float
    signal: str
    link: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EgoRoute:
    """Where the ego goes. points_m: (N, 2) about 1 m apart; arc_m: (N,) length along them; speed_limit_mps,
    lane_width_m: (N,). The line is the middle of the lanes, for the front axle or the middle of a car alike.
    """

    edges: tuple[str, ...]
    start_lane: int
    start_m: float
    points_m: F64
    arc_m: F64
    speed_limit_mps: F64
    lane_width_m: F64
    manoeuvres: tuple[Manoeuvre, ...]
    stop_lines: tuple[StopLine, ...]

    @property
    def length_m(self) -> float:
        return float(self.arc_m[-1])

    def project(self, point_m: F64, near_m: float | None = None, reach_m: float = 60.0) -> tuple[float, float]:
        """Arc length of the nearest point on the route and the offset from it, positive to the left.

        near_m: look only `reach_m` around that arc length, since routes cross themselves.
        """
        low, high = 0, len(self.arc_m)
        if near_m is not None:
            low, high = np.searchsorted(self.arc_m, (near_m - reach_m, near_m + reach_m)).tolist()
            low, high = max(0, low - 1), max(low + 2, high)
        line = self.points_m[low:high]
        steps = np.diff(line, axis=0)
        share = np.einsum("ij,ij->i", point_m - line[:-1], steps) / np.einsum("ij,ij->i", steps, steps)
        share = np.clip(share, 0.0, 1.0)
        gaps = point_m - (line[:-1] + share[:, None] * steps)
        best = int(np.argmin(np.einsum("ij,ij->i", gaps, gaps)))
        step, gap = steps[best], gaps[best]
        side = float((step[0] * gap[1] - step[1] * gap[0]) / np.linalg.norm(step))
        arc = self.arc_m[low + best] + share[best] * (self.arc_m[low + best + 1] - self.arc_m[low + best])
        return float(arc), side

    def at(self, arc_m: F64) -> F64:
        """Points (K, 2) at lengths (K,) along the route."""
        return np.stack([np.interp(arc_m, self.arc_m, self.points_m[:, axis]) for axis in (0, 1)], axis=1)


def plan_route(net: RoadMap, length_m: float, rng: np.random.Generator) -> EgoRoute:
    """A random route of at least `length_m`. Raises ConfigError where the map offers cars none longer than 50 m."""
    starts = [name for name in usable_edges(net, "passenger") if net.edges[name].lanes[0].length_m > 3 * START_M]
    best: list[str] = []
    for _ in range(20):
        if not starts:
            break
        start = starts[int(rng.integers(len(starts)))]
        edges = random_route(net, start, "passenger", _edges_for(net, length_m), rng)
        edges = _cut(net, edges, length_m + 2 * START_M)
        if sum(net.edges[name].lanes[0].length_m for name in edges) > sum(net.edges[n].lanes[0].length_m for n in best):
            best = edges
        if len(best) and sum(net.edges[name].lanes[0].length_m for name in best) >= length_m:
            break
    if sum(net.edges[name].lanes[0].length_m for name in best) < 50.0:
        raise ConfigError(f"map {net.name}: no route for a car of at least 50 m; it needs connected lanes")
    return trace_route(net, best)


def _edges_for(net: RoadMap, length_m: float) -> int:
    shortest = np.median([edge.lanes[0].length_m for edge in net.edges.values()])
    return int(3 * length_m / max(float(shortest), 10.0)) + 4


def _cut(net: RoadMap, edges: Sequence[str], length_m: float) -> list[str]:
    lengths = np.cumsum([net.edges[name].lanes[0].length_m for name in edges])
    return list(edges[: int(np.searchsorted(lengths, length_m)) + 1])


@dataclass(slots=True)
class _Tracer:
    """Joins lines end to end. arc_m: length so far, of the raw line."""

    rows: list[F64] = field(default_factory=list)
    arc_m: float = 0.0

    def add(self, line_m: F64, speed_mps: float, width_m: float) -> None:
        line = without_doubles(line_m)[:, :2]
        if self.rows:
            self.arc_m += float(np.linalg.norm(line[0] - self.rows[-1][-1, :2]))
        self.arc_m += float(arc_lengths(line)[-1])
        self.rows.append(np.column_stack([line, np.full(len(line), speed_mps), np.full(len(line), width_m)]))


def trace_route(net: RoadMap, edges: Sequence[str]) -> EgoRoute:
    """The line through connected edges. Raises ConfigError where two of them are not connected for cars."""
    lanes = _choose_lanes(net, edges)
    tracer, manoeuvres, stops = _Tracer(), list[Manoeuvre](), list[StopLine]()
    for index, name in enumerate(edges):
        edge, (enter, leave) = net.edges[name], lanes[index]
        lane, begin = edge.lanes[leave], tracer.arc_m
        tracer.add(_edge_line(edge, enter, leave), lane.speed_mps, lane.width_m)
        if enter != leave:
            command = Command.CHANGE_LEFT if leave > enter else Command.CHANGE_RIGHT
            start = begin + _change_start(tracer.arc_m - begin)
            end = min(start + CHANGE_M, tracer.arc_m)
            manoeuvres.append(Manoeuvre(arc_m=start, end_m=end, command=command))
        if index + 1 == len(edges):
            break
        connection = _connection(net, edge, leave, edges[index + 1], lanes[index + 1][0])
        begin = tracer.arc_m
        if connection.signal is not None:
            stops.append(StopLine(arc_m=begin, signal=connection.signal, link=connection.link))
        for via in connection.via:
            tracer.add(net.lanes[via].shape_m, net.lanes[via].speed_mps, lane.width_m)
        if len(net.successors(name, "passenger")) > 1:
            command = _COMMANDS.get(connection.direction, Command.FOLLOW)
            manoeuvres.append(Manoeuvre(arc_m=begin, end_m=tracer.arc_m, command=command))
    return _smooth_route(tuple(edges), lanes[0][0], np.concatenate(tracer.rows), manoeuvres, stops)


def _smooth_route(
    edges: tuple[str, ...], start_lane: int, rows: F64, manoeuvres: Sequence[Manoeuvre], stops: Sequence[StopLine]
) -> EgoRoute:
    dense = resample(without_doubles(rows), STEP_M)
    points = dense[:, :2].copy()
    inner = gaussian_filter1d(points, SMOOTH_M / STEP_M, axis=0, mode="nearest")
    points[3:-3] = inner[3:-3]
    arc = arc_lengths(points)
    # Smoothing cuts corners: what was measured along the raw line moves to the same place on the smooth one.
    raw = np.linspace(0.0, arc_lengths(without_doubles(rows))[-1], len(points))

    def moved(arc_m: float) -> float:
        return float(np.interp(arc_m, raw, arc))

    return EgoRoute(
        edges=edges,
        start_lane=start_lane,
        start_m=START_M,
        points_m=points,
        arc_m=arc,
        speed_limit_mps=dense[:, 2],
        lane_width_m=dense[:, 3],
        manoeuvres=tuple(Manoeuvre(arc_m=moved(m.arc_m), end_m=moved(m.end_m), command=m.command) for m in manoeuvres),
        stop_lines=tuple(StopLine(arc_m=moved(s.arc_m), signal=s.signal, link=s.link) for s in stops),
    )


def _choose_lanes(net: RoadMap, edges: Sequence[str]) -> list[tuple[int, int]]:
    """Lane indices on which each edge is entered and left, with the fewest and gentlest changes (Viterbi)."""
    first = [lane.index for lane in net.edges[edges[0]].of(LaneKind.DRIVE)]
    costs = {lane: 0.1 * rank for rank, lane in enumerate(first)}
    back: list[dict[int, tuple[int, int]]] = []
    for name, after in itertools.pairwise(edges):
        length = net.edges[name].lanes[0].length_m
        found: dict[int, tuple[float, int, int]] = {}
        for lane in net.edges[name].of(LaneKind.DRIVE):
            for connection in net.leaving.get((name, lane.index), ()):
                if connection.to_edge != after or "passenger" not in net.edges[after].lanes[connection.to_lane].allowed:
                    continue
                for enter, cost in costs.items():
                    moved = abs(enter - lane.index)
                    total = cost + moved * (1.0 + 400.0 / max(length, 20.0))
                    if connection.to_lane not in found or total < found[connection.to_lane][0] - 1e-9:
                        found[connection.to_lane] = (total, enter, lane.index)
        if not found:
            raise ConfigError(f"map {net.name}: edges {name} and {after} are not connected for cars")
        costs = {lane: value[0] for lane, value in found.items()}
        back.append({lane: value[1:] for lane, value in found.items()})
    at = min(costs, key=lambda index: (costs[index], index))
    chosen = [(at, at)]
    for step in reversed(back):
        chosen.append(step[at])
        at = step[at][0]
    return chosen[::-1]


def _connection(net: RoadMap, edge: Edge, leave: int, after: str, enter: int) -> Connection:
    return next(
        connection
        for connection in net.leaving[(edge.name, leave)]
        if connection.to_edge == after and connection.to_lane == enter
    )


def _change_start(length_m: float) -> float:
    return max(0.0, min(0.3 * length_m, length_m - CHANGE_M))


def _edge_line(edge: Edge, enter: int, leave: int) -> F64:
    """The line along an edge, with a smooth change between two lanes where they differ."""
    if enter == leave:
        return edge.lanes[enter].shape_m
    one, other = (without_doubles(edge.lanes[index].shape_m) for index in (enter, leave))
    count = max(8, int(arc_lengths(one)[-1]))
    shares = np.linspace(0.0, 1.0, count)
    a, b = (at_arc(line, shares * arc_lengths(line)[-1]) for line in (one, other))
    length = arc_lengths(one)[-1]
    t = np.clip((shares * length - _change_start(length)) / min(CHANGE_M, length), 0.0, 1.0)
    blend = (t * t * (3 - 2 * t))[:, None]
    line: F64 = a * (1 - blend) + b * blend
    return line
