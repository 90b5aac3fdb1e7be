"""Cones, barriers and signal heads."""

from itertools import pairwise

import numpy as np

from sim.actors.body import Body
from sim.actors.solids import BLACK, Skin, box, ellipsoid, loft, tube

ORANGE: Skin = ("plastic", (230, 90, 25))
WHITE_BAND: Skin = ("sign", (240, 240, 240))
CONE_BAND: Skin = ("plastic", (240, 240, 240))
"""Recorded cones are far less bright to a lidar than signs are."""
RED_BAND: Skin = ("sign", (200, 30, 30))

LAMPS = ("lamp_red", "lamp_yellow", "lamp_green")
LAMP_COLORS = ((110, 22, 20), (112, 88, 18), (20, 96, 48))
"""Of unlit lenses; `signal_lamps_at` says which one shines."""


def traffic_cone(height_m: float) -> Body:
    """An orange cone with two white bands on a black foot."""
    levels, radii = np.array([0.04, 0.40, 0.55, 0.68, 0.80, 1.0]), np.array([0.20, 0.125, 0.10, 0.08, 0.06, 0.03])
    angle = 2 * np.pi * np.arange(10) / 10
    rings = [
        [(np.cos(a) * r * height_m, np.sin(a) * r * height_m, z * height_m) for a in angle]
        for z, r in zip(levels, radii, strict=True)
    ]
    bands = [ORANGE, CONE_BAND, ORANGE, CONE_BAND, ORANGE]
    cone = loft(np.array(rings), [[band] * 10 for band in bands])
    foot = box((0.52 * height_m, 0.52 * height_m, 0.05 * height_m), (0, 0, 0.025 * height_m), ("tyre", BLACK))
    return Body(phases=((foot, cone),))


def jersey_barrier(length_m: float) -> Body:
    """A concrete barrier, wide at its foot; x across it, its length along y (nuScenes labels barriers so)."""
    concrete: Skin = ("concrete", (168, 166, 160))
    levels = ((0.0, 0.30), (0.08, 0.30), (0.33, 0.16), (0.82, 0.10))
    parts = []
    for (low, wide), (high, narrow) in pairwise(levels):
        profile = [(-wide, low), (wide, low), (narrow, high), (-narrow, high)]
        ends = [[(x, y, z) for x, z in profile] for y in (-length_m / 2, length_m / 2)]
        parts.append(loft(np.array(ends), concrete))
    return Body(phases=(tuple(parts),))


def board_barrier(length_m: float) -> Body:
    """A striped board on two feet; its length along y."""
    parts = []
    count = max(4, round(length_m / 0.3))
    step = length_m / count
    for k in range(count):
        y = -length_m / 2 + (k + 0.5) * step
        parts.append(box((0.05, step, 0.25), (0, y, 0.92), RED_BAND if k % 2 == 0 else WHITE_BAND))
    for side in (1, -1):
        y = side * (length_m / 2 - 0.2)
        parts.append(box((0.06, 0.06, 0.85), (0, y, 0.48), ("metal", (150, 150, 152))))
        parts.append(box((0.60, 0.18, 0.10), (0, y, 0.05), ("tyre", BLACK)))
        parts.append(ellipsoid((0, y, 1.12), (0.05, 0.09, 0.09), ("plastic", (230, 150, 30)), 6, 2))
    return Body(phases=(tuple(parts),))


def signal_head() -> Body:
    """Three lamps in a housing with hoods, facing x; red above."""
    housing: Skin = ("plastic", BLACK)
    parts = [box((0.22, 0.34, 0.98), (0, 0, 0.49), housing), box((0.02, 0.56, 1.16), (-0.06, 0, 0.49), housing)]
    for z, lamp, color in zip((0.80, 0.49, 0.18), LAMPS, LAMP_COLORS, strict=True):
        parts.append(tube((0.10, 0, z), (0.135, 0, z), (0.11, 0.10), (lamp, color), 12))
        parts.append(box((0.20, 0.26, 0.02), (0.20, 0, z + 0.135), housing))
    return Body(phases=(tuple(parts),))
