"""The pixels of one camera: kept in blocks for casting, laid out as images where neighbours matter.

Scenery is cast at every second pixel, and shadows at one of 2x2; at the others only where that leaves it unsettled.
"""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from sim.sensors.raycast import NO_HIT
from sim.sensors.render import DOME, Moment, Renderer, Sight
from sim.sensors.scene_caster import Rays, SceneCaster
from sim.sensors.screen_loops import blend_with_neighbours, fill_between, find_edges, settle_shadows
from sim.sensors.tiles import tile_order

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_DOME_SIDE: Final = round(DOME**0.5)

_VISIBLE: Final = np.float32(0.06)
"""Step of the root of light that shows as a jagged edge."""


class Screen:
    """All N pixels in block order. column, row: (N,) int64. place: (N,) row-major index."""

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height, width)
        v, u = (grid.ravel() for grid in np.mgrid[:height, :width])
        order = tile_order(v, u)
        self.column, self.row = u[order], v[order]
        self.place = self.row * width + self.column
        self._index = np.empty((height, width), dtype=np.int64)
        self._index.ravel()[self.place] = np.arange(len(self.place))
        self._cast = np.flatnonzero((self.column + self.row) % 2 == 0)
        self._asks = (self.column % 2 == 0) & (self.row % 2 == 0)
        # 4x4 of the pixels that ask for their sky share out the directions of the dome.
        self._pattern = (self.row // 2 % _DOME_SIDE) * _DOME_SIDE + self.column // 2 % _DOME_SIDE

    def __len__(self) -> int:
        return len(self.place)

    def to_image(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values (N,) or (C, N) in block order as an image (H, W) or (H, W, C)."""
        image = np.empty((len(self), *values.shape[:-1]), dtype=values.dtype)
        image[self.place] = values.T
        return image.reshape(*self.shape, *values.shape[:-1])

    def edges(self, face: I64, light: F32) -> I64:
        """Rows of pixels whose neighbour left or above shows another face (N,) in visibly different light (3, N)."""
        is_edge = np.zeros(len(self), dtype=bool)
        find_edges(self._index, face, light, _VISIBLE, is_edge)
        return np.flatnonzero(is_edge)

    def blend(self, pixel: I64, light: F32) -> F32:
        """Light (3, E) of pixels (E,), each spread over its neighbours as a lens does it."""
        blended = np.empty((3, len(pixel)), dtype=np.float32)
        blend_with_neighbours(self._index, self.row, self.column, pixel, light, blended)
        return blended

    def cast_scenery(self, rays: Rays, caster: SceneCaster) -> tuple[F32, NDArray[np.int32]]:
        """Distance and surface (N,) of the scenery along the rays of all pixels: one of two is cast, and then those
        whose neighbours do not settle what they show."""
        distance = np.full(len(self), np.inf, dtype=np.float32)
        surface = np.full(len(self), NO_HIT, dtype=np.int32)
        is_open = np.zeros(len(self), dtype=bool)
        packed = rays.packed()
        distance[self._cast], surface[self._cast] = caster.scenery.nearest(packed[self._cast])
        table = caster.surfaces
        origin = (rays.origin_m - rays.origin_m[:, :1]).astype(np.float32)
        fill_between(self._index, origin, rays.direction, table.look, table.face, distance, surface, is_open)
        left = np.flatnonzero(is_open)
        distance[left], surface[left] = caster.scenery.nearest(packed[left])
        return distance, surface

    def sunlit(self, sight: Sight, face: I64, renderer: Renderer, moment: Moment) -> F32:
        """Whether the sun reaches what each pixel shows, (N,) 0 or 1.

        First one of 2x2 pixels asks, then those that these leave unsettled.
        """
        lit = np.ones(len(self), dtype=np.float32)
        if renderer.is_ambient:
            return lit
        asks = self._asks[sight.rows]
        asked = np.flatnonzero(asks)
        lit[sight.rows[asked]] = renderer.sunlit(sight, asked, moment)
        settled = np.zeros(len(self), dtype=bool)
        settle_shadows(self._index, face, lit, settled)
        left = np.flatnonzero(~asks & ~settled[sight.rows])
        lit[sight.rows[left]] = renderer.sunlit(sight, left, moment)
        return lit

    def open_sky(self, sight: Sight, renderer: Renderer, moment: Moment) -> F32:
        """Share of the sky (N,) that reaches each pixel's surface: one direction from each that asks, averaged."""
        asked = np.flatnonzero(self._asks[sight.rows]) if renderer.is_ambient else np.zeros(0, dtype=np.int64)
        if len(asked) == 0:
            return np.ones(len(self), dtype=np.float32)
        free = renderer.open_sky(sight, asked, moment, self._pattern[sight.rows[asked]])
        image = np.zeros((2, len(self)), dtype=np.float32)
        where = self.place[sight.rows[asked]]
        image[0, where], image[1, where] = free, 1.0
        side = (2 * _DOME_SIDE, 2 * _DOME_SIDE)
        total, count = (cv2.blur(plane.reshape(self.shape), side) for plane in image)
        share = np.where(count > 0, total / np.maximum(count, 1e-6), 1.0)
        return np.asarray(share.ravel()[self.place], dtype=np.float32)
