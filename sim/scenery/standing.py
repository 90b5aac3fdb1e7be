"""Actors that stand still: parked cars, work zones, signal heads. Labelled like those that move."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.core.taxonomy import ATTRIBUTE_INDEX, NO_ATTRIBUTE
from sim.actors.people import GAIT_PHASES
from sim.actors.pool import Pool
from sim.maps.lines import arc_lengths, at_arc, headings, offset, without_doubles
from sim.maps.net import Connection, Edge, Lane, LaneKind, RoadMap
from sim.scenery.furniture import add_signal_post
from sim.scenery.patches import Patches
from sim.scenery.plots import Plots, rectangle
from sim.scenery.roads import GROUND_M, HILLY_GROUND_M, PAVEMENT_M, is_fast
from sim.settings import WorldSettings

F64 = NDArray[np.float64]

PLACE_M = 6.4
ZONE_M = 22.0
SITE_M = (15.0, 9.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One of them. foot_m: x, y and the height of its foot over the ground. signal, link: of a signal head."""

    model: str
    foot_m: tuple[float, float, float]
    yaw_rad: float
    attribute: int = NO_ATTRIBUTE
    phase: int = 0
    signal: str | None = None
    link: int = -1


@dataclass(slots=True)
class _Zones:
    """Stretches of parking strips that are taken by work: (lane name, from, to)."""

    taken: list[tuple[str, float, float]] = field(default_factory=list)

    def has(self, lane: str, at_m: float) -> bool:
        return any(name == lane and low <= at_m <= high for name, low, high in self.taken)


def place_standing(
    patches: Patches, net: RoadMap, plots: Plots, pool: Pool, settings: WorldSettings, rng: np.random.Generator
) -> list[Standing]:
    """Work zones first, then parked cars around them, then traffic lights."""
    zones = _Zones()
    found = _work_zones(patches, net, plots, pool, settings.scenery.work_zones, zones, rng)
    found += _parked(net, pool, settings.traffic.parked_share, zones, rng)
    return found + _signals(patches, net)


def _along(line_m: F64, at_m: float, left_m: float) -> tuple[F64, float]:
    moved = offset(line_m, left_m)
    share = at_m / arc_lengths(line_m)[-1]
    point = at_arc(moved[:, :2], np.array([share * arc_lengths(moved)[-1]]))[0]
    segment = min(int(np.searchsorted(arc_lengths(line_m), at_m)), len(line_m) - 1)
    return point, float(headings(line_m)[segment])


def _stand(
    model: str, point_m: F64, yaw_rad: float, foot_m: float = 0.0, attribute: str | None = None, phase: int = 0
) -> Standing:
    return Standing(
        model=model,
        foot_m=(float(point_m[0]), float(point_m[1]), foot_m),
        yaw_rad=yaw_rad,
        attribute=NO_ATTRIBUTE if attribute is None else ATTRIBUTE_INDEX[attribute],
        phase=phase,
    )


def _parked(net: RoadMap, pool: Pool, share: float, zones: _Zones, rng: np.random.Generator) -> list[Standing]:
    cars = [actor for actor in pool.of("hatchback", "saloon", "suv", "van") if actor.length_m < PLACE_M - 0.8]
    found = []
    for lane in net.lanes.values():
        if lane.kind is not LaneKind.CLOSED:
            continue
        line = without_doubles(lane.shape_m)
        for at in np.arange(14.0, arc_lengths(line)[-1] - 14.0, PLACE_M):
            if rng.random() > share or zones.has(lane.name, float(at)):
                continue
            actor = cars[int(rng.integers(len(cars)))]
            point, yaw = _along(line, float(at + rng.uniform(-0.2, 0.2)), float(rng.uniform(-0.1, 0.02)))
            turned = np.pi if rng.random() < 0.07 else 0.0
            yaw += turned + float(rng.normal(0, 0.012))
            found.append(_stand(actor.model.name, point, yaw, attribute="vehicle.parked"))
    return found


def _work_zones(
    patches: Patches, net: RoadMap, plots: Plots, pool: Pool, count: int, zones: _Zones, rng: np.random.Generator
) -> list[Standing]:
    """Every other one in a parking strip, if there are any; the others beside the road with a large machine."""
    strips = [lane for lane in net.lanes.values() if lane.kind is LaneKind.CLOSED and lane.length_m > ZONE_M + 32]
    roads = [edge for edge in net.edges.values() if edge.lanes[0].length_m > 50 and edge.kind != "roundabout"]
    found: list[Standing] = []
    for index in range(count):
        if strips and index % 2 == 0:
            found += _strip_zone(strips[int(rng.integers(len(strips)))], pool, zones, rng)
            continue
        for _ in range(30):
            site = _site(patches, roads[int(rng.integers(len(roads)))], plots, pool, rng)
            if site:
                found += site
                break
    return found


