"""Who is on the road and where they go: seeded counts, vehicle types and endless random routes."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import quoteattr

import numpy as np

from sim.maps.net import LaneKind, RoadMap
from sim.settings import TrafficSettings
from sim.traffic_types import EGO, FleetType, TrafficPlan

_DRIVING: Mapping[str, str] = {
    "passenger": 'accel="2.6" decel="4.5" sigma="0.5" maxSpeed="50" minGapLat="0.5"',
    "truck": 'accel="1.2" decel="4.0" sigma="0.4" maxSpeed="25" minGapLat="0.5"',
    "trailer": 'accel="1.0" decel="4.0" sigma="0.4" maxSpeed="24" minGapLat="0.5"',
    "bus": 'accel="1.1" decel="4.0" sigma="0.4" maxSpeed="22" minGapLat="0.5"',
    "motorcycle": 'accel="4.0" decel="6.0" sigma="0.5" maxSpeed="45" minGapLat="0.4" latAlignment="center"',
    "bicycle": 'accel="1.0" decel="3.0" sigma="0.5" maxSpeed="5.8" minGapLat="0.3" latAlignment="right"',
    "pedestrian": 'maxSpeed="1.4" speedFactor="normc(1,0.12,0.7,1.4)"',
}


def counts_of(net: RoadMap, settings: TrafficSettings) -> dict[str, int]:
    """How many of each vehicle class a map carries."""
    lane_km = sum(lane.length_m for lane in net.lanes.values() if lane.kind is LaneKind.DRIVE) / 1000
    walk_km = sum(lane.length_m for lane in net.lanes.values() if lane.kind is LaneKind.SIDEWALK) / 1000
    total = min(settings.max_vehicles, round(settings.vehicles_per_lane_km * lane_km))
    has_bicycles = any("bicycle" in lane.allowed for edge in net.edges.values() for lane in edge.lanes)
    trucks = round(total * settings.truck_share)
    counts = {
        "truck": trucks - trucks // 2,
        "trailer": trucks // 2,
        "bus": round(total * settings.bus_share),
        "motorcycle": round(total * settings.motorcycle_share),
        "bicycle": round(total * settings.bicycle_share) if has_bicycles else 0,
        "pedestrian": min(settings.max_pedestrians, round(settings.pedestrians_per_km * walk_km)),
    }
    others = sum(count for name, count in counts.items() if name != "pedestrian")
    return {"passenger": max(0, total - others), **counts}


def vehicle_types_xml(plan: TrafficPlan) -> str:
    """SUMO's additional file with a type for each member of the fleet, and the ego's."""
    lines = []
    for entry in plan.fleet:
        factor = ' speedFactor="normc(1,0.1,0.8,1.15)"' if entry.vehicle_class != "pedestrian" else ""
        # A pedestrian's length is room for its neighbours, not the reach of its stride.
        length = 0.4 if entry.vehicle_class == "pedestrian" else entry.length_m
        lines.append(
            f'<vType id={quoteattr(entry.name)} vClass="{entry.vehicle_class}" length="{length:.2f}" '
            f'width="{entry.width_m:.2f}" {_DRIVING[entry.vehicle_class]}{factor}/>'
        )
    lines.append(
        f'<vType id="{EGO}" vClass="passenger" length="{plan.ego_length_m}" width="{plan.ego_width_m}" '
        'accel="2.0" decel="3.5" sigma="0.2" speedFactor="1.0" speedDev="0" minGapLat="0.6" lcSpeedGain="0.3"/>'
    )
    return "<additional>\n" + "\n".join(lines) + "\n</additional>\n"


def random_route(
    net: RoadMap, start: str, vehicle_class: str, count: int, rng: np.random.Generator, avoid: Sequence[str] = ()
) -> list[str]:
    """A random walk of `count` edges from `start`; wider roads draw more traffic. Ends early where the road does."""
    route = [start]
    while len(route) < count:
        choices = [edge for edge in net.successors(route[-1], vehicle_class) if not _turns_back(net, route[-1], edge)]
        choices = choices or list(net.successors(route[-1], vehicle_class))
        if not choices:
            break
        recent = {*route[-6:], *avoid}
        weights = [
            len(net.edges[edge].of(LaneKind.DRIVE, LaneKind.BUS)) * (0.25 if edge in recent else 1.0) + 1e-3
            for edge in choices
        ]
        route.append(choices[int(rng.choice(len(choices), p=np.array(weights) / sum(weights)))])
    return route


def _turns_back(net: RoadMap, edge: str, after: str) -> bool:
    return net.edges[edge].start == net.edges[after].end and net.edges[edge].end == net.edges[after].start


def usable_edges(net: RoadMap, vehicle_class: str) -> list[str]:
    """Edges open to a class, in the order of the file."""
    return [name for name, edge in net.edges.items() if any(vehicle_class in lane.allowed for lane in edge.lanes)]


def types_of(fleet: Sequence[FleetType], vehicle_class: str) -> list[int]:
    """Indices of the fleet's types of a class."""
    return [index for index, entry in enumerate(fleet) if entry.vehicle_class == vehicle_class]
