"""The pixels of one camera: kept in blocks for casting, laid out as images where neighbours matter.

Shadows are asked for at one pixel of 2x2 first, and at the others only where that does not settle the matter.
"""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from sim.sensors.render import DOME, Moment, Renderer, Sight
from sim.sensors.tiles import tile_order

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

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
        faces, green = self.to_image(face), self.to_image(np.sqrt(light[1]))
        is_edge = np.zeros(self.shape, dtype=bool)
        for axis in (0, 1):
            here = (slice(1, None), slice(None))[:: 1 - 2 * axis]
            step = np.abs(np.diff(green, axis=axis)) > _VISIBLE * green[here]
            is_edge[here] |= step & (np.diff(faces, axis=axis) != 0)
        return np.flatnonzero(is_edge.ravel()[self.place])

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
        settled = self._settle(lit, face)
        left = np.flatnonzero(~asks & ~settled[sight.rows])
        lit[sight.rows[left]] = renderer.sunlit(sight, left, moment)
        return lit

    def _settle(self, lit: F32, face: I64) -> Bool:
        """Let pixels take the answer of the four that asked around them, in place; True (N,) where that settles it.

        Only those that show the same face count, and they must agree.
        """
        asked, faces = self.to_image(lit)[::2, ::2] > 0, self.to_image(face)
        bright, dark = np.zeros(self.shape, dtype=bool), np.zeros(self.shape, dtype=bool)
        for down in (0, 1):
            for right in (0, 1):
                pad = ((0, down), (0, right))
                answer = np.pad(asked, pad, "edge")[down:, right:]
                same = self._spread(np.pad(faces[::2, ::2], pad, "edge")[down:, right:]) == faces
                answer = self._spread(answer)
                bright |= same & answer
                dark |= same & ~answer
        settled: Bool = (bright ^ dark).ravel()[self.place]
        lit[settled] = bright.ravel()[self.place[settled]]
        return settled

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

    def _spread(self, half: NDArray[Any]) -> NDArray[Any]:
        """An image of half the size, rounded up, to full size (H, W)."""
        full: NDArray[Any] = half.repeat(2, axis=0)[: self.shape[0]].repeat(2, axis=1)
        return full[:, : self.shape[1]]
