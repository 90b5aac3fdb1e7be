"""Trees: a few grown prototypes, copied along streets, into gardens and woods."""

import numpy as np
from numpy.typing import NDArray

from sim.actors.solids import Skin, Solid, ellipsoid, mesh_of, tube
from sim.maps.lines import arc_lengths, at_arc, offset, without_doubles
from sim.maps.net import Lane, RoadMap
from sim.scene import Mesh
from sim.scenery.patches import Patches, upright
from sim.scenery.plots import Plots
from sim.scenery.roads import GROUND_M, HILLY_GROUND_M, is_fast

F64 = NDArray[np.float64]

MAX_TREES = 420
ROW_EVERY_M = 16.0
LEAVES = ((72, 98, 44), (92, 112, 50), (58, 86, 46), (110, 108, 56))


def prototypes(rng: np.random.Generator) -> list[Mesh]:
    """Round trees, tall trees, conifers and bushes, 2 to 11 m."""
    meshes = []
    for shape in ("round", "round", "tall", "conifer", "bush", "bush"):
        leaf: Skin = ("foliage", LEAVES[int(rng.integers(len(LEAVES)))])
        parts: list[Solid] = []
        if shape == "bush":
            for _ in range(2):
                at = (*rng.uniform(-0.5, 0.5, 2), 0.7)
                parts.append(_ragged(ellipsoid(at, rng.uniform(0.7, 1.1, 3) * (1, 1, 0.8), leaf, 8, 4), rng))
        elif shape == "conifer":
            parts.append(tube((0, 0, -0.3), (0, 0, 2.0), (0.22, 0.18), ("bark", (74, 58, 44)), 6))
            for low, high, radius in ((1.4, 4.8, 2.1), (3.6, 7.2, 1.6), (6.0, 9.6, 1.0)):
                parts.append(_ragged(tube((0, 0, low), (0, 0, high), (radius, 0.12), leaf, 9), rng))
        else:
            trunk = 2.6 if shape == "round" else 3.4
            parts.append(tube((0, 0, -0.3), (0, 0, trunk + 0.8), (0.22, 0.14), ("bark", (88, 70, 54)), 7))
            for _ in range(4):
                wide = float(rng.uniform(1.3, 2.0)) * (1.0 if shape == "round" else 0.8)
                tall = wide * (0.85 if shape == "round" else 1.5)
                at = (*rng.uniform(-1.0, 1.0, 2), trunk + tall + float(rng.uniform(-0.3, 1.4)))
                parts.append(_ragged(ellipsoid(at, (wide, wide, tall), leaf, 8, 5), rng))
        meshes.append(_mottled(mesh_of(parts), rng))
    return meshes


def _ragged(solid: Solid, rng: np.random.Generator) -> Solid:
    middle = solid.vertices_m.mean(axis=0)
    rough = 1 + rng.uniform(-0.16, 0.16, (len(solid.vertices_m), 1))
    return Solid(
        vertices_m=middle + (solid.vertices_m - middle) * rough,
        triangles=solid.triangles,
        material=solid.material,
        color_rgb=solid.color_rgb,
    )


def _mottled(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    shade = rng.uniform(0.82, 1.15, (len(mesh.triangles), 1))
    return Mesh(
        vertices_m=mesh.vertices_m,
        triangles=mesh.triangles,
        material=mesh.material,
        color_rgb=np.clip(mesh.color_rgb * shade, 0, 255).astype(np.uint8),
    )


def add_trees(patches: Patches, net: RoadMap, plots: Plots, per_km: float, rng: np.random.Generator) -> int:
    """Trees in rows along wide streets, and beside every edge where the ground is free. Returns how many."""
    places: list[F64] = []
    for edge in net.edges.values():
        if per_km and edge.kind in ("avenue", "arterial"):
            places.extend(_row(edge.lanes[0], rng))
        line = without_doubles(edge.lanes[0].shape_m)
        total = arc_lengths(line)[-1]
        near, far = (3.5, 32.0) if is_fast(edge) else (1.6, 14.0)
        for at in rng.uniform(0, total, rng.poisson(per_km * total / 1000)):
            away = edge.lanes[0].width_m / 2 + near + float(rng.exponential((far - near) / 3))
            point = at_arc(offset(line, -away)[:, :2], np.array([at]))[0]
            if plots.take_disc(point, 1.0):
                places.append(point)
    rng.shuffle(places)
    _plant(patches, np.array(places[:MAX_TREES]).reshape(-1, 2), rng)
    return min(len(places), MAX_TREES)


def _row(lane: Lane, rng: np.random.Generator) -> list[F64]:
    """Places just behind a pavement, some left out."""
    line = without_doubles(lane.shape_m)
    places = np.arange(20.0, arc_lengths(line)[-1] - 12.0, ROW_EVERY_M)
    border = offset(line, -lane.width_m / 2 - 0.8)[:, :2]
    return list(at_arc(border, places[rng.random(len(places)) < 0.8]))


def _plant(patches: Patches, places_m: F64, rng: np.random.Generator) -> None:
    meshes = prototypes(rng)
    kind = rng.integers(len(meshes), size=len(places_m))
    yaw, scale = rng.uniform(0, 2 * np.pi, len(places_m)), rng.uniform(0.7, 1.15, len(places_m))
    tint = rng.uniform(0.85, 1.15, len(places_m))
    roots = patches.lifted(places_m, GROUND_M if patches.relief.is_flat else HILLY_GROUND_M)
    for index, mesh in enumerate(meshes):
        here = kind == index
        if np.any(here):
            patches.copies(mesh, upright(roots[here], yaw[here], scale[here]), tint[here])
