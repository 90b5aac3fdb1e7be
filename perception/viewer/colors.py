"""The colours of everything that is drawn, the same in pictures, videos and the viewer. RGB, 0..255."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]

BACKGROUND: Final[Color] = (18, 20, 24)
TRUTH: Final[Color] = (170, 170, 170)
HINT: Final[Color] = (255, 220, 80)
RADAR: Final[Color] = (255, 90, 90)
EGO: Final[Color] = (220, 220, 220)
CLASS_COLORS: Final[tuple[Color, ...]] = (
    (80, 200, 80), (240, 160, 60), (240, 200, 40), (60, 140, 200), (200, 110, 30),
    (220, 120, 230), (80, 180, 240), (60, 220, 200), (255, 120, 60), (110, 130, 150),
)  # fmt: skip
"""One colour for each of `CLASSES`."""

LOWEST_M, HIGHEST_M = -0.5, 4.0


def height_colors(height_m: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(N, 3) from dark (on the ground) to bright (`HIGHEST_M` above it and more) of heights (N,) in the ego frame."""
    return _shaded((height_m - LOWEST_M) / (HIGHEST_M - LOWEST_M), cv2.COLORMAP_VIRIDIS)


def intensity_colors(intensity: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(N, 3) of intensities (N,) in 0..1; the root spreads the many weak returns."""
    return _shaded(np.sqrt(np.clip(intensity, 0.0, 1.0)), cv2.COLORMAP_INFERNO)


def _shaded(share: NDArray[np.floating], colormap: int) -> NDArray[np.uint8]:
    if not len(share):
        return np.zeros((0, 3), dtype=np.uint8)
    # The first steps of both maps are black on black.
    shade = np.clip(40 + share * 215, 40, 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(shade[:, None], colormap)[:, 0, ::-1], dtype=np.uint8)
