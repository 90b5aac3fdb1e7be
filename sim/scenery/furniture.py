"""Street furniture: lamps, signs, delineators, guard rails, gantries, bus shelters and the posts of traffic lights."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.actors.solids import BLACK, Skin, box, loft, mesh_of, tube
from sim.maps.lines import arc_lengths, at_arc, headings, offset, resample, without_doubles
from sim.maps.net import Edge, LaneKind, RoadMap
from sim.scene import Mesh
from sim.scenery.patches import Patches, upright
from sim.scenery.plots import Plots
from sim.scenery.roads import PAVEMENT_M, is_fast

F64 = NDArray[np.float64]

ZINC: Skin = ("metal", (140, 144, 148))
WHITE: Skin = ("sign", (235, 235, 235))
RED: Skin = ("sign", (190, 24, 28))
BLUE: Skin = ("sign", (28, 72, 160))
LAMP_EVERY_M = 32.0
POST_EVERY_M = 50.0
GANTRY_EVERY_M = 450.0


def _sign_parts(kind: str) -> Mesh:
    """A sign on its post, facing x."""
    parts = [tube((0, 0, -0.1), (0, 0, 2.9), (0.035, 0.035), ZINC, 6)]
    if kind == "limit":
        parts += [
            tube((0.04, 0, 2.55), (0.06, 0, 2.55), (0.32, 0.32), RED, 14),
            tube((0.06, 0, 2.55), (0.07, 0, 2.55), (0.24, 0.24), WHITE, 14),
        ]
    elif kind == "yield":
        for size, x, skin in ((0.42, 0.05, RED), (0.28, 0.07, WHITE)):
            corners = [(0.0, -1.0), (0.87, 0.5), (-0.87, 0.5)]
            rings = [[(x + d, y * size, 2.5 + z * size) for y, z in corners] for d in (0.0, 0.012)]
            parts.append(loft(np.array(rings), skin))
    else:
        parts.append(box((0.02, 0.6, 0.6), (0.05, 0, 2.5), BLUE))
        parts.append(box((0.01, 0.34, 0.34), (0.066, 0, 2.5), WHITE))
    return mesh_of(parts)


def _lamp_post() -> Mesh:
    """Six metres, its arm to x. The pane below its head is what shines at night (`sensors.lamps`)."""
    return mesh_of([
        tube((0, 0, -0.1), (0, 0, 6.4), (0.09, 0.05), ZINC, 7),
        tube((0, 0, 6.4), (1.4, 0, 6.7), (0.045, 0.035), ZINC, 5),
        box((0.6, 0.22, 0.10), (1.6, 0, 6.70), ("plastic", (70, 72, 74))),
        box((0.5, 0.18, 0.04), (1.6, 0, 6.64), ("lamp_yellow", (255, 214, 150))),
    ])  # fmt: skip


def _delineator() -> Mesh:
    return mesh_of([
        box((0.10, 0.12, 1.0), (0, 0, 0.45), ("plastic", (235, 235, 232)), top=0.8),
        box((0.11, 0.13, 0.20), (0, 0, 0.78), ("plastic", BLACK)), box((0.125, 0.05, 0.16), (0, 0, 0.78), WHITE),
    ])  # fmt: skip


def _shelter() -> Mesh:
    """A bus shelter, its open side to x."""
    glass: Skin = ("window", (120, 140, 150))
    return mesh_of([
        box((0.05, 3.6, 2.0), (-0.7, 0, 1.3), glass), box((1.3, 0.05, 2.0), (0, 1.8, 1.3), glass),
        box((1.7, 4.0, 0.12), (0.05, 0, 2.45), ZINC),
        box((0.4, 2.4, 0.08), (-0.4, 0, 0.55), ("plastic", (120, 84, 54))),
        *(tube((x, y, 0), (x, y, 2.4), (0.05, 0.05), ZINC, 5) for x in (-0.7, 0.65) for y in (-1.8, 1.8)),
    ])  # fmt: skip


def add_furniture(patches: Patches, net: RoadMap, plots: Plots, rng: np.random.Generator) -> None:
    """Everything that stands beside the roads but houses, trees and traffic lights."""
    signs: dict[str, list[tuple[F64, float]]] = {"limit": [], "yield": [], "parking": []}
    lamps: list[tuple[F64, float]] = []
    posts: list[tuple[F64, float]] = []
    shelters: list[tuple[F64, float]] = []
    signalled = {connection.from_edge for connection in net.connections if connection.signal is not None}
    for name, edge in net.edges.items():
        line = without_doubles(edge.lanes[0].shape_m)
        total = arc_lengths(line)[-1]
        if total < 25 or edge.kind == "roundabout":
            continue
        outside = -edge.lanes[0].width_m / 2 - (0.9 if is_fast(edge) else -0.35)
        signs["limit"].append(_beside(line, 8.0, outside, turned=np.pi))
        if name not in signalled and rng.random() < 0.6:
            signs["yield"].append(_beside(line, total - 2.0, outside, turned=np.pi))
        if is_fast(edge):
            posts.extend(_beside(line, at, outside - 0.4, turned=np.pi) for at in np.arange(10, total, POST_EVERY_M))
            if edge.kind == "motorway":
                _gantries(patches, edge, total)
            continue
        if edge.of(LaneKind.CLOSED):
            signs["parking"].append(_beside(line, 14.0, outside, turned=np.pi))
        lamps.extend(_beside(line, at, outside, turned=np.pi / 2) for at in np.arange(12, total - 6, LAMP_EVERY_M))
        if edge.of(LaneKind.BUS) and total > 80:
            shelters.append(_beside(line, total * 0.6 - 4, outside + 0.6, turned=np.pi / 2))
    for kind, places in signs.items():
        _place(patches, plots, _sign_parts(kind), places, _foot(patches))
    _place(patches, plots, _lamp_post(), lamps, PAVEMENT_M)
    _place(patches, plots, _delineator(), posts, _foot(patches))
    _place(patches, plots, _shelter(), shelters, PAVEMENT_M)
    _guard_rails(patches, net, plots)


def _foot(patches: Patches) -> float:
    return 0.0 if patches.relief.is_flat else -0.1


def _beside(line_m: F64, at_m: float, left_m: float, turned: float) -> tuple[F64, float]:
    """A place beside a line and a heading turned from the line's."""
    count = max(2, len(line_m))
    moved = offset(line_m, left_m)
    share = at_m / arc_lengths(line_m)[-1]
    point = at_arc(moved[:, :2], np.array([share * arc_lengths(moved)[-1]]))[0]
    segment = min(int(np.searchsorted(arc_lengths(line_m), at_m)), count - 1)
    return point, float(headings(line_m)[segment]) + turned


