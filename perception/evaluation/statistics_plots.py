"""Draws the statistics of several drives beside each other: one picture of sensors, one of objects."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError, UsageError
from perception.evaluation.drive_statistics import (
    DISTANCE_EDGES_M,
    DriveStatistics,
    Histogram,
    ObjectSamples,
    by_distance,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

F64 = NDArray[np.float64]
Pick = Callable[[DriveStatistics], Sequence[Histogram]]

SHOWN_CLASSES = ("car", "truck", "bus", "pedestrian", "bicycle", "motorcycle")
_COLUMNS = 3
_PANEL_INCH = (4.6, 3.3)
_DPI = 80


def draw_statistics(drives: Sequence[DriveStatistics], path: Path) -> None:
    """Write a PNG with the distributions of all `drives`, told apart by their names.

    Raises UsageError where matplotlib is not installed, DriveError where the disk refuses.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("plots need matplotlib: pip install matplotlib") from error
    panels: list[Callable[[Axes], None]] = [
        lambda axes: _curves(axes, drives, _lidar("range_m"), "lidar: distance of points [m]", is_log=True),
        lambda axes: _curves(axes, drives, _lidar("intensity"), "lidar: intensity", is_log=True),
        lambda axes: _heights(axes, drives),
        *_radar_panels(drives),
        *(_class_panel(drives, name) for name in _common_classes(drives)),
        lambda axes: _counts(axes, drives),
    ]
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _PANEL_INCH[0], rows * _PANEL_INCH[1]), layout="constrained")
    for i, panel in enumerate(panels):
        panel(figure.add_subplot(rows, _COLUMNS, i + 1))
    _legend(figure)
    try:
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=_DPI)
    except OSError as error:
        raise DriveError(f"{path}: cannot be written ({error.strerror})") from error


def _legend(figure: "Figure") -> None:
    """One for all panels: each drive has one colour throughout."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(handles=list(found.values()), labels=list(found), loc="outside upper center", ncols=4)


def _lidar(field: str) -> Pick:
    return lambda drive: [getattr(lidar, field) for lidar in drive.lidars.values()]


def _radar(field: str) -> Pick:
    return lambda drive: [getattr(radar, field) for radar in drive.radars.values()]


def _pooled(histograms: Sequence[Histogram]) -> Histogram:
    """All sensors of a drive in one. Needs one at least."""
    counts = np.sum([histogram.counts for histogram in histograms], axis=0)
    return Histogram(edges=histograms[0].edges, counts=counts.tolist())


def _curves(axes: "Axes", drives: Sequence[DriveStatistics], pick: Pick, title: str, *, is_log: bool = False) -> None:
    """Shares by bin, per unit of the value where bins differ in width."""
    for i, drive in enumerate(drives):
        if histograms := pick(drive):
            pooled = _pooled(histograms)
            edges = np.array(pooled.edges)
            density = pooled.shares / np.diff(edges)
            axes.stairs(np.maximum(density, 1e-7), edges, color=f"C{i}", label=drive.name, linewidth=1.4)
    if is_log:
        axes.set_yscale("log")
        axes.set_ylim(bottom=1e-5 if axes.get_ylim()[1] < 1 else 1e-3)
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("density", fontsize=8)
    axes.grid(alpha=0.3)


def _heights(axes: "Axes", drives: Sequence[DriveStatistics]) -> None:
    width = 0.8 / max(len(drives), 1)
    names: list[str] = []
    for i, drive in enumerate(drives):
        if histograms := _lidar("height_m")(drive):
            pooled = _pooled(histograms)
            names = [f"{low:g}..{high:g}" for low, high in zip(pooled.edges, pooled.edges[1:], strict=False)]
            names[0], names[-1] = f"< {pooled.edges[1]:g}", f"> {pooled.edges[-2]:g}"
            places = np.arange(len(names)) + (i - (len(drives) - 1) / 2) * width
            axes.barh(places, pooled.shares, width, color=f"C{i}", label=drive.name)
    axes.set_yticks(np.arange(len(names)), names, fontsize=7)
    axes.set_title("lidar: share of points by height [m]", fontsize=10)
    axes.grid(alpha=0.3, axis="x")


def _radar_panels(drives: Sequence[DriveStatistics]) -> "list[Callable[[Axes], None]]":
    if not any(drive.radars for drive in drives):
        return []
    return [
        lambda axes: _curves(axes, drives, _radar("range_m"), "radar: distance of valid returns [m]", is_log=True),
        lambda axes: _curves(axes, drives, _radar("rcs_dbsm"), "radar: cross-section of valid returns [dBsm]"),
        lambda axes: _by_distance(axes, drives, "car", "radar_returns", "radar returns per car it faces (mean)"),
    ]


def _common_classes(drives: Sequence[DriveStatistics]) -> list[str]:
    """Classes that there is something to compare of: those of two drives at least, or of the only one."""
    needed = min(2, len(drives))
    return [name for name in SHOWN_CLASSES if sum(name in drive.objects for drive in drives) >= needed]


def _class_panel(drives: Sequence[DriveStatistics], name: str) -> "Callable[[Axes], None]":
    return lambda axes: _by_distance(axes, drives, name, "points_on_seen", f"lidar points per {name} seen (median)")


def _by_distance(axes: "Axes", drives: Sequence[DriveStatistics], name: str, field: str, title: str) -> None:
    middle = (np.array(DISTANCE_EDGES_M[1:]) + np.array(DISTANCE_EDGES_M[:-1])) / 2
    is_mean = field == "radar_returns"
    for i, drive in enumerate(drives):
        samples = drive.objects.get(name, ObjectSamples())
        median, mean, _ = by_distance(samples, getattr(samples, field))
        axes.plot(
            middle, mean if is_mean else median, "o-", color=f"C{i}", label=drive.name, markersize=4, linewidth=1.2
        )
    if not is_mean:
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
    axes.set_xlim(0, DISTANCE_EDGES_M[-1])
    axes.set_xlabel("distance [m]", fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)


def _counts(axes: "Axes", drives: Sequence[DriveStatistics]) -> None:
    names = [name for name in SHOWN_CLASSES if any(name in drive.objects for drive in drives)]
    width = 0.8 / max(len(drives), 1)
    for i, drive in enumerate(drives):
        per_frame = [len(drive.objects.get(name, ObjectSamples())) / max(drive.frames, 1) for name in names]
        places = np.arange(len(names)) + (i - (len(drives) - 1) / 2) * width
        axes.bar(places, per_frame, width, color=f"C{i}", label=drive.name)
    axes.set_xticks(np.arange(len(names)), names, fontsize=7)
    axes.set_title("labelled objects per frame", fontsize=10)
    axes.grid(alpha=0.3, axis="y")
