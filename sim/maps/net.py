"""Reads a SUMO network (`.net.xml`) into lanes, edges, junctions and connections.

Format: https://sumo.dlr.de/docs/Networks/SUMO_Road_Networks.html. Metres, x east, y north, z up.
"""

import gzip
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import ConfigError

F64 = NDArray[np.float64]

ROAD_CLASSES = ("passenger", "bus", "truck", "trailer", "motorcycle", "bicycle", "delivery", "taxi")


class LaneKind(StrEnum):
    DRIVE = "drive"
    BUS = "bus"
    BICYCLE = "bicycle"
    SIDEWALK = "sidewalk"
    CLOSED = "closed"
    """No traffic may use it: a strip for parked cars."""
    INTERNAL = "internal"
    """The way of one connection across a junction."""
    CROSSING = "crossing"
    WALKINGAREA = "walkingarea"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lane:
    """One lane. shape_m: (N, 3) float64 along the middle (the outline of a walking area); outline_m: of a crossing."""

    name: str
    edge: str
    index: int
    kind: LaneKind
    allowed: frozenset[str]
    speed_mps: float
    width_m: float
    shape_m: F64
    outline_m: F64 | None = None

    @property
    def length_m(self) -> float:
        return float(np.sum(np.linalg.norm(np.diff(self.shape_m[:, :2], axis=0), axis=1)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edge:
    """One direction of a road between two junctions, lanes from the right. kind: its type, `town` or `motorway`..."""

    name: str
    start: str
    end: str
    kind: str
    priority: int
    lanes: tuple[Lane, ...]

    def of(self, *kinds: LaneKind) -> tuple[Lane, ...]:
        return tuple(lane for lane in self.lanes if lane.kind in kinds)

    @property
    def speed_mps(self) -> float:
        return max(lane.speed_mps for lane in self.lanes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Junction:
    """A node. shape_m: (N, 3) float64 outline, empty where roads only end."""

    name: str
    kind: str
    center_m: F64
    shape_m: F64


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """From a lane to a lane. via: internal lanes in order. direction: SUMO's s, l, r, L, R, t. signal: its light."""

    from_edge: str
    from_lane: int
    to_edge: str
    to_lane: int
    via: tuple[str, ...]
    direction: str
    signal: str | None
    link: int


@dataclass(frozen=True, kw_only=True, eq=False)
class RoadMap:
    """A network as geometry. lanes: by name, internal ones too. edges: without internal ones."""

    name: str
    path: Path
    lanes: Mapping[str, Lane]
    edges: Mapping[str, Edge]
    junctions: Mapping[str, Junction]
    connections: tuple[Connection, ...]

    @cached_property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """x_min, y_min, x_max, y_max of all lanes."""
        points = np.concatenate([lane.shape_m[:, :2] for lane in self.lanes.values()])
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)

    @cached_property
    def is_flat(self) -> bool:
        heights = np.concatenate([lane.shape_m[:, 2] for lane in self.lanes.values()])
        return bool(np.ptp(heights) < 0.05)

    @cached_property
    def leaving(self) -> Mapping[tuple[str, int], tuple[Connection, ...]]:
        """Connections by the edge and lane index that they leave."""
        found: dict[tuple[str, int], list[Connection]] = {}
        for connection in self.connections:
            found.setdefault((connection.from_edge, connection.from_lane), []).append(connection)
        return {key: tuple(value) for key, value in found.items()}

    def successors(self, edge: str, vehicle_class: str) -> tuple[str, ...]:
        """Edges that a vehicle of a class can go on to, in the order of the file."""
        found: dict[str, None] = {}
        for lane in self.edges[edge].lanes:
            if vehicle_class in lane.allowed:
                for connection in self.leaving.get((edge, lane.index), ()):
                    if vehicle_class in self.edges[connection.to_edge].lanes[connection.to_lane].allowed:
                        found[connection.to_edge] = None
        return tuple(found)


def read_net(path: Path) -> RoadMap:
    """Read a network file, gzipped or not. Raises ConfigError where it is no SUMO network."""
    try:
        opener = gzip.open if path.suffix == ".gz" else Path.open
        with opener(path, "rb") as file:
            root = ElementTree.parse(file).getroot()
        if root.tag != "net":
            raise ConfigError(f"{path}: the root element is <{root.tag}>, a SUMO network has <net>")
        edges = _edges(root)
        lanes = {lane.name: lane for edge in edges.values() for lane in edge.lanes}
        road_edges = {name: edge for name, edge in edges.items() if not name.startswith(":")}
        net = RoadMap(
            name=path.name.removesuffix(".gz").removesuffix(".xml").removesuffix(".net"),
            path=path,
            lanes=lanes,
            edges=road_edges,
            junctions=_junctions(root),
            connections=_connections(root, road_edges),
        )
    except (OSError, ElementTree.ParseError, KeyError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable SUMO network: {error}") from error
    if not any("passenger" in lane.allowed for edge in road_edges.values() for lane in edge.lanes):
        raise ConfigError(f"{path}: the network has no lane for cars")
    return net


def _points(text: str | None) -> F64:
    if not text:
        return np.zeros((0, 3))
    rows = [[float(value) for value in point.split(",")] for point in text.split()]
    return np.array([row if len(row) == 3 else [*row, 0.0] for row in rows])


def _allowed(lane: ElementTree.Element) -> frozenset[str]:
    known = frozenset((*ROAD_CLASSES, "pedestrian"))
    if (allow := lane.get("allow")) is not None:
        return known if allow == "all" else known & frozenset(allow.split())
    if (disallow := lane.get("disallow")) is not None:
        return frozenset() if disallow == "all" else known - frozenset(disallow.split())
    return known


def _kind(function: str, allowed: frozenset[str]) -> LaneKind:
    if function in ("internal", "crossing", "walkingarea"):
        return LaneKind(function)
    if "passenger" in allowed:
        return LaneKind.DRIVE
    if "bus" in allowed:
        return LaneKind.BUS
    if "bicycle" in allowed:
        return LaneKind.BICYCLE
    return LaneKind.SIDEWALK if "pedestrian" in allowed else LaneKind.CLOSED


def _edges(root: ElementTree.Element) -> dict[str, Edge]:
    edges = {}
    for element in root.iter("edge"):
        name, function = element.attrib["id"], element.get("function", "normal")
        lanes = []
        for lane in element.iter("lane"):
            allowed = _allowed(lane)
            outline = _points(lane.get("outlineShape"))
            lanes.append(
                Lane(
                    name=lane.attrib["id"],
                    edge=name,
                    index=int(lane.attrib["index"]),
                    kind=_kind(function, allowed),
                    allowed=allowed,
                    speed_mps=float(lane.attrib["speed"]),
                    width_m=float(lane.get("width", 3.2)),
                    shape_m=_points(lane.attrib["shape"]),
                    outline_m=outline if len(outline) else None,
                )
            )
        if lanes and (function != "normal" or "from" in element.attrib):
            edges[name] = Edge(
                name=name,
                start=element.get("from", ""),
                end=element.get("to", ""),
                kind=element.get("type", ""),
                priority=int(element.get("priority", 1)),
                lanes=tuple(lanes),
            )
    return edges


def _junctions(root: ElementTree.Element) -> dict[str, Junction]:
    found = {}
    for element in root.iter("junction"):
        if element.get("type") != "internal":
            at = [float(element.get(axis, 0.0)) for axis in "xyz"]
            found[element.attrib["id"]] = Junction(
                name=element.attrib["id"],
                kind=element.get("type", "priority"),
                center_m=np.array(at),
                shape_m=_points(element.get("shape")),
            )
    return found


def _connections(root: ElementTree.Element, edges: Mapping[str, Edge]) -> tuple[Connection, ...]:
    elements = list(root.iter("connection"))
    # A left turn that waits inside the junction has two internal lanes: the second hangs on the first one's connection.
    onward = {
        f"{e.attrib['from']}_{e.attrib['fromLane']}": e.get("via") for e in elements if e.attrib["from"][0] == ":"
    }
    found = []
    for element in elements:
        if element.attrib["from"] not in edges or element.attrib["to"] not in edges:
            continue
        via, step = [], element.get("via")
        while step is not None:
            via.append(step)
            step = onward.get(step)
        found.append(
            Connection(
                from_edge=element.attrib["from"],
                from_lane=int(element.attrib["fromLane"]),
                to_edge=element.attrib["to"],
                to_lane=int(element.attrib["toLane"]),
                via=tuple(via),
                direction=element.get("dir", "s"),
                signal=element.get("tl"),
                link=int(element.get("linkIndex", -1)),
            )
        )
    return tuple(found)