def _strip_zone(lane: Lane, pool: Pool, zones: _Zones, rng: np.random.Generator) -> list[Standing]:
    """Cones along the lane, boards at both ends, a dumper and a worker between."""
    line = without_doubles(lane.shape_m)
    start = float(rng.uniform(14.0, lane.length_m - ZONE_M - 14.0))
    if zones.has(lane.name, start) or zones.has(lane.name, start + ZONE_M):
        return []
    zones.taken.append((lane.name, start - 5.0, start + ZONE_M + 5.0))
    found = []
    cone = pool.of("cone")[int(rng.integers(2))].model.name
    for k, at in enumerate(np.arange(start, start + ZONE_M + 0.1, 2.4)):
        point, yaw = _along(line, float(at), lane.width_m / 2 - 0.3 - max(0.0, 0.8 - 0.4 * k))
        found.append(_stand(cone, point, yaw + float(rng.uniform(0, 1.5))))
    for at, turn in ((start + 1.5, np.pi), (start + ZONE_M, 0.0)):
        point, yaw = _along(line, at, -0.15)
        found.append(_stand(pool.of("board")[0].model.name, point, yaw + turn))
    point, yaw = _along(line, start + ZONE_M * 0.55, -0.05)
    found.append(_stand(pool.of("dumper")[0].model.name, point, yaw, attribute="vehicle.stopped"))
    point, yaw = _along(line, start + ZONE_M * 0.8, 0.1)
    found.append(_worker(pool, point, float(rng.uniform(0, 2 * np.pi)), 0.0))
    return found


def _worker(pool: Pool, point_m: F64, yaw_rad: float, foot_m: float) -> Standing:
    name = pool.of("worker")[0].model.name
    return _stand(name, point_m, yaw_rad, foot_m, "pedestrian.standing", GAIT_PHASES)


def _site(patches: Patches, edge: Edge, plots: Plots, pool: Pool, rng: np.random.Generator) -> list[Standing]:
    """Bare soil beside the road with an excavator or a loader, fenced with concrete barriers and cones."""
    line = without_doubles(edge.lanes[0].shape_m)
    start = float(rng.uniform(14.0, arc_lengths(line)[-1] - SITE_M[0] - 14.0))
    reach = edge.lanes[0].width_m / 2 + (4.6 if edge.kind == "motorway" else 2.2)
    point, yaw = _along(line, start, -reach)
    along = np.array([np.cos(yaw), np.sin(yaw)])
    away = np.array([along[1], -along[0]])
    corners = rectangle(point, along, *SITE_M)
    if not plots.take(corners):
        return []
    foot = GROUND_M if patches.relief.is_flat else HILLY_GROUND_M
    patches.flat_quads(corners[None], foot + 0.05, "soil", (122, 100, 74))
    machine = pool.of("excavator", "loader")[int(rng.integers(2))].model.name
    middle = point + along * SITE_M[0] / 2 + away * SITE_M[1] * 0.58
    found = [_stand(machine, middle, yaw + float(rng.uniform(-0.4, 0.4)), foot + 0.05, "vehicle.stopped")]
    jersey = pool.of("jersey")[0]
    # A barrier's length lies along its y axis: x looks away from the road.
    found.extend(
        _stand(jersey.model.name, point + along * at + away * 0.4, yaw - np.pi / 2, foot + 0.05)
        for at in np.arange(jersey.width_m / 2, SITE_M[0] - jersey.width_m / 2, jersey.width_m + 0.1)
    )
    for at in (2.5, 5.0, 7.5):
        found.append(_stand(pool.of("cone")[1].model.name, point + away * at, 0.0, foot + 0.05))
        found.append(_stand(pool.of("cone")[1].model.name, point + away * at + along * SITE_M[0], 0.0, foot + 0.05))
    found.append(_worker(pool, point + along * 2.5 + away * 3.0, yaw + 1.0, foot + 0.05))
    return found


def _signals(patches: Patches, net: RoadMap) -> list[Standing]:
    """For each approach with a light: a head on a post at the right, one on an arm over wide roads."""
    approaches: dict[str, list[Connection]] = {}
    for connection in net.connections:
        if connection.signal is not None:
            approaches.setdefault(connection.from_edge, []).append(connection)
    found = []
    for name, connections in approaches.items():
        edge = net.edges[name]
        straight = next((c for c in connections if c.direction == "s"), connections[0])
        lanes = edge.of(LaneKind.DRIVE, LaneKind.BUS)
        line = without_doubles(edge.lanes[0].shape_m)
        right = edge.lanes[0].width_m / 2 + 0.5 if is_fast(edge) else -edge.lanes[0].width_m / 2 + 0.45
        point, yaw = _along(line, arc_lengths(line)[-1] - 0.6, -right)
        back = yaw + np.pi
        facing = np.array([np.cos(back), np.sin(back)])
        reach = float(np.linalg.norm(lanes[-1].shape_m[-1, :2] - point)) if len(lanes) > 1 else 0.0
        add_signal_post(patches, point, yaw, reach)
        heads = [(point + facing * 0.18, 2.35 + PAVEMENT_M)]
        if reach:
            side = np.array([-np.sin(yaw), np.cos(yaw)])
            heads.append((point + side * (reach - 0.5) + facing * 0.2, 5.5 + PAVEMENT_M))
        for place, height in heads:
            found.append(
                Standing(
                    model="signal_0",
                    foot_m=(float(place[0]), float(place[1]), height),
                    yaw_rad=back,
                    signal=straight.signal,
                    link=straight.link,
                )
            )
    return found
