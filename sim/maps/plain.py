"""Writes nodes and edges in SUMO's plain XML form and lets netconvert join them into a network."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

from perception.core.errors import ConfigError

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


@dataclass(slots=True)
class PlainNet:
    """Nodes and edges as they are collected."""

    nodes: dict[str, tuple[Point, str, float]] = field(default_factory=dict)
    edges: dict[str, str] = field(default_factory=dict)
    ends: dict[str, tuple[str, str]] = field(default_factory=dict)

    def node(self, name: str, at: Point, kind: str = "priority", radius_m: float = 7.0) -> None:
        self.nodes[name] = (at, kind, radius_m)

    def edge(self, start: str, end: str, street: Street, via: Sequence[Point] = (), spread: str = "right") -> None:
        """One direction of a road, through the points `via`."""
        name = f"{start}_{end}"
        points = [self.nodes[start][0], *via, self.nodes[end][0]]
        shape = " ".join(",".join(f"{value:.2f}" for value in point) for point in points)
        lanes = street.lane_lines()
        self.ends[name] = (start, end)
        self.edges[name] = (
            f"<edge id={quoteattr(name)} from={quoteattr(start)} to={quoteattr(end)} type={quoteattr(street.kind)} "
            f'priority="{street.priority}" numLanes="{len(lanes)}" speed="{street.speed_mps}" '
            f'spreadType="{spread}" shape="{shape}">{"".join(lanes)}</edge>'
        )

    def road(self, start: str, end: str, street: Street, via: Sequence[Point] = ()) -> None:
        """Both directions."""
        self.edge(start, end, street, via)
        self.edge(end, start, street, tuple(reversed(via)))

    def degree(self, name: str) -> int:
        return len({a if b == name else b for a, b in self.ends.values() if name in (a, b)})


def convert(net: PlainNet, folder: Path, target: Path, options: Sequence[str] = ()) -> None:
    """Write `net` to `folder` and convert it to `target` (.net.xml). Raises ConfigError where netconvert refuses."""
    nodes = "".join(
        f'<node id={quoteattr(name)} type="{kind}" radius="{radius}" '
        + " ".join(f'{axis}="{value:.2f}"' for axis, value in zip("xyz", at, strict=False))
        + "/>\n"
        for name, (at, kind, radius) in net.nodes.items()
    )
    (folder / "plain.nod.xml").write_text(f"<nodes>\n{nodes}</nodes>\n")
    (folder / "plain.edg.xml").write_text("<edges>\n" + "\n".join(net.edges.values()) + "\n</edges>\n")
    inputs = [f"--node-files={folder / 'plain.nod.xml'}", f"--edge-files={folder / 'plain.edg.xml'}"]
    run_tool("netconvert", [*inputs, *NETCONVERT_OPTIONS, *options, f"--output-file={target}"])
    # The header holds date and paths: without it the same input gives the same bytes.
    text = re.sub(r"<!--.*?-->\s*", "", target.read_text(), flags=re.DOTALL)
    target.write_text(text)


def run_tool(name: str, arguments: Sequence[str]) -> None:
    """Run a tool of the `eclipse-sumo` package. Raises ConfigError if it is not installed or fails."""
    try:
        import sumo  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(f"{name} is needed and comes with eclipse-sumo: pip install eclipse-sumo") from error
    command = [str(Path(sumo.SUMO_HOME) / "bin" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"{name} failed: {done.stderr.strip() or done.stdout.strip()}")