def _place(patches: Patches, plots: Plots, mesh: Mesh, places: Sequence[tuple[F64, float]], foot_m: float) -> None:
    """Copies at all places that another road does not claim."""
    free = [(point, yaw) for point, yaw in places if not plots.is_road(point)]
    if free:
        points = patches.lifted(np.array([point for point, _ in free]), foot_m)
        patches.copies(mesh, upright(points, np.array([yaw for _, yaw in free])))


def _guard_rails(patches: Patches, net: RoadMap, plots: Plots) -> None:
    """W-beams beside motorways, in their median, and outside sharp bends of country roads."""
    for edge in net.edges.values():
        if not is_fast(edge) or edge.kind == "roundabout":
            continue
        outer, inner = edge.lanes[0], edge.lanes[-1]
        line = resample(without_doubles(outer.shape_m), 4.0)
        if len(line) < 6:
            continue
        if edge.kind == "motorway":
            _rail(patches, plots, offset(line, -outer.width_m / 2 - 3.0), faces_left=True)
            middle = resample(without_doubles(inner.shape_m), 4.0)
            _rail(patches, plots, offset(middle, inner.width_m / 2 + 1.4), faces_left=False)
        elif edge.kind == "rural":
            turn = np.gradient(np.unwrap(headings(line)), arc_lengths(line))
            for run in _runs(turn > 1 / 130.0):
                if run.stop - run.start > 6:
                    _rail(patches, plots, offset(line, -outer.width_m / 2 - 1.3)[run], faces_left=True)


def _runs(is_in: NDArray[np.bool_]) -> list[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_in, [False]]).astype(np.int8)))
    return [slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _rail(patches: Patches, plots: Plots, line_m: F64, *, faces_left: bool) -> None:
    """A rail along a line, open where another road joins."""
    whole = line_m[::-1] if faces_left else line_m
    for run in _runs(~plots.is_road(whole)):
        if run.stop - run.start > 3:
            _beam(patches, whole[run])


def _beam(patches: Patches, line: F64) -> None:
    """A beam at 0.45 to 0.75 m on posts, its face to the right."""
    back = offset(line, 0.08)
    patches.wall(line, 0.45, 0.75, *ZINC)
    patches.wall(back[::-1], 0.45, 0.75, *ZINC)
    patches.strip(back, line, 0.75, *ZINC)
    post = mesh_of([box((0.12, 0.06, 0.95), (0, 0, 0.25), ZINC)])
    stands = offset(line, 0.14)
    patches.copies(post, upright(patches.lifted(stands[:, :2], 0.0), headings(line)))


def _gantries(patches: Patches, edge: Edge, total_m: float) -> None:
    """Portals with blue boards over motorway lanes."""
    line = without_doubles(edge.lanes[0].shape_m)
    inner = edge.lanes[-1]
    span = float(np.linalg.norm(inner.shape_m[0, :2] - line[0, :2])) + 9.0
    for at in np.arange(220.0, total_m - 60, GANTRY_EVERY_M):
        point, yaw = _beside(line, float(at), -edge.lanes[0].width_m / 2 - 3.6, turned=np.pi)
        parts = [
            box((0.3, 0.3, 7.0), (0, 0, 3.5), ZINC),
            box((0.3, 0.3, 7.0), (0, -span, 3.5), ZINC),
            box((0.35, span, 0.5), (0, -span / 2, 6.8), ZINC),
        ]
        for k in range(len(edge.of(LaneKind.DRIVE))):
            parts.append(box((0.06, 3.0, 1.7), (0.22, -5.6 - 3.75 * k, 6.6), BLUE))
            parts.append(box((0.02, 2.0, 0.3), (0.26, -5.6 - 3.75 * k, 6.9), WHITE))
        patches.copies(mesh_of(parts), upright(patches.lifted(point[None], 0.0), np.array([yaw])))


def add_signal_post(patches: Patches, point_m: F64, yaw_rad: float, reach_m: float) -> None:
    """The post of a traffic light; with an arm of `reach_m` to the left of `yaw_rad` if that is not zero."""
    parts = [tube((0, 0, -0.1), (0, 0, 3.6 if reach_m == 0 else 6.2), (0.08, 0.07), ZINC, 8)]
    if reach_m:
        parts.append(tube((0, 0, 6.0), (0, reach_m, 6.15), (0.06, 0.045), ZINC, 6))
    patches.copies(mesh_of(parts), upright(patches.lifted(point_m[None], PAVEMENT_M), np.array([yaw_rad])))
