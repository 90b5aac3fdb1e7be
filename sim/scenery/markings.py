"""White lines: lane dividers, edge lines, stop lines and zebra crossings."""

import numpy as np
from numpy.typing import NDArray

from sim.maps.lines import arc_lengths, at_arc, normals, offset, without_doubles
from sim.maps.net import Connection, Edge, LaneKind, RoadMap
from sim.scenery.patches import Patches
from sim.scenery.roads import is_fast, lane_line

F64 = NDArray[np.float64]

WHITE = (226, 226, 220)
HEIGHT_M = 0.008
HILLY_HEIGHT_M = 0.02
LINE_M = 0.12
STOP_M = 0.40
STRIPE_M = 0.5

DASH = (3.0, 6.0)
FAST_DASH = (6.0, 12.0)


def add_markings(patches: Patches, net: RoadMap) -> None:
    """All lines of a map."""
    opposite = {(edge.start, edge.end): name for name, edge in net.edges.items()}
    signalled = {connection.from_edge for connection in net.connections if connection.signal is not None}
    for name, edge in net.edges.items():
        _dividers(patches, edge)
        _borders(patches, edge, opposite.get((edge.end, edge.start)))
        if name in signalled:
            _stop_line(patches, edge)
    for connection in net.connections:
        if connection.direction == "s" and net.edges[connection.from_edge].kind == "motorway":
            _through(patches, net, connection)
    for lane in net.lanes.values():
        if lane.kind is LaneKind.CROSSING:
            _zebra(patches, without_doubles(lane.shape_m), lane.width_m)


def _height(patches: Patches) -> float:
    return HEIGHT_M if patches.relief.is_flat else HILLY_HEIGHT_M


def _line(patches: Patches, middle_m: F64, width_m: float = LINE_M) -> None:
    left, right = offset(middle_m, width_m / 2), offset(middle_m, -width_m / 2)
    patches.strip(left, right, _height(patches), "marking", WHITE)


def _dashes(patches: Patches, middle_m: F64, dash: tuple[float, float], width_m: float = LINE_M) -> None:
    length, gap = dash
    total = arc_lengths(middle_m)[-1]
    starts = np.arange(gap / 2, total - length, length + gap)
    if not len(starts):
        return
    ends = np.stack([starts, starts + length], axis=1)
    points = at_arc(middle_m[:, :2], ends.ravel()).reshape(-1, 2, 2)
    along = points[:, 1] - points[:, 0]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.stack([-along[:, 1], along[:, 0]], axis=1) * width_m / 2
    corners = np.stack([points[:, 0] - side, points[:, 1] - side, points[:, 1] + side, points[:, 0] + side], axis=1)
    patches.flat_quads(corners, _height(patches), "marking", WHITE)


def _dividers(patches: Patches, edge: Edge) -> None:
    """Between neighbouring lanes of one direction."""
    dash = FAST_DASH if is_fast(edge) else DASH
    for right, left in zip(edge.lanes, edge.lanes[1:], strict=False):
        if LaneKind.SIDEWALK in (right.kind, left.kind):
            continue
        middle = offset(lane_line(patches, right), right.width_m / 2)
        if right.kind is left.kind:
            _dashes(patches, middle, dash)
        elif LaneKind.CLOSED in (right.kind, left.kind):
            _dashes(patches, middle, (1.0, 1.0))
        else:
            _line(patches, middle, 0.2)


def _borders(patches: Patches, edge: Edge, opposite: str | None) -> None:
    """The middle of the road (drawn once for both directions) and the edge lines of roads without pavements."""
    inner = edge.lanes[-1]
    border = offset(lane_line(patches, inner), inner.width_m / 2)
    if opposite is None:
        _line(patches, offset(border, -0.2), 0.15)
    elif edge.name < opposite:
        count = len(edge.of(LaneKind.DRIVE, LaneKind.BUS))
        if count > 1:
            _line(patches, offset(border, 0.13))
            _line(patches, offset(border, -0.13))
        elif edge.kind != "residential":
            _dashes(patches, border, FAST_DASH if is_fast(edge) else DASH)
    if is_fast(edge):
        outer = edge.lanes[0]
        _line(patches, offset(lane_line(patches, outer), 0.15 - outer.width_m / 2), 0.15)


def _through(patches: Patches, net: RoadMap, connection: Connection) -> None:
    """Lines go on where a motorway's edges join: a line at the median, dashes between lanes."""
    is_inner = connection.from_lane == len(net.edges[connection.from_edge].lanes) - 1
    for name in connection.via:
        lane = net.lanes[name]
        border = offset(lane_line(patches, lane), lane.width_m / 2)
        if is_inner:
            _line(patches, offset(border, -0.2), 0.15)
        else:
            _dashes(patches, border, FAST_DASH)


def _stop_line(patches: Patches, edge: Edge) -> None:
    """Across the lanes for vehicles at the end of an edge."""
    lanes = edge.of(LaneKind.DRIVE, LaneKind.BUS, LaneKind.BICYCLE)
    right, left = without_doubles(lanes[0].shape_m), without_doubles(lanes[-1].shape_m)
    a = offset(right, -lanes[0].width_m / 2 + 0.1)[-1, :2]
    b = offset(left, lanes[-1].width_m / 2 - 0.1)[-1, :2]
    side = normals(right)[-1]
    back = np.array([-side[1], side[0]])
    corners = np.array(
        [[a + 0.5 * back + STOP_M * back, a + 0.5 * back, b + 0.5 * back, b + 0.5 * back + STOP_M * back]]
    )
    patches.flat_quads(corners, _height(patches), "marking", WHITE)


def _zebra(patches: Patches, line_m: F64, width_m: float) -> None:
    """Stripes across the way of those who walk."""
    total = arc_lengths(line_m)[-1]
    starts = np.arange(STRIPE_M / 2, total - STRIPE_M, 2 * STRIPE_M)
    if not len(starts):
        return
    ends = at_arc(line_m[:, :2], np.stack([starts, starts + STRIPE_M], axis=1).ravel()).reshape(-1, 2, 2)
    along = ends[:, 1] - ends[:, 0]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.stack([-along[:, 1], along[:, 0]], axis=1) * (width_m / 2 - 0.2)
    corners = np.stack([ends[:, 0] - side, ends[:, 1] - side, ends[:, 1] + side, ends[:, 0] + side], axis=1)
    patches.flat_quads(corners, _height(patches), "marking", WHITE)
