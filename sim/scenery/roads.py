"""Road surfaces, verges, pavements with kerbs, and the ground around."""

import numpy as np
from numpy.typing import NDArray

from sim.maps.lines import offset, resample, strip_outline, without_doubles
from sim.maps.net import Edge, Lane, LaneKind, RoadMap
from sim.maps.relief import MARGIN_M
from sim.scenery.patches import Patches, counter_clockwise

F64 = NDArray[np.float64]

PAVEMENT_M = 0.12
KERB_M = 0.15
GROUND_M = -0.06
HILLY_GROUND_M = -0.15
STEP_M = 5.0
JOINT_M, BED_M = 0.15, -0.02
"""The road bed reaches so far beyond a lane and lies so deep: on bends neighbours leave slits, and grass lies below."""
HORIZON_M = np.array([300.0, 600.0, 1500.0])
"""Steps beyond the map in which the ground goes on, level."""

ASPHALT = (72, 72, 75)
BUS_ASPHALT = (110, 66, 58)
CYCLE_ASPHALT = (120, 60, 52)
PAVING = (150, 147, 142)
KERBSTONE = (176, 174, 168)
GRASS = (86, 112, 58)
SHOULDER = (92, 91, 90)

FORECOURT = (142, 138, 130)
FORECOURT_M = 3.2
BUILT_UP = ("town", "avenue", "arterial")


def lane_line(patches: Patches, lane: Lane) -> F64:
    """The middle of a lane in steps short enough to follow the ground."""
    line = without_doubles(lane.shape_m)
    return line if patches.relief.is_flat else resample(line, STEP_M)


def is_fast(edge: Edge) -> bool:
    """Whether the road has verges instead of pavements."""
    return not edge.of(LaneKind.SIDEWALK)


def add_roads(patches: Patches, net: RoadMap, rng: np.random.Generator) -> None:
    """Lanes, junctions, verges and pavements."""
    for edge in net.edges.values():
        _add_edge(patches, edge, rng)
    for junction in net.junctions.values():
        if len(junction.shape_m) > 2:
            patches.polygon(junction.shape_m, 0.0, "asphalt", ASPHALT)
    for lane in net.lanes.values():
        if lane.kind is LaneKind.WALKINGAREA and len(lane.shape_m) > 2:
            _add_raised(patches, lane.shape_m[:, :2], PAVING)


def _add_edge(patches: Patches, edge: Edge, rng: np.random.Generator) -> None:
    for lane in edge.lanes:
        line = lane_line(patches, lane)
        if lane.kind is LaneKind.SIDEWALK:
            _add_raised(patches, strip_outline(line, lane.width_m)[:, :2], PAVING)
            left = offset(line, lane.width_m / 2)
            patches.strip(left, offset(left, -KERB_M), PAVEMENT_M + 0.004, "kerb", KERBSTONE)
            if edge.kind in BUILT_UP:
                right = offset(line, -lane.width_m / 2)
                patches.strip(right, offset(right, -FORECOURT_M), PAVEMENT_M - 0.02, "pavement", FORECOURT)
            continue
        base = {LaneKind.BUS: BUS_ASPHALT, LaneKind.BICYCLE: CYCLE_ASPHALT}.get(lane.kind, ASPHALT)
        shade = np.array(base) + float(rng.uniform(-5, 5))
        half = lane.width_m / 2
        patches.strip(offset(line, half + JOINT_M), offset(line, -half - JOINT_M), BED_M, "asphalt", ASPHALT)
        patches.strip(offset(line, half), offset(line, -half), 0.0, "asphalt", shade)
    if is_fast(edge):
        outer = lane_line(patches, edge.lanes[0])
        border = offset(outer, -edge.lanes[0].width_m / 2)
        width = 2.5 if edge.kind == "motorway" else 0.7
        patches.strip(border, offset(border, -width), -0.01, "asphalt", SHOULDER)


def _add_raised(patches: Patches, outline_m: F64, color: tuple[int, int, int]) -> None:
    """A polygon at pavement height with kerbs all around."""
    ring = counter_clockwise(outline_m)
    if len(ring) < 3:
        return
    patches.polygon(ring, PAVEMENT_M, "pavement", color)
    patches.wall(np.concatenate([ring, ring[:1]]), GROUND_M, PAVEMENT_M, "kerb", KERBSTONE)


def add_ground(patches: Patches, net: RoadMap, rng: np.random.Generator) -> None:
    """Grass under and around everything to the horizon: a grid, wide where flat; fields differ in colour."""
    x0, y0, x1, y1 = net.bounds_m
    step = 60.0 if patches.relief.is_flat else 10.0
    xs, ys = (
        np.concatenate(
            [low - HORIZON_M[::-1], np.arange(low - MARGIN_M, high + MARGIN_M + step, step), high + HORIZON_M]
        )
        for low, high in ((x0, x1), (y0, y1))
    )
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    corners = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], axis=2).reshape(-1, 4, 2)
    fields = rng.uniform(-14, 14, (len(ys) // 6 + 1, len(xs) // 6 + 1))
    rows, columns = np.divmod(np.arange(len(corners)), len(xs) - 1)
    tone = fields[rows // 6, columns // 6] + rng.uniform(-4, 4, len(corners))
    color = np.array(GRASS) + tone[:, None] * (1.0, 0.7, 0.4)
    patches.flat_quads(corners, GROUND_M if patches.relief.is_flat else HILLY_GROUND_M, "grass", color)
