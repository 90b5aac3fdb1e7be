"""Who must give way where the ego's route crosses a junction, as the network says."""

import gzip
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.maps.net import LaneKind, RoadMap
from sim.route import EgoRoute

PRIORITY_STATE = "M"
"""SUMO's letter for a link that all others give way to."""
THROUGH = ("s", "r", "R")
"""Directions that cross nobody's green at a light but those on foot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Junction:
    """One junction on the route, from its stop line at `arc_m` to where the next road begins.

    has_priority: everybody else gives way, at a light while it is green.
    """

    arc_m: float
    end_m: float
    has_priority: bool


def junctions_on(net: RoadMap, route: EgoRoute) -> tuple[Junction, ...]:
    """All junctions of a route, in its order."""
    states = _states(net.path)
    found, arc = [], 0.0
    for edge, after in zip(route.edges, route.edges[1:], strict=False):
        lane, onward = (net.edges[name].of(LaneKind.DRIVE)[0] for name in (edge, after))
        begin, _ = route.project(lane.shape_m[-1, :2], arc + lane.length_m)
        end, _ = route.project(
            onward.shape_m[0, :2], begin + float(np.linalg.norm(onward.shape_m[0] - lane.shape_m[-1]))
        )
        letters = states.get((edge, after), {("s", PRIORITY_STATE)})
        has_lights = any(abs(stop.arc_m - begin) < 5.0 for stop in route.stop_lines)
        has_priority = all(way in THROUGH if has_lights else letter == PRIORITY_STATE for way, letter in letters)
        found.append(Junction(arc_m=begin, end_m=max(end, begin), has_priority=has_priority))
        arc = max(end, begin)
    return tuple(found)


def _states(path: Path) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Direction and right of way of all connections between two edges."""
    opener = gzip.open if path.suffix == ".gz" else Path.open
    with opener(path, "rb") as file:
        root = ElementTree.parse(file).getroot()
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for link in root.iter("connection"):
        key = (link.attrib["from"], link.attrib["to"])
        found.setdefault(key, set()).add((link.get("dir", "s"), link.get("state", PRIORITY_STATE)))
    return found
