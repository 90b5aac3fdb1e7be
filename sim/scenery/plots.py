"""Which ground is taken: roads first, then whatever is placed, so that nothing stands in anything else."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sim.maps.area import AreaGrid, drivable_polygons, grid_of, walking_polygons
from sim.maps.net import RoadMap

F64 = NDArray[np.float64]

CELL_M = 0.5
MARGIN_M = 110.0


@dataclass(slots=True)
class Plots:
    """A grid over the map and its surroundings. is_taken: (rows along y, columns along x) uint8, 1 where taken.

    roads: lanes and junctions without pavements, grown by half a metre.
    """

    origin_m: F64
    is_taken: NDArray[np.uint8]
    roads: AreaGrid

    def is_road(self, points_m: F64) -> NDArray[np.bool_]:
        """True (...) where points (..., 2 or more) lie on a road or at its very edge."""
        return self.roads.contains(points_m)

    def take(self, corners_m: F64, gap_m: float = 0.0) -> bool:
        """Take a convex plot (N, 2) if it is free, with a gap around it. Returns whether it was."""
        center = corners_m.mean(axis=0)
        out = corners_m - center
        length = np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
        pixels = np.round((center + out * (1 + gap_m / length) - self.origin_m) / CELL_M).astype(np.int32)
        (x0, y0), (x1, y1) = pixels.min(axis=0), pixels.max(axis=0) + 1
        rows, columns = self.is_taken.shape
        if x0 < 0 or y0 < 0 or x1 > columns or y1 > rows:
            return False
        mask = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
        cv2.fillConvexPoly(mask, pixels - (x0, y0), 1)
        window = self.is_taken[y0:y1, x0:x1]
        if np.any(window & mask):
            return False
        window |= mask
        return True

    def take_disc(self, point_m: F64, radius_m: float) -> bool:
        angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
        return self.take(point_m + radius_m * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def plots_of(net: RoadMap, gap_m: float = 1.0) -> Plots:
    """All ground but roads and pavements, which keep `gap_m` around them."""
    x0, y0, x1, y1 = net.bounds_m
    grown = (x0 - MARGIN_M, y0 - MARGIN_M, x1 + MARGIN_M, y1 + MARGIN_M)
    grid = grid_of((*drivable_polygons(net), *walking_polygons(net)), (), grown, CELL_M)
    size = 2 * round(gap_m / CELL_M) + 1
    taken = cv2.dilate(grid.is_inside.astype(np.uint8), np.ones((size, size), dtype=np.uint8))
    driven = grid_of(drivable_polygons(net), walking_polygons(net), grown, CELL_M)
    edge = cv2.dilate(driven.is_inside.astype(np.uint8), np.ones((3, 3), dtype=np.uint8))
    roads = AreaGrid(origin_m=driven.origin_m, cell_m=CELL_M, is_inside=edge.astype(bool))
    return Plots(origin_m=grid.origin_m, is_taken=taken.astype(np.uint8), roads=roads)


def rectangle(front_m: F64, along: F64, length_m: float, depth_m: float) -> F64:
    """Corners (4, 2), counter-clockwise: the front runs from a point along a unit vector, the depth to its right."""
    away = np.array([along[1], -along[0]])
    a, b = front_m, front_m + along * length_m
    return np.array([a, a + away * depth_m, b + away * depth_m, b])
