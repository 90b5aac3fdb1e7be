"""What the sensors of drives see, as numbers that can be laid beside those of other drives.

All distances are from the ego's origin. Distributions are histograms with fixed bins, objects are kept one by one, so
that drives can be pooled by adding up.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.taxonomy import CLASSES

F64 = NDArray[np.float64]

RANGE_EDGES_M: Final = (*range(0, 100, 5), 100, 120, 150, 200, 250)
INTENSITY_EDGES: Final = (*((5 * i - 0.5) / 255 for i in range(52)), 255.5 / 255)
"""Five 8-bit codes a bin, none on an edge; the highest code alone in the last."""
HEIGHT_EDGES_M: Final = (-100.0, -0.5, -0.2, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0)
RCS_EDGES_DBSM: Final = tuple(range(-25, 56, 2))
DISTANCE_EDGES_M: Final = (0, 10, 20, 30, 40, 50, 60, 80)
"""Bins of the distance in which objects are compared."""
MOVING_MPS: Final = 0.5


@dataclass(slots=True, kw_only=True)
class Histogram:
    """counts: one for each bin between neighbouring edges; values beyond the edges are not counted."""

    edges: tuple[float, ...]
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.edges) - 1)

    def add(self, values: NDArray[np.floating]) -> None:
        found, _ = np.histogram(values, bins=self.edges)
        self.counts = (np.array(self.counts) + found).tolist()

    @property
    def shares(self) -> F64:
        """(B,) share of all that was counted; zero where nothing was."""
        counts = np.array(self.counts, dtype=np.float64)
        shares: F64 = counts / max(float(counts.sum()), 1.0)
        return shares

    def quantile(self, share: float) -> float:
        """The value below which a share of what was counted lies, linear within its bin. Nan without anything."""
        total = np.concatenate([[0.0], np.cumsum(self.counts)])
        return float(np.interp(share * total[-1], total, self.edges)) if total[-1] else float("nan")


@dataclass(slots=True, kw_only=True)
class LidarStatistics:
    """points_per_sweep: one for each sweep, points on the vehicle itself left out. range_m, height_m: in the ego frame.

    intensity: 0..1.
    """

    points_per_sweep: list[int] = field(default_factory=list)
    range_m: Histogram = field(default_factory=lambda: Histogram(edges=RANGE_EDGES_M))
    intensity: Histogram = field(default_factory=lambda: Histogram(edges=INTENSITY_EDGES))
    height_m: Histogram = field(default_factory=lambda: Histogram(edges=HEIGHT_EDGES_M))


@dataclass(slots=True, kw_only=True)
class RadarStatistics:
    """Of valid returns. returns_per_scan: one for each scan. moving: returns with a range rate over ground."""

    returns_per_scan: list[int] = field(default_factory=list)
    range_m: Histogram = field(default_factory=lambda: Histogram(edges=RANGE_EDGES_M))
    rcs_dbsm: Histogram = field(default_factory=lambda: Histogram(edges=RCS_EDGES_DBSM))
    compensated: int = 0
    moving: int = 0


@dataclass(slots=True, kw_only=True)
class ObjectSamples:
    """Labelled objects of one class, a row for each object and frame.

    lidar_points: in the box, of the reference lidar. intensity: their mean, None without any. radar_returns: over the
    box, None where no radar faces it. speed_mps: None where not known.
    """

    distance_m: list[float] = field(default_factory=list)
    size_m: list[tuple[float, float, float]] = field(default_factory=list)
    speed_mps: list[float | None] = field(default_factory=list)
    lidar_points: list[int] = field(default_factory=list)
    intensity: list[float | None] = field(default_factory=list)
    radar_returns: list[int | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.distance_m)

    @property
    def points_on_seen(self) -> list[int | None]:
        """Lidar points of objects that have any; None for the hidden, which some formats label and others do not."""
        return [count or None for count in self.lidar_points]


@dataclass(slots=True, kw_only=True)
class DriveStatistics:
    """Of one drive, or of several pooled. frames: labelled reference times. objects: by class."""

    name: str
    drives: list[str] = field(default_factory=list)
    frames: int = 0
    lidars: dict[str, LidarStatistics] = field(default_factory=dict)
    radars: dict[str, RadarStatistics] = field(default_factory=dict)
    objects: dict[str, ObjectSamples] = field(default_factory=dict)

    def in_order(self) -> dict[str, ObjectSamples]:
        """Objects by class, in the order of the taxonomy."""
        return {name: self.objects[name] for name in CLASSES if name in self.objects}


def by_distance(samples: ObjectSamples, values: Iterable[float | None]) -> tuple[F64, F64, NDArray[np.int64]]:
    """Median (B,), mean (B,) and count (B,) of a value of each object, None left out, by bins of `DISTANCE_EDGES_M`."""
    known = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    bins = np.digitize(samples.distance_m, DISTANCE_EDGES_M) - 1
    groups = [known[(bins == b) & np.isfinite(known)] for b in range(len(DISTANCE_EDGES_M) - 1)]
    median = np.array([np.median(group) if len(group) else np.nan for group in groups])
    mean = np.array([group.mean() if len(group) else np.nan for group in groups])
    return median, mean, np.array([len(group) for group in groups], dtype=np.int64)


def summarize_statistics(statistics: DriveStatistics) -> dict[str, object]:
    """Means and shares, as plain values for JSON."""
    return {
        "name": statistics.name,
        "drives": len(statistics.drives),
        "frames": statistics.frames,
        "lidars": {name: _of_lidar(lidar) for name, lidar in statistics.lidars.items()},
        "radars": {name: _of_radar(radar) for name, radar in statistics.radars.items()},
        "objects": {name: _of_objects(found, statistics.frames) for name, found in statistics.in_order().items()},
    }


def write_statistics(statistics: DriveStatistics, path: Path) -> None:
    """Write JSON: `summary` for people, `samples` to read again. Raises DriveError where the disk refuses."""
    content = {"summary": summarize_statistics(statistics), "samples": asdict(statistics)}
    try:
        path.write_bytes(msgspec.json.encode(content))
    except OSError as error:
        raise DriveError(f"{path}: cannot be written ({error.strerror})") from error


def read_statistics(path: Path) -> DriveStatistics:
    """What `write_statistics` wrote. Raises DriveError where it is not that."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).samples
    except (OSError, msgspec.DecodeError) as error:
        raise DriveError(f"{path}: no statistics of drives can be read here ({error})") from error


