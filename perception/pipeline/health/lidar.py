"""Whether a lidar still sees all around: repeated sweeps, empty sectors, few points, air that scatters back."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.faults import FaultKind
from perception.core.messages import LidarSweep
from perception.pipeline.health.evidence import Evidence

F64 = NDArray[np.float64]

SECTOR_POINTS: Final = 4_096
"""Points counted by sector: a hundred for each."""
AIR_POINTS: Final = 16_384
"""Points in which the air is looked at, with every `AIR_STRIDE`-th sweep: fog neither comes nor goes in a second."""
AIR_STRIDE: Final = 2
MIN_POINTS: Final = 50
"""Below, the sweep is empty: the ground alone gives any lidar more."""
SECTORS: Final = 36
BLOCKED_SHARE: Final = 0.1
"""A sector with less than this of its usual points is blocked; a narrow street or a lorry beside changes it by half."""
MIN_SECTOR_SHARE: Final = 0.3
"""Only sectors that usually hold this much of an even share are watched: others lie outside the field of view."""
COLLAPSED_SHARE: Final = 0.5
"""Fewer than this of the usual points; between a street and open land the count changes by a quarter."""
BASE_SWEEPS: Final = 10
"""Sweeps before anything is compared with what is usual."""
BASE_RATE: Final = 0.02
"""Share of each new sweep in what is usual: a memory of about fifty sweeps."""
AIR_RANGE_M: Final = (3.0, 10.0)
AIR_HEIGHT_M: Final = (0.7, 3.7)
AIR_CELLS_FULL: Final = 0.5
"""Share of the cubic metres around the car, above the bonnet's height, that hold points. Walls and cars fill up to a
quarter (64 beams in a narrow street), dense fog most; rain fills as much as a street does and is not told apart."""


class LidarChecks:
    """Looks at each sweep of one lidar."""

    def __init__(self, ego_SE3_sensor: F64) -> None:
        self._up = ego_SE3_sensor[2, :3].astype(np.float32)
        self._height_m = np.float32(ego_SE3_sensor[2, 3])
        self._last: LidarSweep | None = None
        self._usual: F64 | None = None
        self._swept = self._looks = 0

    def check(self, sweep: LidarSweep) -> Iterator[Evidence]:
        count = len(sweep.points_m)
        last, self._last = self._last, sweep
        is_empty = count < MIN_POINTS
        is_same = not is_empty and last is not None and np.array_equal(sweep.points_m, last.points_m)
        yield Evidence(FaultKind.FROZEN, is_same, f"the same {count} points again")
        yield Evidence(FaultKind.DARK, is_empty, f"{count} points")
        if is_same or is_empty:
            return  # nothing to learn from
        thin = max(1, count // SECTOR_POINTS)
        yield from self._check_sectors(sector_counts(sweep.points_m[::thin]) * thin)
        self._looks += 1
        if self._looks % AIR_STRIDE == 1:
            full = air_share(sweep.points_m[:: max(1, count // AIR_POINTS)], self._up, self._height_m)
            yield Evidence(FaultKind.ATTENUATED, full > AIR_CELLS_FULL, f"points in {full:.0%} of the air around")

    def _check_sectors(self, counts: F64) -> Iterator[Evidence]:
        if self._usual is None:
            self._usual = counts
        usual, total = self._usual, float(self._usual.sum())
        is_ready = self._swept >= BASE_SWEEPS
        is_watched = usual > MIN_SECTOR_SHARE * total / SECTORS
        is_blocked = is_watched & (counts < BLOCKED_SHARE * usual)
        share = float(counts.sum()) / max(total, 1.0)
        is_collapsed = is_ready and share < COLLAPSED_SHARE and int(is_blocked.sum()) * 2 < SECTORS
        blocked = [int(sector) for sector in np.flatnonzero(is_blocked)] if is_ready and not is_collapsed else []
        yield Evidence(FaultKind.BLOCKED, len(blocked) > 0, describe_sectors(blocked))
        yield Evidence(FaultKind.COLLAPSED, is_collapsed, f"{share:.0%} of the usual points")
        self._swept += 1
        if not is_collapsed:
            # A blocked sector's usual count stays what it was, or the fault would become usual.
            rate = max(BASE_RATE, 1 / self._swept)
            self._usual = np.where(is_blocked & is_ready, usual, usual + rate * (counts - usual))


def sector_counts(points_m: NDArray[np.float32]) -> F64:
    """(36,) how many of the points (N, 3) of the lidar's own frame lie in each ten degrees of azimuth, from -180 on."""
    azimuth = np.arctan2(points_m[:, 1], points_m[:, 0])
    index = ((azimuth + np.float32(np.pi)) * np.float32(SECTORS / (2 * np.pi))).astype(np.int64) % SECTORS
    return np.bincount(index, minlength=SECTORS).astype(np.float64)


def air_share(points_m: NDArray[np.float32], up: NDArray[np.float32], lidar_m: np.float32) -> float:
    """Share of cubic metres around the lidar that hold a point of (N, 3). up: (3,) the ego's vertical in the lidar's
    frame; lidar_m: the lidar's height above the ego's ground.

    Scatter from fog fills the air evenly, while surfaces fill few cells, whatever the lidar's beams and intensities.
    """
    low, high = AIR_HEIGHT_M
    reach = AIR_RANGE_M[1]
    height_m = points_m @ up + lidar_m
    # The height first: it leaves out the ground, which is most of what is near.
    kept = np.flatnonzero((height_m > low) & (height_m < high))
    x, y = points_m[kept, :2].T
    square = x * x + y * y
    near = np.flatnonzero((square > AIR_RANGE_M[0] ** 2) & (square < reach**2))
    side, layers = round(2 * reach), round(high - low)
    column, row = (np.floor(axis[near]).astype(np.int64) + side // 2 for axis in (x, y))
    layer = np.minimum((height_m[kept[near]] - low).astype(np.int64), layers - 1)
    held = np.bincount((column * side + row) * layers + layer, minlength=side * side * layers) > 0
    return float(held.sum() / (np.pi * (reach**2 - AIR_RANGE_M[0] ** 2) * layers))


def describe_sectors(sectors: list[int]) -> str:
    """Blocked tens of degrees of the lidar's azimuth, for people."""
    width = 360 // SECTORS
    shown = ", ".join(f"{index * width - 180} to {(index + 1) * width - 180}" for index in sectors[:6])
    return f"azimuth {shown} deg" + (" ..." if len(sectors) > 6 else "")
