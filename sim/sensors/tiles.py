"""Rays in tiles of neighbours, and which tiles can meet which boxes: the culling before any casting."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

TILE: Final = 16
GROUP: Final = 16
"""Tiles that are first looked at together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Boxes:
    """K boxes that rays may meet. center_m, half_m: (K, 3) float64. rotation: (K, 3, 3) world_R_box.

    margin_m: (K,) added on all sides, for what moves meanwhile.
    """

    center_m: F64
    half_m: F64
    rotation: F64
    margin_m: F64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RayTiles:
    """T tiles of 16 rays in the given order, the last ray repeated to fill the last group of 16 tiles.

    directions: (3, T, 16). anchor_m: (3,) float64 world, from where all else counts, so that float32 is exact enough
    anywhere. origins_m: (3, T, 16), or (3, 1, 1) one for all. bounds: of each tile.
    """

    directions: F32
    anchor_m: F64
    origins_m: F32
    bounds: "Bounds"

    @classmethod
    def of(cls, origin_m: NDArray[Any], direction: F32) -> "RayTiles":
        """Tiles of rays (3, N); origins may be one for all, (3, 1)."""
        directions = in_tiles(direction)
        total = directions.sum(axis=2)
        axis = total / np.maximum(np.linalg.norm(total, axis=0), 1e-6)
        cosine = np.einsum("itr,it->tr", directions, axis).min(axis=1)
        anchor = origin_m[:, 0].astype(np.float64)
        if origin_m.shape[1] == 1:
            origins = np.zeros((3, 1, 1), dtype=np.float32)
            center = np.zeros(axis.shape, dtype=np.float32)
            spread = np.zeros(axis.shape[1], dtype=np.float32)
        else:
            origins = in_tiles((origin_m - anchor[:, None]).astype(np.float32))
            center = origins.mean(axis=2)
            off = origins - center[:, :, None]
            spread = np.sqrt(np.einsum("itr,itr->tr", off, off).max(axis=1))
        # A little wider than they are, for what float32 rounds away.
        angle = np.arccos(np.clip(cosine, -1.0, 1.0)) + np.float32(1e-3)
        bounds = Bounds(center_m=center, axis=axis, spread_m=spread + np.float32(1e-3), angle_rad=angle)
        return cls(directions=directions, anchor_m=anchor, origins_m=origins, bounds=bounds)

    def meetings(self, boxes: Boxes, reach_m: float) -> tuple[I64, I64]:
        """Pairs (P,) of box and tile that may meet within `reach_m`; never misses one that does.

        First every box's sphere against every group's cone, then the boxes of these pairs against the group's tiles.
        """
        center = (boxes.center_m - self.anchor_m).T.astype(np.float32)
        radius = (np.linalg.norm(boxes.half_m, axis=1) + boxes.margin_m).astype(np.float32)
        box, group = np.nonzero(self.bounds.grouped().may_meet(center, radius, reach_m))
        tile = (group[:, None] * GROUP + np.arange(GROUP)).ravel()
        box = np.repeat(box, GROUP)
        keep = self._axis_meets(boxes, box, tile, center, radius, reach_m)
        return box[keep], tile[keep]

    def _axis_meets(self, boxes: Boxes, box: I64, tile: I64, center: F32, radius: F32, reach_m: float) -> Bool:
        """Slab test of tile axes against boxes grown by how far a ray of the tile strays from the axis until there."""
        bounds = self.bounds
        offset = center.take(box, axis=1) - bounds.center_m.take(tile, axis=1)
        distance = np.sqrt(np.einsum("ip,ip->p", offset, offset))
        far = np.minimum(distance + radius[box], np.float32(reach_m))
        r = boxes.rotation.reshape(-1, 9).T.astype(np.float32).take(box, axis=1)
        grow = bounds.spread_m[tile] + bounds.angle_rad[tile] * far + boxes.margin_m.astype(np.float32)[box]
        half = boxes.half_m.T.astype(np.float32).take(box, axis=1) + grow
        enter, leave = slabs(-rotate_back(r, offset), rotate_back(r, bounds.axis.take(tile, axis=1)), half)
        meets: Bool = (enter <= leave) & (enter <= reach_m)
        return meets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bounds:
    """What T bundles of rays stay within. center_m, axis: (3, T) mean origin and unit mean direction.

    spread_m: (T,) how far any origin lies from the mean. angle_rad: (T,) how far any direction turns from the axis.
    """

    center_m: F32
    axis: F32
    spread_m: F32
    angle_rad: F32

    def grouped(self) -> "Bounds":
        """Bounds of groups of 16 bundles."""
        axes, centers = self.axis.reshape(3, -1, GROUP), self.center_m.reshape(3, -1, GROUP)
        total = axes.sum(axis=2)
        axis = total / np.maximum(np.linalg.norm(total, axis=0), 1e-6)
        turn = np.arccos(np.clip(np.einsum("igt,ig->gt", axes, axis), -1.0, 1.0)) + np.float32(1e-3)
        center = centers.mean(axis=2)
        off = np.sqrt(((centers - center[:, :, None]) ** 2).sum(axis=0))
        return Bounds(
            center_m=center,
            axis=axis,
            spread_m=(off + self.spread_m.reshape(-1, GROUP)).max(axis=1),
            angle_rad=(turn + self.angle_rad.reshape(-1, GROUP)).max(axis=1),
        )

    def may_meet(self, center: F32, radius: F32, reach_m: float) -> Bool:
        """True (K, T) where a bundle's cone may touch a sphere within reach. center: (3, K). radius: (K,)."""
        offset = center[:, :, None] - self.center_m[:, None, :]
        distance = np.sqrt(np.einsum("ikt,ikt->kt", offset, offset))
        along = np.einsum("ikt,it->kt", offset, self.axis)
        wide = radius[:, None] + self.spread_m
        sine = np.minimum(wide / np.maximum(distance, 1e-6), 1.0)
        cosine = np.sqrt(1.0 - sine * sine)
        limit = cosine * np.cos(self.angle_rad) - sine * np.sin(self.angle_rad)
        is_near = (distance <= wide) | (self.angle_rad > np.pi / 2) | (along >= limit * distance)
        meets: Bool = is_near & (distance - wide <= reach_m)
        return meets


