"""Houses along the streets: storeys of windows, shops below, flat or pitched roofs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.maps.lines import arc_lengths, at_arc, offset, without_doubles
from sim.maps.net import Edge, RoadMap
from sim.scenery.patches import Patches
from sim.scenery.plots import Plots, rectangle
from sim.scenery.roads import is_fast

F64 = NDArray[np.float64]
Color = tuple[int, int, int]

WALLS: tuple[Color, ...] = (
    (196, 184, 160), (176, 120, 92), (206, 200, 190), (150, 92, 76), (182, 170, 150), (214, 196, 150), (140, 140, 142),
    (190, 150, 120), (168, 178, 176),
)  # fmt: skip
ROOFS: tuple[Color, ...] = ((120, 66, 52), (84, 80, 78), (96, 74, 62))
PANE: Color = (58, 72, 84)
ROOM: Color = (40, 42, 46)
FRAME_M = 0.05
STOREY_M = 3.1
GROUND_STOREY_M = 3.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Of the houses along a kind of road."""

    width_m: tuple[float, float]
    depth_m: tuple[float, float]
    storeys: tuple[int, int]
    setback_m: tuple[float, float]
    gap_m: tuple[float, float]
    share: float
    pitched: float
    shops: float


STYLES: dict[str, Style] = {
    "residential": Style(
        width_m=(9, 15), depth_m=(8, 11), storeys=(2, 3), setback_m=(2.5, 6.0), gap_m=(3, 8),
        share=0.9, pitched=0.85, shops=0.05,
    ),
    "town": Style(
        width_m=(11, 20), depth_m=(9, 13), storeys=(3, 5), setback_m=(0.6, 2.0), gap_m=(0, 4),
        share=0.9, pitched=0.4, shops=0.45,
    ),
    "avenue": Style(
        width_m=(14, 26), depth_m=(11, 15), storeys=(4, 7), setback_m=(1.8, 3.0), gap_m=(0, 5),
        share=0.9, pitched=0.15, shops=0.7,
    ),
    "rural": Style(
        width_m=(9, 16), depth_m=(8, 12), storeys=(1, 2), setback_m=(9, 25), gap_m=(40, 160),
        share=0.5, pitched=1.0, shops=0.0,
    ),
}  # fmt: skip


def style_of(edge: Edge) -> Style | None:
    """How houses stand along a road; None beside motorways and roundabouts."""
    if edge.kind in ("motorway", "ramp", "roundabout") or edge.speed_mps > 25:
        return None
    if is_fast(edge):
        return STYLES["rural"]
    return STYLES["avenue"] if edge.kind == "arterial" else STYLES.get(edge.kind, STYLES["town"])


def add_buildings(patches: Patches, net: RoadMap, plots: Plots, rng: np.random.Generator) -> int:
    """Houses on the right of every edge, where there is room. Returns how many."""
    count = 0
    for edge in net.edges.values():
        style = style_of(edge)
        if style is None:
            continue
        border = offset(without_doubles(edge.lanes[0].shape_m), -edge.lanes[0].width_m / 2)[:, :2]
        total, at = arc_lengths(border)[-1], float(rng.uniform(*style.gap_m))
        while at < total - 4.0:
            width = float(rng.uniform(*style.width_m))
            if rng.random() < style.share:
                count += _try_house(patches, plots, border, at, width, style, rng)
            at += width + float(rng.uniform(*style.gap_m)) + 0.5
    return count


def _try_house(
    patches: Patches, plots: Plots, border_m: F64, at_m: float, width_m: float, style: Style, rng: np.random.Generator
) -> bool:
    """One house, made narrower once if it does not fit."""
    start, end = at_arc(border_m, np.array([at_m, at_m + width_m]))
    along = (end - start) / max(float(np.linalg.norm(end - start)), 1e-6)
    away = np.array([along[1], -along[0]])
    depth, setback = float(rng.uniform(*style.depth_m)), float(rng.uniform(*style.setback_m))
    for share in (1.0, 0.65):
        corners = rectangle(start + away * (setback + 1.2), along, width_m * share, depth * share)
        if plots.take(corners, gap_m=0.3):
            storeys = int(rng.integers(style.storeys[0], style.storeys[1] + 1))
            is_pitched, has_shop = rng.random() < style.pitched, rng.random() < style.shops
            _house(patches, corners, storeys, bool(is_pitched), bool(has_shop), rng)
            return True
    return False


def _house(
    patches: Patches, corners_m: F64, storeys: int, is_pitched: bool, has_shop: bool, rng: np.random.Generator
) -> None:
    """Four walls with windows, and a roof. corners_m: (4, 2) counter-clockwise, the street before the last side."""
    wall = np.array(WALLS[int(rng.integers(len(WALLS)))]) + rng.uniform(-10, 10, 3)
    low = float(patches.relief.at(corners_m).min()) - 0.3
    base = float(patches.relief.at(corners_m).max())
    top = base + GROUND_STOREY_M + STOREY_M * (storeys - 1)
    for side in range(4):
        a, b = corners_m[side], corners_m[(side + 1) % 4]
        shade = wall * (0.96 if side % 2 else 1.0)
        face = np.array([[[*a, low], [*b, low], [*b, top], [*a, top]]])
        patches.quads(face, "facade", shade)
        _windows(patches, a, b, base, storeys, has_shop and side == 3, rng)
    roof: Color = ROOFS[int(rng.integers(len(ROOFS)))]
    if is_pitched:
        _pitched_roof(patches, corners_m, top, roof, wall)
    else:
        _flat_roof(patches, corners_m, top, wall)


