"""Procedural surface textures in one atlas, with smaller copies for distance."""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

SIDE: Final = 256
LEVELS: Final = 6
NEUTRAL: Final = 128.0
SLOW_M: Final = 80.0
"""Side of the pattern that varies large surfaces."""
_REMAP_COLUMNS: Final = 1024


class TextureAtlas:
    """All textures, a row each, with levels of half the size side by side; every tile repeats without a seam.

    Values are multipliers of the surface's own colour; `NEUTRAL` is 1. image: (H, W, 3) uint8 blue, green, red. slow:
    (SIDE, SIDE) uint8, a smooth pattern of patches some metres wide. kinds: (textures, 2) float32, tiles per metre and
    first row of each. levels: (LEVELS, 2) float32, side in texels and first column of each.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        left = np.array([sum((SIDE >> i) + 2 for i in range(level)) for level in range(LEVELS)])
        width = int(left[-1]) + (SIDE >> (LEVELS - 1)) + 2
        self.image = np.full(((SIDE + 2) * len(TEXTURES), width, 3), NEUTRAL, dtype=np.uint8)
        for row, (paint, _) in enumerate(TEXTURES.values()):
            texture = np.clip(paint(rng) * NEUTRAL, 0, 255).astype(np.uint8)
            for level in range(LEVELS):
                side = SIDE >> level
                small = cv2.resize(texture, (side, side), interpolation=cv2.INTER_AREA)
                top, begin = row * (SIDE + 2), int(left[level])
                self.image[top : top + side + 2, begin : begin + side + 2] = np.pad(
                    small, ((1, 1), (1, 1), (0, 0)), "wrap"
                )
        slow = 1 + 0.09 * noise(rng, 3.0) + 0.07 * noise(rng, 14.0)
        self.slow = np.clip(slow * NEUTRAL, 0, 255).astype(np.uint8)
        # Half a texel of the border, and half back: texel centres lie at whole numbers.
        first_row = np.arange(len(TEXTURES)) * (SIDE + 2) + 0.5
        rate = [1 / period for _, period in TEXTURES.values()]
        self.kinds = np.stack([rate, first_row], axis=1).astype(np.float32)
        self.levels = np.stack([SIDE >> np.arange(LEVELS), left + 0.5], axis=1).astype(np.float32)


def sample_image(image: U8, x: F32, y: F32) -> U8:
    """Bilinear samples (C, N) of an image (H, W, C) at pixel positions (N,); at the border the edge repeats."""
    n = len(x)
    rows = max(1, -(-n // _REMAP_COLUMNS))
    places = np.zeros((2, rows * _REMAP_COLUMNS), dtype=np.float32)
    places[0, :n], places[1, :n] = x, y
    grid = places.reshape(2, rows, _REMAP_COLUMNS)
    picked = cv2.remap(image, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(picked.reshape(rows * _REMAP_COLUMNS, -1)[:n].T)


def noise(rng: np.random.Generator, sigma_y: float, sigma_x: float | None = None, side: int = SIDE) -> F32:
    """Smooth noise (side, side) that repeats without a seam; mean 0, deviation 1."""
    white = rng.standard_normal((side, side), dtype=np.float32)
    pad = min(side, int(4 * max(sigma_y, sigma_x or 0.0)) + 1)
    wide = cv2.GaussianBlur(np.pad(white, pad, "wrap"), (0, 0), sigmaX=sigma_x or sigma_y, sigmaY=sigma_y)
    smooth = wide[pad:-pad, pad:-pad]
    return np.asarray((smooth - smooth.mean()) / smooth.std(), dtype=np.float32)


def _gray(values: F32) -> F32:
    return np.repeat(values[:, :, None], 3, axis=2)


def _joints(height: int, width: int, offset_rows: bool) -> tuple[NDArray[np.bool_], I64]:
    """Where joints run between stones of that size in texels, and the number of the stone at each texel."""
    y, x = np.mgrid[:SIDE, :SIDE]
    row = y // height
    shifted = x + (row % 2) * (width // 2) * offset_rows
    column = shifted // width % (SIDE // width)
    is_joint = (y % height < max(1, height // 12)) | (shifted % width < max(1, height // 12))
    return is_joint, row * (SIDE // width) + column


def _stones(rng: np.random.Generator, height: int, width: int, offset_rows: bool, contrast: float, joint: float) -> F32:
    is_joint, number = _joints(height, width, offset_rows)
    tint = 1 + contrast * rng.standard_normal(int(number.max()) + 1)
    values = tint[number] + 0.03 * noise(rng, 0.8)
    return _gray(np.where(is_joint, joint, values).astype(np.float32))


def _asphalt(rng: np.random.Generator) -> F32:
    grain = 1 + 0.13 * noise(rng, 0.7) + 0.05 * noise(rng, 5.0) + 0.04 * noise(rng, 24.0)
    crack = np.abs(noise(rng, 14.0) + 0.25 * noise(rng, 3.0)) < 0.025
    return _gray(np.where(crack & (noise(rng, 30.0) > 0.6), 0.62 * grain, grain))


def _marking(rng: np.random.Generator) -> F32:
    return _gray(
        np.where(noise(rng, 1.5) + 0.5 * noise(rng, 12.0) > 1.9, 0.6, 1 + 0.05 * noise(rng, 0.8)).astype(np.float32)
    )


def _pavement(rng: np.random.Generator) -> F32:
    return _stones(rng, 32, 32, True, 0.06, 0.68) * _gray(1 + 0.05 * noise(rng, 10.0))


def _grass(rng: np.random.Generator) -> F32:
    blades = 1 + 0.22 * noise(rng, 1.6, 0.6) + 0.10 * noise(rng, 9.0)
    dry = np.clip(0.5 + 0.5 * noise(rng, 18.0), 0, 1)[:, :, None]
    return np.asarray(_gray(blades) * (1 + dry * np.array([-0.12, 0.02, 0.16], dtype=np.float32)), dtype=np.float32)


def _soil(rng: np.random.Generator) -> F32:
    return _gray(1 + 0.14 * noise(rng, 1.2) + 0.10 * noise(rng, 8.0))


def _brick(rng: np.random.Generator) -> F32:
    return _stones(rng, 8, 16, True, 0.10, 1.22) * _gray(1 + 0.04 * noise(rng, 20.0))


def _plaster(rng: np.random.Generator) -> F32:
    return _gray(1 + 0.025 * noise(rng, 0.8) + 0.03 * noise(rng, 26.0, 6.0) + 0.03 * noise(rng, 30.0))


def _panels(rng: np.random.Generator) -> F32:
    return _stones(rng, 64, 64, False, 0.025, 0.72)


def _bark(rng: np.random.Generator) -> F32:
    return _gray(1 + 0.25 * noise(rng, 10.0, 1.5) + 0.08 * noise(rng, 1.0))


def _foliage(rng: np.random.Generator) -> F32:
    leaves = noise(rng, 2.2) + 0.7 * noise(rng, 6.0)
    shade = np.clip(1 + 0.34 * leaves, 0.30, 1.8)
    tint = np.clip(noise(rng, 12.0), -2, 2)[:, :, None] * np.array([-0.04, 0.0, 0.07], dtype=np.float32)
    return _gray(shade.astype(np.float32)) * (1 + tint)


def _concrete(rng: np.random.Generator) -> F32:
    return _gray(1 + 0.04 * noise(rng, 0.8) + 0.05 * noise(rng, 20.0, 5.0) - 0.05 * (noise(rng, 0.9) > 2.4))


def _cloth(rng: np.random.Generator) -> F32:
    return _gray(1 + 0.10 * noise(rng, 14.0, 5.0))


def _plain(_rng: np.random.Generator) -> F32:
    return np.ones((SIDE, SIDE, 3), dtype=np.float32)


TEXTURES: Final[dict[str, tuple[Callable[[np.random.Generator], F32], float]]] = {
    "plain": (_plain, 4.0),
    "asphalt": (_asphalt, 3.0),
    "marking": (_marking, 2.0),
    "pavement": (_pavement, 3.2),
    "grass": (_grass, 3.0),
    "soil": (_soil, 4.0),
    "brick": (_brick, 2.4),
    "plaster": (_plaster, 9.0),
    "panels": (_panels, 6.0),
    "bark": (_bark, 1.2),
    "foliage": (_foliage, 2.6),
    "concrete": (_concrete, 3.5),
    "cloth": (_cloth, 1.5),
}
"""Painter and side in metres of each texture."""
