"""Height of the ground: one smooth surface through the roads of a map, for scenery and wheels alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from sim.maps.lines import resample
from sim.maps.net import LaneKind, RoadMap

F64 = NDArray[np.float64]

CELL_M = 5.0
MARGIN_M = 160.0
SMOOTH_M = 12.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relief:
    """Heights on a grid. origin_m: (2,) of its first cell. height_m: (rows along y, columns along x); None if flat."""

    origin_m: F64
    height_m: F64 | None
    level_m: float = 0.0

    @property
    def is_flat(self) -> bool:
        return self.height_m is None

    def at(self, points_m: NDArray[np.floating]) -> F64:
        """Height (...) of points (..., 2 or more), bilinear, constant outside the grid."""
        if self.height_m is None:
            return np.full(points_m.shape[:-1], self.level_m)
        rows, columns = self.height_m.shape
        x = np.clip((points_m[..., 0] - self.origin_m[0]) / CELL_M, 0, columns - 1.001)
        y = np.clip((points_m[..., 1] - self.origin_m[1]) / CELL_M, 0, rows - 1.001)
        i, j = x.astype(np.int64), y.astype(np.int64)
        u, v = x - i, y - j
        grid = self.height_m
        low = grid[j, i] * (1 - u) + grid[j, i + 1] * u
        high = grid[j + 1, i] * (1 - u) + grid[j + 1, i + 1] * u
        height: F64 = low * (1 - v) + high * v
        return height


def relief_of(net: RoadMap) -> Relief:
    """The ground under a map. One height for each place: bridges are pressed onto what they cross."""
    x0, y0, x1, y1 = net.bounds_m
    origin = np.array([x0 - MARGIN_M, y0 - MARGIN_M])
    if net.is_flat:
        level = next(iter(net.lanes.values())).shape_m[0, 2]
        return Relief(origin_m=origin, height_m=None, level_m=float(level))
    kinds = (LaneKind.DRIVE, LaneKind.BUS, LaneKind.INTERNAL)
    lines = [resample(lane.shape_m, CELL_M) for lane in net.lanes.values() if lane.kind in kinds]
    known = np.concatenate(lines)
    xs = np.arange(origin[0], x1 + MARGIN_M + CELL_M, CELL_M)
    ys = np.arange(origin[1], y1 + MARGIN_M + CELL_M, CELL_M)
    cells = np.stack(np.meshgrid(xs, ys), axis=-1)
    distance, index = cKDTree(known[:, :2]).query(cells.reshape(-1, 2), k=12)
    weight = 1.0 / np.maximum(distance, 1.0) ** 2
    height = np.sum(weight * known[index, 2], axis=1) / np.sum(weight, axis=1)
    smooth: F64 = gaussian_filter(height.reshape(cells.shape[:2]), SMOOTH_M / CELL_M)
    return Relief(origin_m=origin, height_m=smooth)
