"""Where one may drive or walk: polygons of a map and a grid that answers for many points at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sim.maps.lines import strip_outline, without_doubles
from sim.maps.net import LaneKind, RoadMap

F64 = NDArray[np.float64]

CELL_M = 0.2
SHIFT = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AreaGrid:
    """A set of cells. is_inside: (rows along y, columns along x) bool, True where the middle of the cell belongs."""

    origin_m: F64
    cell_m: float
    is_inside: NDArray[np.bool_]

    def contains(self, points_m: NDArray[np.floating]) -> NDArray[np.bool_]:
        """True (...) for points (..., 2 or more) inside; False outside the grid."""
        index = np.floor((points_m[..., :2] - self.origin_m) / self.cell_m).astype(np.int64)
        rows, columns = self.is_inside.shape
        is_on = (index >= 0).all(axis=-1) & (index[..., 0] < columns) & (index[..., 1] < rows)
        i, j = np.clip(index[..., 0], 0, columns - 1), np.clip(index[..., 1], 0, rows - 1)
        found: NDArray[np.bool_] = is_on & self.is_inside[j, i]
        return found


def drivable_polygons(net: RoadMap) -> tuple[F64, ...]:
    """Outlines (N, 2) of lanes for vehicles and of junctions without their pavements; they overlap."""
    driven = (LaneKind.DRIVE, LaneKind.BUS, LaneKind.BICYCLE, LaneKind.INTERNAL, LaneKind.CLOSED)
    polygons = []
    for lane in net.lanes.values():
        line = without_doubles(lane.shape_m)
        if lane.kind in driven and len(line) > 1:
            polygons.append(strip_outline(line, lane.width_m)[:, :2])
    polygons.extend(junction.shape_m[:, :2] for junction in net.junctions.values() if len(junction.shape_m) > 2)
    return tuple(polygons)


def walking_polygons(net: RoadMap) -> tuple[F64, ...]:
    """Outlines (N, 2) of pavements and of the corners where they meet (crossings are road)."""
    polygons = []
    for lane in net.lanes.values():
        line = without_doubles(lane.shape_m)
        if lane.kind is LaneKind.SIDEWALK and len(line) > 1:
            polygons.append(strip_outline(line, lane.width_m)[:, :2])
        elif lane.kind is LaneKind.WALKINGAREA and len(line) > 2:
            polygons.append(line[:, :2])
    return tuple(polygons)


def grid_of(
    inside: Sequence[F64], outside: Sequence[F64], bounds_m: tuple[float, float, float, float], cell_m: float = CELL_M
) -> AreaGrid:
    """Cells in any polygon of `inside` and in none of `outside`."""
    x0, y0, x1, y1 = bounds_m
    origin = np.array([x0 - 20.0, y0 - 20.0])
    columns, rows = (int(np.ceil((high - low + 40.0) / cell_m)) for low, high in ((x0, x1), (y0, y1)))
    image = np.zeros((rows, columns), dtype=np.uint8)
    for value, polygons in ((1, inside), (0, outside)):
        for polygon in polygons:
            pixels = np.round(((polygon - origin) / cell_m - 0.5) * (1 << SHIFT)).astype(np.int32)
            cv2.fillPoly(image, [pixels], value, shift=SHIFT)
    return AreaGrid(origin_m=origin, cell_m=cell_m, is_inside=image.astype(bool))


def drivable_grid(net: RoadMap, cell_m: float = CELL_M) -> AreaGrid:
    return grid_of(drivable_polygons(net), walking_polygons(net), net.bounds_m, cell_m)