def _windows(
    patches: Patches, a: F64, b: F64, base: float, storeys: int, has_shop: bool, rng: np.random.Generator
) -> None:
    """Panes before dark rooms, in rows and columns; a wide shop front or a door below."""
    length = float(np.linalg.norm(b - a))
    columns = int((length - 1.0) / 2.7)
    if columns < 1:
        return
    width, height = float(rng.uniform(1.1, 1.5)), float(rng.uniform(1.4, 1.8))
    middle = length * (np.arange(columns) + 0.5) / columns
    u, v = np.meshgrid(middle, base + GROUND_STOREY_M + STOREY_M * np.arange(storeys - 1) + 0.9)
    panes = np.stack([u.ravel() - width / 2, u.ravel() + width / 2, v.ravel(), v.ravel() + height], axis=1)
    half, sill, tall = (1.15, 0.5, 2.3) if has_shop else (width / 2, 1.2, height)
    ground = np.full(columns, base + sill)
    below = np.stack([middle - half, middle + half, ground, ground + tall], axis=1)
    rows = np.concatenate([panes, below])
    for out, material, color in ((0.02, "facade", ROOM), (0.05, "window", PANE)):
        patches.quads(_on_wall(a, b, rows, out), material, color)
    frames = np.concatenate([rows[:, :2] + (-FRAME_M, FRAME_M), rows[:, 2:3] - 0.12, rows[:, 2:3]], axis=1)
    patches.quads(_on_wall(a, b, frames, 0.12), "facade", (214, 212, 206))
    door = np.array([[length / 2 + 0.80, length / 2 + 1.90, base, base + 2.2]])
    if columns > 1 and not has_shop:
        patches.quads(_on_wall(a, b, door, 0.06), "facade", (84, 58, 42))


def _on_wall(a: F64, b: F64, spans: F64, out_m: float) -> F64:
    """Quads (Q, 4, 3) on the wall from a to b. spans: (Q, 4) from, to along it, low, high."""
    along = (b - a) / np.linalg.norm(b - a)
    outward = np.array([along[1], -along[0]])
    left, right = (a + outward * out_m + along * spans[:, k, None] for k in (0, 1))
    low, high = spans[:, 2, None], spans[:, 3, None]
    return np.stack(
        [np.hstack([left, low]), np.hstack([right, low]), np.hstack([right, high]), np.hstack([left, high])], axis=1
    )


def _flat_roof(patches: Patches, corners_m: F64, top: float, wall: F64) -> None:
    parapet = corners_m.mean(axis=0) + (corners_m - corners_m.mean(axis=0)) * 0.96
    ring, inner = (np.column_stack([points, np.full(4, top + 0.6)]) for points in (corners_m, parapet))
    after = np.roll(np.arange(4), -1)
    patches.quads(np.stack([ring, ring[after], inner[after], inner], axis=1), "facade", wall * 0.9)
    skirt = np.column_stack([corners_m, np.full(4, top)])
    patches.quads(np.stack([skirt, skirt[after], ring[after], ring], axis=1), "facade", wall)
    floor = np.column_stack([parapet, np.full(4, top + 0.1)])
    patches.quads(np.stack([floor[after], floor, inner, inner[after]], axis=1), "facade", wall * 0.9)
    patches.quads(floor[None], "concrete", (112, 110, 108))


def _pitched_roof(patches: Patches, corners_m: F64, top: float, roof: Color, wall: F64) -> None:
    """A gabled roof whose ridge follows the longer side, with eaves."""
    sides = np.linalg.norm(corners_m - np.roll(corners_m, -1, axis=0), axis=1)
    ring = corners_m if sides[0] > sides[1] else np.roll(corners_m, -1, axis=0)
    rise = min(sides) * 0.42
    ridge = np.array([(ring[3] + ring[0]) / 2, (ring[1] + ring[2]) / 2])
    high = np.column_stack([ridge, np.full(2, top + rise)])
    low = np.column_stack([ring, np.full(4, top)])
    middle = np.append(corners_m.mean(axis=0), top)
    eaves = low + (low - middle) * (0.06, 0.06, 0.0) - (0, 0, 0.12)
    edge = high + (high - np.append(ridge.mean(axis=0), top + rise)) * (0.06, 0.06, 0.0)
    slopes = np.array([[eaves[0], eaves[1], edge[1], edge[0]], [eaves[2], eaves[3], edge[0], edge[1]]])
    patches.quads(slopes, "facade", roof)
    patches.quads(slopes[:, ::-1] - (0, 0, 0.05), "facade", (120, 108, 96))
    gables = np.concatenate([low[[1, 2]], high[[1]], low[[3, 0]], high[[0]]])
    patches.add(gables, np.array([[0, 1, 2], [3, 4, 5]]), "facade", wall)
