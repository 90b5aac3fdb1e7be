"""Loops over the pixels of a screen that ask each other, compiled.

index: (H, W) int64, the row of each pixel in arrays that hold pixels in block order.
"""

import numpy as np
from numpy.typing import NDArray

from sim.sensors.compiled import Number, compiled

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

SAME_PLANE = np.float32(0.004)
"""Distances that differ by less than this share belong to one surface."""


@compiled
def fill_between(
    index: I64, origin_m: F32, direction: F32, look: F32, face: I64, distance_m: F32, surface: I32, is_open: Bool
) -> None:
    """Let pixels take the surface that their four neighbours saw, where these agree; the others are marked open.

    Every second pixel, as the black fields of a chessboard, was cast. A pixel between lies on the plane of its
    neighbours if all show the same face and their planes meet its ray at one distance: what is longer than a pixel in
    any direction never slips through.
    origin_m: (3, 1) or (3, N). look, face: of `SurfaceTable`. distance_m, surface, is_open: (N,), filled in place.
    """
    height, width = index.shape
    moves = origin_m.shape[1] > 1
    beside = np.empty(4, dtype=np.int64)
    for v in range(height):
        for u in range(1 - v % 2, width, 2):
            i = index[v, u]
            if u == 0 or v == 0 or u == width - 1 or v == height - 1:
                is_open[i] = True
                continue
            beside[0], beside[1] = index[v, u - 1], index[v, u + 1]
            beside[2], beside[3] = index[v - 1, u], index[v + 1, u]
            first = surface[beside[0]]
            if first < 0:
                if surface[beside[1]] >= 0 or surface[beside[2]] >= 0 or surface[beside[3]] >= 0:
                    is_open[i] = True
                continue
            here = i if moves else 0
            near, far = np.float32(np.inf), np.float32(0)
            for k in range(4):
                j = beside[k]
                s = surface[j]
                if s < 0 or face[s] != face[first]:
                    far = np.float32(np.inf)
                    break
                there = j if moves else 0
                nx, ny, nz = look[s, 0], look[s, 1], look[s, 2]
                rise = nx * direction[0, j] + ny * direction[1, j] + nz * direction[2, j]
                offset = nx * (origin_m[0, there] - origin_m[0, here])
                offset += ny * (origin_m[1, there] - origin_m[1, here])
                offset += nz * (origin_m[2, there] - origin_m[2, here])
                slope = nx * direction[0, i] + ny * direction[1, i] + nz * direction[2, i]
                met = (distance_m[j] * rise + offset) / slope if slope != 0 else np.float32(-1)
                near, far = min(near, met), max(far, met)
            if near > 0 and far - near <= SAME_PLANE * near:
                distance_m[i], surface[i] = np.float32(0.5) * (near + far), first
            else:
                is_open[i] = True


@compiled
def settle_shadows(index: I64, face: I64, lit: F32, is_settled: Bool) -> None:
    """Let pixels take the answer of the four of every second row and column around them, in place.

    Only those that show the same face count, and they must agree; `is_settled` (N,) says where they do.
    """
    height, width = index.shape
    for v in range(height):
        for u in range(width):
            i = index[v, u]
            if v % 2 == 0 and u % 2 == 0:
                is_settled[i] = True
                continue
            bright, dark = False, False
            for down in range(2):
                row = min(v - v % 2 + 2 * down * (v % 2), (height - 1) // 2 * 2)
                for right in range(2):
                    column = min(u - u % 2 + 2 * right * (u % 2), (width - 1) // 2 * 2)
                    j = index[row, column]
                    if face[j] == face[i]:
                        bright |= lit[j] > 0
                        dark |= lit[j] <= 0
            is_settled[i] = bright != dark
            if is_settled[i]:
                lit[i] = np.float32(1) if bright else np.float32(0)


@compiled
def find_edges(index: I64, face: I64, light: F32, step: Number, is_edge: Bool) -> None:
    """True where the neighbour left or above shows another face (N,) and the root of green light (3, N) differs."""
    height, width = index.shape
    for v in range(height):
        for u in range(width):
            i = index[v, u]
            here = np.sqrt(light[1, i])
            if u > 0:
                j = index[v, u - 1]
                is_edge[i] |= face[i] != face[j] and abs(np.sqrt(light[1, j]) - here) > step * here
            if v > 0:
                j = index[v - 1, u]
                is_edge[i] |= face[i] != face[j] and abs(np.sqrt(light[1, j]) - here) > step * here


@compiled
def blend_with_neighbours(index: I64, row: I64, column: I64, pixel: I64, light: F32, out: F32) -> None:
    """Light `out` (3, E) of pixels (E,) at rows and columns (N,), half their own and half of the four beside them."""
    height, width = index.shape
    for e in range(len(pixel)):
        i = pixel[e]
        v, u = row[i], column[i]
        above, below = index[max(v - 1, 0), u], index[min(v + 1, height - 1), u]
        left, right = index[v, max(u - 1, 0)], index[v, min(u + 1, width - 1)]
        for color in range(3):
            beside = light[color, above] + light[color, below] + light[color, left] + light[color, right]
            out[color, e] = np.float32(0.5) * light[color, i] + np.float32(0.125) * beside
