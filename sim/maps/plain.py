"""Writes nodes and edges in SUMO's plain XML form and lets netconvert join them into a network."""

import math
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import ConfigError
from sim.maps.lines import arc_lengths, at_arc

NETCONVERT_OPTIONS = (
    "--no-turnarounds",
    "--no-internal-links=false",
    "--junctions.corner-detail=8",
    "--junctions.internal-link-detail=12",
    "--junctions.join=false",
    "--tls.cycle.time=50",
    "--tls.allred.time=2",
    "--tls.left-green.time=0",
    "--default.crossing-width=3.5",
    "--precision=2",
    "--no-warnings",
)

F64 = NDArray[np.float64]

STRAIGHT_M = 8.0
"""Of straight road between a bend and the node that ends it."""
BEND_MPS2 = 2.2
"""Sideways acceleration for which bends are signed."""

Point = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """Cross-section of one direction of a road, from the kerb to the middle.

    parking: a strip of 2.2 m between pavement and lanes that no traffic may use. bus: a bus lane at the right.
    """

    kind: str
    lanes: int = 1
    speed_mps: float = 13.89
    lane_width_m: float = 3.2
    sidewalk_m: float = 0.0
    parking: bool = False
    bus: bool = False
    bicycles: bool = True
    priority: int = 1

    @property
    def half_width_m(self) -> float:
        """Of one direction, pavement included."""
        return self.sidewalk_m + 2.2 * self.parking + 3.4 * self.bus + self.lanes * self.lane_width_m

    def lane_lines(self) -> list[str]:
        closed = "pedestrian" if self.bicycles else "pedestrian bicycle"
        lanes = []
        if self.sidewalk_m:
            lanes.append(f'allow="pedestrian" width="{self.sidewalk_m}"')
        if self.parking:
            lanes.append('disallow="all" width="2.2"')
        if self.bus:
            lanes.append('allow="bus bicycle" width="3.4"')
        lanes.extend([f'disallow="{closed}" width="{self.lane_width_m}"'] * self.lanes)
        return [f'<lane index="{index}" {lane} speed="{self.speed_mps}"/>' for index, lane in enumerate(lanes)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a road between two nodes, through the points `via`."""

    start: str
    end: str
    street: Street
    via: tuple[Point, ...]
    spread: str

    @property
    def name(self) -> str:
        return f"{self.start}_{self.end}"


@dataclass(slots=True)
class PlainNet:
    """Nodes (place, kind, radius) and links as they are collected."""

    nodes: dict[str, tuple[Point, str, float]] = field(default_factory=dict)
    links: dict[tuple[str, str], Link] = field(default_factory=dict)

    def node(self, name: str, at: Point, kind: str = "priority", radius_m: float = 7.0) -> None:
        self.nodes[name] = (at, kind, radius_m)

    def edge(self, start: str, end: str, street: Street, via: Sequence[Point] = (), spread: str = "right") -> None:
        """One direction of a road."""
        self.links[start, end] = Link(start=start, end=end, street=street, via=tuple(via), spread=spread)

    def road(self, start: str, end: str, street: Street, via: Sequence[Point] = ()) -> None:
        """Both directions."""
        self.edge(start, end, street, via)
        self.edge(end, start, street, tuple(reversed(via)))

    def line(self, start: str, end: str) -> F64:
        """The points (N, D) of a link, its nodes included."""
        return np.array([self.nodes[start][0], *self.links[start, end].via, self.nodes[end][0]])

    def round_corners(self) -> None:
        """Where only two roads meet, replace the node by a bend with a straight node at each end and its own speed.

        A pavement that bends inside a junction is drawn by netconvert across the lanes, and SUMO slows down for a
        bend only where a lower limit begins.
        """
        for name in list(self.nodes):
            around = [end for start, end in self.links if start == name and (end, name) in self.links]
            if len(around) == 2 and sum(name in link for link in self.links) == 4:
                self._round(around[0], name, around[1])

    def _round(self, before: str, name: str, after: str) -> None:
        street, other = self.links[before, name].street, self.links[name, after].street
        come, go = self.line(before, name), self.line(name, after)
        come_m, go_m = (float(arc_lengths(line)[-1]) for line in (come, go))
        reach = min(street.half_width_m * 1.9 + 16.0, 0.40 * come_m, 0.40 * go_m)
        first, last = at_arc(come, np.array([come_m - reach]))[0], at_arc(go, np.array([reach]))[0]
        t = np.linspace(0.0, 1.0, 15)[:, None]
        bend = (1 - t) ** 2 * first + 2 * t * (1 - t) * come[-1] + t**2 * last
        leading = come[arc_lengths(come) < come_m - reach - STRAIGHT_M - 2.0][1:]
        trailing = go[arc_lengths(go) > reach + STRAIGHT_M + 2.0][:-1]
        ends = at_arc(come, np.array([come_m - reach - STRAIGHT_M]))[0], at_arc(go, np.array([reach + STRAIGHT_M]))[0]
        _, kind, _ = self.nodes.pop(name)
        slow = replace(street, speed_mps=min(street.speed_mps, math.sqrt(BEND_MPS2 * _least_radius(bend))))
        for a, b in ((before, name), (name, before), (name, after), (after, name)):
            del self.links[a, b]
        for part, place in zip("pq", ends, strict=True):
            self.node(f"{name}{part}", tuple(place.tolist()), kind, 3.0)
        self.road(before, f"{name}p", street, _points(leading))
        self.road(f"{name}p", f"{name}q", slow, _points(bend))
        self.road(f"{name}q", after, other, _points(trailing))


def _points(line: F64) -> list[Point]:
    return [tuple(point) for point in line.tolist()]


def _least_radius(line: F64) -> float:
    """Of the circle through three points in a row."""
    a, b, c = line[:-2, :2], line[1:-1, :2], line[2:, :2]
    sides = [np.linalg.norm(one - two, axis=1) for one, two in ((a, b), (b, c), (c, a))]
    area = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    return float(np.min(sides[0] * sides[1] * sides[2] / np.maximum(4 * area, 1e-9)))


def convert(net: PlainNet, folder: Path, target: Path, options: Sequence[str] = ()) -> None:
    """Write `net` to `folder` and convert it to `target` (.net.xml). Raises ConfigError where netconvert refuses."""
    nodes = [
        f'<node id={quoteattr(name)} type="{kind}" radius="{radius}" '
        + " ".join(f'{axis}="{value:.2f}"' for axis, value in zip("xyz", at, strict=False))
        + "/>"
        for name, (at, kind, radius) in net.nodes.items()
    ]
    edges = [_edge_xml(net, link) for link in net.links.values()]
    (folder / "plain.nod.xml").write_text("\n".join(["<nodes>", *nodes, "</nodes>"]))
    (folder / "plain.edg.xml").write_text("\n".join(["<edges>", *edges, "</edges>"]))
    inputs = [f"--node-files={folder / 'plain.nod.xml'}", f"--edge-files={folder / 'plain.edg.xml'}"]
    run_tool("netconvert", [*inputs, *NETCONVERT_OPTIONS, *options, f"--output-file={target}"])
    # The header holds date and paths: without it the same input gives the same bytes.
    text = re.sub(r"<!--.*?-->\s*", "", target.read_text(), flags=re.DOTALL)
    target.write_text(text)


def _edge_xml(net: PlainNet, link: Link) -> str:
    shape = " ".join(",".join(f"{value:.2f}" for value in point) for point in net.line(link.start, link.end))
    street, lanes = link.street, link.street.lane_lines()
    return (
        f"<edge id={quoteattr(link.name)} from={quoteattr(link.start)} to={quoteattr(link.end)} "
        f'type={quoteattr(street.kind)} priority="{street.priority}" numLanes="{len(lanes)}" '
        f'speed="{street.speed_mps}" spreadType="{link.spread}" shape="{shape}">{"".join(lanes)}</edge>'
    )


def run_tool(name: str, arguments: Sequence[str]) -> None:
    """Run a tool of the `eclipse-sumo` package. Raises ConfigError if it is not installed or fails."""
    try:
        import sumo  # type: ignore[import-untyped]

        command = [str(Path(sumo.SUMO_HOME) / "bin" / name), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"{name} is needed and comes with eclipse-sumo: pip install eclipse-sumo ({error})"
        ) from error
    if done.returncode != 0:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split())
        raise ConfigError(f"{name} failed: {said}")
