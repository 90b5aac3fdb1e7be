"""Corners and edges of oriented boxes."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_SIGNS = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]], dtype=np.float64)
CORNER_SIGNS: Final = np.concatenate([np.c_[_SIGNS, -np.ones(4)], np.c_[_SIGNS, np.ones(4)]])
"""(8, 3) signs of the corners: front-left, front-right, rear-right, rear-left below, then the same above."""

EDGES: Final[tuple[tuple[int, int], ...]] = (
    *((i, (i + 1) % 4) for i in range(4)),
    *((i + 4, (i + 1) % 4 + 4) for i in range(4)),
    *((i, i + 4) for i in range(4)),
)
"""The 12 edges as pairs of corners."""


def box_corners(
    center_m: NDArray[np.floating], size_m: NDArray[np.floating], rotation: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Corners (N, 8, 3), ordered as `CORNER_SIGNS`, of boxes with centre and size (N, 3) and rotation (N, 3, 3)."""
    local = CORNER_SIGNS[None] * np.asarray(size_m, dtype=np.float64)[:, None] / 2
    corners: NDArray[np.float64] = np.einsum("nij,nkj->nki", rotation, local) + np.asarray(center_m)[:, None]
    return corners
