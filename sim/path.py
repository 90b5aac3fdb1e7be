"""A line to drive along, by arc length: where it is, how it bends, how fast it may be driven."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

F64 = NDArray[np.float64]

STEP_M = 0.5
SMOOTHING_M = 1.5
"""Width of the filter that rounds the corners of a network's polylines."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Path:
    """Points every `step_m` along a line.

    points_m: (N, 2) world. heading_rad: (N,) unwrapped. curvature_radpm: (N,) left positive. limit_mps: (N,).
    """

    step_m: float
    points_m: F64
    heading_rad: F64
    curvature_radpm: F64
    limit_mps: F64

    @classmethod
    def along(cls, line_m: F64, limit_mps: F64 | float, smoothing_m: float = SMOOTHING_M) -> "Path":
        """Resample and smooth a polyline (M, 2+) with its speed limit (M,) or one for all.

        Arc lengths stay those of the polyline.

        Raises ValueError where the line is shorter than two steps.
        """
        line = np.asarray(line_m, dtype=np.float64)[:, :2]
        limits = np.broadcast_to(np.asarray(limit_mps, dtype=np.float64), (len(line),))
        is_new = np.concatenate([[True], np.linalg.norm(np.diff(line, axis=0), axis=1) > 1e-6])
        line, limits = line[is_new], limits[is_new]
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        if along[-1] < 2 * STEP_M:
            raise ValueError(f"a path needs at least {2 * STEP_M} m of line, got {along[-1]:.2f} m")
        s = np.linspace(0.0, along[-1], max(3, round(along[-1] / STEP_M) + 1))
        raw = np.stack([np.interp(s, along, line[:, i]) for i in (0, 1)], axis=1)
        points = _smooth(raw, smoothing_m)
        nearest = np.clip(np.searchsorted(along, s, side="right") - 1, 0, len(limits) - 1)
        step = np.linalg.norm(np.gradient(points, axis=0), axis=1)
        tangent = np.gradient(points, axis=0)
        heading = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
        curvature = np.gradient(heading) / np.maximum(step, 1e-6)
        return cls(
            step_m=float(s[1]),
            points_m=points,
            heading_rad=heading,
            curvature_radpm=curvature,
            limit_mps=limits[nearest],
        )

    @property
    def length_m(self) -> float:
        return self.step_m * (len(self.points_m) - 1)

    def project(self, points_m: F64, near_m: float | None = None, window_m: float = 30.0) -> tuple[F64, F64]:
        """Arc length and signed offset (left positive) of points (K, 2), each (K,).

        With `near_m` only the stretch within `window_m` of that arc length is searched, so that a line that crosses
        itself does not mislead.
        """
        step = self.step_m
        low, high = 0, len(self.points_m)
        if near_m is not None:
            low = max(0, min(int((near_m - window_m) / step), high - 2))
            high = min(high, max(low + 2, int((near_m + window_m) / step) + 2))
        start, end = self.points_m[low : high - 1], self.points_m[low + 1 : high]
        chord = end - start
        length = np.maximum(np.linalg.norm(chord, axis=1), 1e-9)
        unit = chord / length[:, None]
        away = np.asarray(points_m, dtype=np.float64)[:, None] - start[None]
        share = np.clip(np.einsum("kni,ni->kn", away, unit), 0.0, length)
        gap = away - share[..., None] * unit
        best = np.argmin(np.einsum("kni,kni->kn", gap, gap), axis=1)
        rows = np.arange(len(best))
        offset = unit[best, 0] * away[rows, best, 1] - unit[best, 1] * away[rows, best, 0]
        # Beyond an end the distance counts, not only the sideways part of it.
        distance = np.maximum(np.linalg.norm(gap[rows, best], axis=1), np.abs(offset))
        return (low + best + share[rows, best] / length[best]) * step, np.copysign(distance, offset)

    def at(self, s_m: F64) -> tuple[F64, F64, F64]:
        """Points (K, 2), headings (K,) and curvatures (K,) at arc lengths (K,); the ends go on straight."""
        s = np.clip(s_m, 0.0, self.length_m)
        x, y, heading, curvature = (
            self.sample(column, s)
            for column in (self.points_m[:, 0], self.points_m[:, 1], self.heading_rad, self.curvature_radpm)
        )
        beyond = s_m - s
        points = np.stack([x + beyond * np.cos(heading), y + beyond * np.sin(heading)], axis=1)
        return points, heading, np.where(beyond == 0.0, curvature, 0.0)

    def sample(self, column: F64, s_m: F64) -> F64:
        """A column (N,) of this path, or a profile along it, between its points at arc lengths (K,)."""
        place = np.clip(s_m / self.step_m, 0.0, len(column) - 1.0)
        index = np.minimum(place.astype(np.int64), len(column) - 2)
        share = place - index
        between: F64 = column[index] * (1 - share) + column[index + 1] * share
        return between


def speed_profile(path: Path, lateral_mps2: float, deceleration_mps2: float, ends_standing: bool) -> F64:
    """Highest speed (N,) at each point of a path: its limit, its bends, and braking in time for what follows."""
    speed = np.minimum(path.limit_mps, np.sqrt(lateral_mps2 / np.maximum(np.abs(path.curvature_radpm), 1e-4)))
    if ends_standing:
        speed[-1] = 0.0
    squared = speed * speed
    gain = 2 * deceleration_mps2 * path.step_m
    for i in range(len(squared) - 2, -1, -1):
        squared[i] = min(squared[i], squared[i + 1] + gain)
    profile: F64 = np.sqrt(squared)
    return profile


def _smooth(points: F64, width_m: float) -> F64:
    """Filter a line of even steps; its ends stay where they are."""
    reach = round(4 * width_m / STEP_M)
    before = points[0] - (points[1] - points[0]) * np.arange(reach, 0, -1)[:, None]
    after = points[-1] + (points[-1] - points[-2]) * np.arange(1, reach + 1)[:, None]
    padded = np.concatenate([before, points, after])
    smoothed: F64 = gaussian_filter1d(padded, width_m / STEP_M, axis=0)[reach:-reach]
    return smoothed
