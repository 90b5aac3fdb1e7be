"""Rays in tiles of neighbours, and which tiles can meet which boxes: the culling before any casting."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

TILE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RayTiles:
    """T tiles of 64 rays in the given order. origin_m, axis: (3, T) mean origin and unit mean direction.

    spread_m: (T,) how far any origin lies from the mean. angle_rad: (T,) how far any direction turns from the axis.
    """

    origin_m: NDArray[np.float32]
    axis: NDArray[np.float32]
    spread_m: NDArray[np.float32]
    angle_rad: NDArray[np.float32]

    @classmethod
    def of(cls, origin_m: NDArray[Any], direction: NDArray[np.float32]) -> "RayTiles":
        """Tiles of rays (3, N); origins may be one for all, (3, 1)."""
        directions = _in_tiles(direction)
        total = directions.mean(axis=2)
        axis = total / np.maximum(np.linalg.norm(total, axis=0), 1e-6)
        cosine = np.einsum("itr,it->tr", directions, axis).min(axis=1)
        if origin_m.shape[1] == 1:
            mean = np.broadcast_to(origin_m.astype(np.float32), axis.shape)
            spread = np.zeros(axis.shape[1], dtype=np.float32)
        else:
            origins = _in_tiles(origin_m.astype(np.float32))
            mean = origins.mean(axis=2)
            off = origins - mean[:, :, None]
            spread = np.sqrt(np.einsum("itr,itr->tr", off, off).max(axis=1))
        # A little wider than it is, for what float32 rounds away.
        angle = np.arccos(np.clip(cosine, -1.0, 1.0)) + np.float32(1e-3)
        return cls(origin_m=mean, axis=axis, spread_m=spread + np.float32(1e-3), angle_rad=angle)

    def meetings(
        self, *, center_m: F64, half_m: F64, rotation: F64, margin_m: F64, reach_m: float
    ) -> tuple[I64, I64]:
        """Pairs (P,) of box and tile that may meet; never misses one that does.

        center_m, half_m: (K, 3) boxes; rotation: (K, 3, 3) world_R_box; margin_m: (K,) added on all sides. First every
        box's sphere against every tile's cone, then for the pairs left the tile's axis against the widened box.
        """
        radius = (np.linalg.norm(half_m, axis=1) + margin_m).astype(np.float32)
        offset = center_m.T.astype(np.float32)[:, :, None] - self.origin_m[:, None, :]
        distance = np.sqrt(np.einsum("ikt,ikt->kt", offset, offset))
        along = np.einsum("ikt,it->kt", offset, self.axis)
        wide = radius[:, None] + self.spread_m
        sine = np.minimum(wide / np.maximum(distance, 1e-6), 1.0)
        cosine = np.sqrt(1.0 - sine * sine)
        limit = cosine * np.cos(self.angle_rad) - sine * np.sin(self.angle_rad)
        is_near = (distance <= wide) | (self.angle_rad > np.pi / 2) | (along >= limit * distance)
        box, tile = np.nonzero(is_near & (distance - wide <= reach_m))
        keep = self._axis_meets(box, tile, offset[:, box, tile], distance[box, tile] + radius[box], half_m, rotation, margin_m)
        return box[keep], tile[keep]

    def _axis_meets(
        self,
        box: I64,
        tile: I64,
        offset: NDArray[np.float32],
        far_m: NDArray[np.float32],
        half_m: F64,
        rotation: F64,
        margin_m: F64,
    ) -> Bool:
        """Slab test of tile axes against boxes grown by how far a ray of the tile strays from the axis until there."""
        r = rotation.reshape(-1, 9).T.astype(np.float32)[:, box]
        grow = self.spread_m[tile] + self.angle_rad[tile] * far_m + margin_m.astype(np.float32)[box]
        enter = np.zeros(len(box), dtype=np.float32)
        leave = np.full(len(box), np.inf, dtype=np.float32)
        for i in range(3):
            start = -(r[i] * offset[0] + r[3 + i] * offset[1] + r[6 + i] * offset[2])
            step = r[i] * self.axis[0, tile] + r[3 + i] * self.axis[1, tile] + r[6 + i] * self.axis[2, tile]
            step = np.where(np.abs(step) < 1e-6, np.float32(1e-6), step)
            half = half_m[:, i].astype(np.float32)[box] + grow
            one, other = (-half - start) / step, (half - start) / step
            enter = np.maximum(enter, np.minimum(one, other))
            leave = np.minimum(leave, np.maximum(one, other))
        return enter <= leave


def _in_tiles(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, N) to (3, T, 64), the last ray repeated to fill the last tile."""
    lacking = -columns.shape[1] % TILE
    if lacking:
        columns = np.concatenate([columns, np.repeat(columns[:, -1:], lacking, axis=1)], axis=1)
    return columns.reshape(3, -1, TILE)
