"""Draws a report: precision over recall, scores by sensors, robustness, latency, path hints; a PNG each."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from perception.core.errors import UsageError
from perception.evaluation.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCH: Final = (7.2, 4.4)
_DPI: Final = 110
NONE: Final = "none"


def draw_report(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write a PNG for each part that the report has, and return their paths.

    Raises UsageError where matplotlib is not installed or `folder` cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("plots need matplotlib: pip install matplotlib") from error
    panels: dict[str, tuple[str, Callable[[Axes, Report], None]]] = {
        "precision_recall": ("per_class", _precision_recall),
        "distance": ("per_distance", _distance),
        "subsets": ("per_subset", _subsets),
        "conditions": ("per_condition", _conditions),
        "dropped_frames": ("robustness", partial(_curve, kind="dropped frames", unit="share")),
        "mounts": ("robustness", partial(_curve, kind="mounts", unit="degrees turned")),
        "robustness": ("robustness", _robustness_bars),
        "streaming": ("streaming", _streaming),
        "planning": ("planning", _planning),
    }
    written = []
    for name, (key, draw) in panels.items():
        if not report.get(key):
            continue
        figure = Figure(figsize=_SIZE_INCH, layout="constrained")
        draw(figure.add_subplot(), report)
        path = folder / f"{name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            FigureCanvasAgg(figure)
            figure.savefig(path, dpi=_DPI)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written ({error.strerror}); give another --out") from error
        written.append(path)
    return tuple(written)


def _precision_recall(axes: "Axes", report: Report) -> None:
    recall = np.linspace(0, 1, 101)
    for name, found in report["per_class"].items():
        if found["num_labels"]:
            precision = np.array(found["precision"])
            reached = precision > 0
            axes.plot(recall[reached], precision[reached], label=f"{name} ({found['ap']:.2f})")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="matched within 2 m (AP)")
    axes.legend(fontsize="small", loc="upper right")


def _distance(axes: "Axes", report: Report) -> None:
    bands = report["per_distance"]
    names = [f"{band['low_m']:g}-{band['high_m']:g} m" for band in bands]
    _bars(axes, names, {key: [band[key] for band in bands] for key in ("mAP_present", "NDS_present")})
    axes.set_title("by distance from the ego, classes with labels")


def _subsets(axes: "Axes", report: Report) -> None:
    subsets = {name: found for name, found in report["per_subset"].items() if found["frames"]}
    _bars(axes, list(subsets), {key: [found[key] for found in subsets.values()] for key in ("mAP", "NDS")})
    axes.set_title("by sensors")


def _conditions(axes: "Axes", report: Report) -> None:
    found = report["per_condition"]
    _bars(axes, list(found), {key: [one[key] for one in found.values()] for key in ("mAP", "NDS")})
    axes.set_title("by condition")


def _curve(axes: "Axes", report: Report, kind: str, unit: str) -> None:
    """mAP over the strength of one kind of disturbance, from none on."""
    points = sorted((row["strength"], row["mAP"]) for row in report["robustness"] if row["kind"] in (NONE, kind))
    axes.plot(*zip(*points, strict=True), "o-")
    axes.set(xlabel=f"{kind} ({unit})", ylabel="mAP", xlim=(0, None), ylim=(0, None))


def _robustness_bars(axes: "Axes", report: Report) -> None:
    rows = report["robustness"]
    axes.barh([row["name"] for row in rows][::-1], [row["mAP"] for row in rows][::-1])
    axes.set(xlabel="mAP", title="disturbances", xlim=(0, None))
    axes.tick_params(axis="y", labelsize="small")


def _streaming(axes: "Axes", report: Report) -> None:
    streaming = report["streaming"]
    latencies = [(float(latency), found["mAP"]) for latency, found in streaming["by_latency_ms"].items()]
    axes.plot(*zip(*sorted(latencies), strict=True), "o-", label="assumed latency")
    median_ms = report["latency_ms"]["p50"]
    if median_ms is not None:
        axes.plot([median_ms], [streaming["measured"]["mAP"]], "s", label="measured (at its median)")
        axes.plot([median_ms], [streaming["measured_not_moved"]["mAP"]], "x", label="measured, not moved on")
    axes.set(xlabel="latency after the last message (ms)", ylabel="streaming mAP", ylim=(0, None))
    axes.legend()


def _planning(axes: "Axes", report: Report) -> None:
    planning = report["planning"]
    for name, title in (("best_mode", "path hints"), ("baseline", "constant speed and yaw rate")):
        for convention, style in (("l2_at_t_m", "o-"), ("l2_mean_to_t_m", "s--")):
            found = {float(t): value for t, value in planning[name][convention].items() if value is not None}
            label = f"{title}, {convention.removeprefix('l2_').removesuffix('_m')}"
            axes.plot(list(found), list(found.values()), style, label=label)
    axes.set(xlabel="seconds ahead", ylabel="L2 (m)", ylim=(0, None))
    axes.legend()


def _bars(axes: "Axes", names: list[str], groups: dict[str, list[float | None]]) -> None:
    place = np.arange(len(names))
    width = 0.8 / len(groups)
    for i, (label, values) in enumerate(groups.items()):
        axes.bar(place + (i - (len(groups) - 1) / 2) * width, [value or 0.0 for value in values], width, label=label)
    axes.set_xticks(place, names, rotation=25, ha="right", fontsize="small")
    axes.set_ylim(0, None)
    axes.legend()