class _File(msgspec.Struct):
    samples: DriveStatistics


def _of_lidar(lidar: LidarStatistics) -> dict[str, object]:
    shares = lidar.height_m.shares
    edges = lidar.height_m.edges
    return {
        "sweeps": len(lidar.points_per_sweep),
        "points_per_sweep": _spread(lidar.points_per_sweep),
        "range_m": {f"p{share}": lidar.range_m.quantile(share / 100) for share in (10, 50, 90, 99)},
        "intensity": {f"p{share}": lidar.intensity.quantile(share / 100) for share in (10, 50, 90, 99)},
        "height_share": {f"{edges[i]:g}..{edges[i + 1]:g} m": float(shares[i]) for i in range(len(shares))},
    }


def _of_radar(radar: RadarStatistics) -> dict[str, object]:
    return {
        "scans": len(radar.returns_per_scan),
        "returns_per_scan": _spread(radar.returns_per_scan),
        "range_m": {f"p{share}": radar.range_m.quantile(share / 100) for share in (10, 50, 90)},
        "rcs_dbsm": {f"p{share}": radar.rcs_dbsm.quantile(share / 100) for share in (10, 50, 90)},
        "moving_share": radar.moving / radar.compensated if radar.compensated else None,
    }


def _of_objects(samples: ObjectSamples, frames: int) -> dict[str, object]:
    size = np.array(samples.size_m)
    counts = np.array(samples.lidar_points)
    return {
        "count": len(samples),
        "per_frame": len(samples) / max(frames, 1),
        "size_m": {"mean": size.mean(axis=0).tolist(), "std": size.std(axis=0).tolist()},
        "speed_mps": _spread([speed for speed in samples.speed_mps if speed is not None]),
        "without_lidar_points": float(np.mean(counts == 0)),
        "lidar_points": _table(samples, samples.points_on_seen),
        "intensity": _spread([value for value in samples.intensity if value is not None]),
        "radar_returns": _table(samples, samples.radar_returns),
    }


def _table(samples: ObjectSamples, values: Iterable[float | None]) -> dict[str, dict[str, float]]:
    median, mean, count = by_distance(samples, values)
    return {
        f"{DISTANCE_EDGES_M[b]}-{DISTANCE_EDGES_M[b + 1]} m": {
            "median": float(median[b]),
            "mean": float(mean[b]),
            "objects": int(count[b]),
        }
        for b in np.flatnonzero(count).tolist()
    }


def _spread(values: list[int] | list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": float(np.mean(values)), "std": float(np.std(values)), "count": len(values)}
