"""Polylines: length, resampling, offsetting, heading."""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def arc_lengths(line_m: F64) -> F64:
    """Length from the start to each of the points (N, 2 or more), in the plane: (N,)."""
    steps = np.linalg.norm(np.diff(line_m[:, :2], axis=0), axis=1)
    lengths: F64 = np.concatenate([[0.0], np.cumsum(steps)])
    return lengths


def without_doubles(line_m: F64) -> F64:
    """The line without points closer than a millimetre to the one before."""
    steps = np.linalg.norm(np.diff(line_m[:, :2], axis=0), axis=1)
    kept: F64 = line_m[np.concatenate([[True], steps > 1e-3])]
    return kept


def at_arc(line_m: F64, arc_m: F64) -> F64:
    """Points (K, D) at lengths (K,) along a line (N, D); beyond its ends the end points."""
    lengths = arc_lengths(line_m)
    return np.stack([np.interp(arc_m, lengths, line_m[:, axis]) for axis in range(line_m.shape[1])], axis=1)


def resample(line_m: F64, step_m: float) -> F64:
    """The line in equal steps of at most `step_m`, ends included."""
    total = arc_lengths(line_m)[-1]
    return at_arc(line_m, np.linspace(0.0, total, max(2, int(np.ceil(total / step_m)) + 1)))


def normals(line_m: F64) -> F64:
    """Unit vectors (N, 2) to the left of the line at each point, mitred between its segments."""
    tangent = np.empty((len(line_m), 2))
    steps = np.diff(line_m[:, :2], axis=0)
    steps = steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-9)
    tangent[1:-1] = steps[:-1] + steps[1:]
    tangent[0], tangent[-1] = steps[0], steps[-1]
    tangent = tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    left: F64 = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    return left


def offset(line_m: F64, left_m: float | F64) -> F64:
    """The line moved to its left by `left_m` (a number or (N,)); further columns are kept."""
    moved = line_m.copy()
    moved[:, :2] += normals(line_m) * np.broadcast_to(left_m, (len(line_m),))[:, None]
    return moved


def headings(line_m: F64) -> F64:
    """Yaw (N,) of the line at each point."""
    left = normals(line_m)
    yaw: F64 = np.arctan2(-left[:, 0], left[:, 1])
    return yaw


def strip_outline(line_m: F64, width_m: float) -> F64:
    """Outline (2N, D) of a strip around the line, counter-clockwise."""
    return np.concatenate([offset(line_m, -width_m / 2), offset(line_m, width_m / 2)[::-1]])