def tile_order(row: I64, column: I64) -> I64:
    """Order (N,) that keeps rays of a grid in blocks of 4x4, these in larger blocks, and so on (Morton, 1966)."""
    code = np.zeros(len(row), dtype=np.int64)
    for bit in range(16):
        code |= ((column >> bit & 1) << 2 * bit) | ((row >> bit & 1) << (2 * bit + 1))
    return np.argsort(code, kind="stable")


def in_tiles(columns: NDArray[Any]) -> NDArray[Any]:
    """(C, N) to (C, T, 16), the last column repeated to fill the last group of tiles."""
    lacking = -columns.shape[1] % (TILE * GROUP)
    if lacking:
        columns = np.concatenate([columns, np.repeat(columns[:, -1:], lacking, axis=1)], axis=1)
    return columns.reshape(len(columns), -1, TILE)


def rotate_back(r: F32, vector: F32) -> F32:
    """Transposed rotations, row by row (9, ...), times vectors (3, ...)."""
    x, y, z = vector
    rotated = np.empty((3, *np.broadcast_shapes(r.shape[1:], vector.shape[1:])), dtype=np.float32)
    for i in range(3):
        np.multiply(r[i], x, out=rotated[i])
        rotated[i] += r[3 + i] * y
        rotated[i] += r[6 + i] * z
    return rotated


def slabs(start: F32, step: F32, half: F32) -> tuple[F32, F32]:
    """Where rays (3, ...) enter and leave boxes of half size (3, ...) about the origin; leave < enter: never.

    Kay and Kajiya's slab test (1986); enter is 0 where a ray starts inside.
    """
    enter: F32 = np.zeros(step.shape[1:], dtype=np.float32)
    leave: F32 = np.full(step.shape[1:], np.inf, dtype=np.float32)
    for i in range(3):
        inverse = 1 / np.where(np.abs(step[i]) < 1e-7, np.float32(1e-7), step[i])
        middle, reach = -start[i] * inverse, half[i] * np.abs(inverse)
        np.maximum(enter, middle - reach, out=enter)
        np.minimum(leave, middle + reach, out=leave)
    return enter, leave
