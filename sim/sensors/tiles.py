"""An order of pixels and points in which neighbours stay together, for casting."""

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


def tile_order(row: I64, column: I64) -> I64:
    """Order (N,) that keeps rays of a grid in blocks of 4x4, these in larger blocks, and so on (Morton, 1966)."""
    code = np.zeros(len(row), dtype=np.int64)
    for bit in range(16):
        code |= ((column >> bit & 1) << 2 * bit) | ((row >> bit & 1) << (2 * bit + 1))
    return np.argsort(code, kind="stable")
