"""The report of an evaluation: JSON holds everything, Markdown is made from it for people."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from perception.config.evaluation import EvaluationPlan
from perception.core.errors import UsageError
from perception.core.stages import ModelInfo

FORMAT: Final = 1
"""Version of the JSON; it rises when a key changes its meaning."""

JSON_NAME, MARKDOWN_NAME = "report.json", "report.md"
ERRORS: Final = ("mATE", "mASE", "mAOE", "mAVE", "mAAE")

Report = dict[str, Any]


def provenance(
    info: ModelInfo, placement: str, plan: EvaluationPlan, *, began: datetime, seconds: float
) -> dict[str, Any]:
    """Where the figures come from: the model, the plan, the machine and the time."""
    return {
        "format": FORMAT,
        "model": info.name,
        "model_hash": info.hash,
        "trained": info.trained,
        "placement": placement,
        "date": began.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "perception": version("perception"),
        },
        "plan": plan.model_dump(mode="json"),
    }


def write_report(report: Report, folder: Path) -> None:
    """`report.json` and `report.md` in `folder`, which is made. Raises UsageError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON_NAME).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (folder / MARKDOWN_NAME).write_text(to_markdown(report), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the report to {folder}: {error}; give another --out") from error


def to_markdown(report: Report) -> str:
    """The report as tables."""
    parts = [_head(report), _detection(report)]
    for key, part in (
        ("per_subset", _subsets),
        ("per_condition", _conditions),
        ("errors", _errors),
        ("operating_points", _operating_points),
        ("recall", _recall),
        ("tracking", _tracking),
        ("planning", _planning),
        ("streaming", _streaming),
        ("robustness", _robustness),
        ("closed_loop", _closed_loop),
    ):
        if report.get(key):
            parts.append(part(report[key]))
    parts.append(_drives(report))
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers with three decimals, what is not known as a dash."""
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join('---' if i == 0 else '---:' for i in range(len(head)))}|"]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _head(report: Report) -> str:
    origin = report["provenance"]
    machine = origin["machine"]
    state = "trained" if origin["trained"] else "**untrained weights: the figures say nothing about the method**"
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    where = f"{machine['system']}, {machine['cores']} cores{gpu}; placement {origin['placement']}"
    return (
        f"# Evaluation of {origin['model']} ({origin['model_hash']})\n\n"
        f"{state}. {origin['date']}, {origin['seconds']:.0f} s on {where}, torch {machine['torch']}.\n\n"
        f"{report['frames']} labelled frames of {len(report['drives'])} drives; for {report['missing_frames']} of them "
        "no result came (they count as frames in which nothing was found)."
    )


def _detection(report: Report) -> str:
    names = ("mAP", "NDS", "mAP_present", "NDS_present", *ERRORS)
    classes = report["per_class"]
    rows = [
        (name, found["ap"], *found["ap_by_distance"].values(), *found["tp_errors"].values(), found["num_labels"])
        for name, found in classes.items()
    ]
    thresholds = [f"AP {limit} m" for limit in next(iter(classes.values()))["ap_by_distance"]]
    bands = []
    for band in report["per_distance"]:
        labels = sum(band["per_class_labels"].values())
        name = f"{band['low_m']:g} to {band['high_m']:g} m"
        bands.append((name, band["mAP_present"], band["NDS_present"], labels))
    return "\n\n".join(
        (
            "## Detection\n\nThe nuScenes protocol. `present`: over the classes that have labels.",
            table(names, [[report[name] for name in names]]),
            table(("class", "AP", *thresholds, "ATE", "ASE", "AOE", "AVE", "AAE", "labels"), rows),
            table(("distance", "mAP present", "NDS present", "labels"), bands),
        )
    )


def _scores(found: Mapping[str, Any]) -> tuple[Any, ...]:
    return found["mAP"], found["NDS"], found["mAP_present"], found["NDS_present"], found["frames"]


SCORES: Final = ("mAP", "NDS", "mAP present", "NDS present", "frames")


def _subsets(subsets: Mapping[str, Any]) -> str:
    return "## Sensors\n\n" + table(("sensors", *SCORES), [(name, *_scores(found)) for name, found in subsets.items()])


def _conditions(conditions: Mapping[str, Any]) -> str:
    rows = [(name, *_scores(found)) for name, found in conditions.items()]
    return "## Conditions\n\n" + table(("condition", *SCORES), rows)


def _errors(errors: Mapping[str, float | None]) -> str:
    text = "What mAP present would gain if there were none of one kind of error; gains do not add up."
    return f"## Errors\n\n{text}\n\n" + table(("error", "gain"), list(errors.items()))


def _operating_points(points: Sequence[Mapping[str, Any]]) -> str:
    figures = ("labels", "precision", "recall", "best_f1", "best_precision", "best_recall", "best_score")
    rows = [(f"{row['class']} within {row['within_m']:g} m", *(row[name] for name in figures)) for row in points]
    text = "Matched within 2 m: at the score of the recall below, and at the score with the best F1."
    head = ("class", "labels", "precision", "recall", "best F1", "its precision", "its recall", "its score")
    return f"## Precision and recall\n\n{text}\n\n" + table(head, rows)


def _recall(recall: Mapping[str, Any]) -> str:
    parts = [
        f"## Recall\n\nLabels with a detection of their class within 2 m, of a score of {recall['score']:g} or more."
    ]
    for title, group in recall.items():
        if title != "score" and group:
            rows = [(found["name"], found["labels"], found["recall"]) for found in group]
            parts.append(table((title, "labels", "recall"), rows))
    return "\n\n".join(parts)


def _tracking(tracking: Mapping[str, Any]) -> str:
    clear = tracking["clear"]
    head = ("AMOTA", "AMOTP m", "MOTA", "MOTP m", "recall", "precision", "switches", "fragments")
    row = (tracking["AMOTA"], tracking["AMOTP"], clear["mota"], clear["motp"], clear["recall"], clear["precision"])
    text = f"## Tracking\n\nAMOTA and AMOTP as in nuScenes; CLEAR figures at a score of {clear['min_score']:g}.\n\n"
    counts = [None if clear[name] is None else round(clear[name]) for name in ("ids", "frag")]
    return text + table(head, [(*row, *counts)])


def _planning(planning: Mapping[str, Any]) -> str:
    both = (("path hints, surest mode", planning["best_mode"]), ("constant speed and yaw rate", planning["baseline"]))
    rows = []
    for name, score in both:
        for title, error, collision in (
            ("at_t (UniAD)", "l2_at_t_m", "collision_at_t"),
            ("mean_to_t (ST-P3, VAD)", "l2_mean_to_t_m", "collision_mean_to_t"),
        ):
            rows.append((name, title, *score[error].values(), *score[collision].values()))
    horizons = list(planning["best_mode"]["l2_at_t_m"])
    head = ("path", "convention", *(f"L2 {t} s (m)" for t in horizons), *(f"collision {t} s" for t in horizons))
    modes = [
        (k, planning["min_ade_m"][k], planning["min_fde_m"][k], planning["miss_rate"][k]) for k in planning["min_ade_m"]
    ]
    baseline = ("baseline", planning["baseline"]["ade_m"], planning["baseline"]["fde_m"], None)
    text = (
        f"## Path hints\n\nOpen loop, over {planning['frames']} frames whose next three seconds are known. "
        "The baseline sees nothing: open-loop figures alone prove little, the closed loop does."
    )
    errors = table(("modes", "minADE m", "minFDE m", "miss rate"), [*modes, baseline])
    return f"{text}\n\n{errors}\n\n{table(head, rows)}"


def _streaming(streaming: Mapping[str, Any]) -> str:
    measured, still = streaming["measured"], streaming["measured_not_moved"]
    predicted = streaming["measured_predicted"]
    gain = {name: _difference(predicted[name], still[name]) for name in ("mAP", "NDS", "mAP_present", "NDS_present")}
    rows = [
        ("measured", *_scores(measured), measured["dropped"]),
        ("measured, not moved on", *_scores(still), measured["dropped"]),
        ("measured, predicted (`perception.predict`)", *_scores(predicted), measured["dropped"]),
        ("gain by prediction", *gain.values(), None, None),
    ]
    rows += [
        (f"{latency} ms", *_scores(found), found["dropped"]) for latency, found in streaming["by_latency_ms"].items()
    ]
    text = "Each ground-truth time takes the newest result finished by then, moved on to it; one worker, newest first."
    return f"## Streaming\n\n{text}\n\n" + table(("latency", *SCORES, "frames not begun"), rows)


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _robustness(robustness: Sequence[Mapping[str, Any]]) -> str:
    rows = [(found["name"], *_scores(found)) for found in robustness]
    return "## Robustness\n\n" + table(("disturbance", *SCORES), rows)


def _closed_loop(closed_loop: Mapping[str, Any]) -> str:
    names = ("completion", "collisions", "collisions_at_fault", "off_road_s", "red_lights")
    rows = [
        (route["name"], route["driver"], *(route[name] for name in names), route["mean_speed_mps"])
        for route in closed_loop["routes"]
    ]
    rows += [
        (f"all {found['routes']:.0f}", driver, *(found[name] for name in names), None)
        for driver, found in closed_loop["summary"].items()
    ]
    text = "`hints` drives by the service's own path hints; `oracle` knows everything, `constant` drives straight on."
    return f"## Closed loop\n\n{text}\n\n" + table(("route", "driver", *names, "m/s"), rows)


def _drives(report: Report) -> str:
    latency = report["latency_ms"]
    text = f"Latency after a frame's last message: p50 {_cell(latency['p50'])} ms, p99 {_cell(latency['p99'])} ms."
    rows = [
        (drive["drive_id"], ", ".join(drive["conditions"]) or None, *_scores(drive), drive["labels"])
        for drive in report["drives"]
    ]
    return f"## Drives\n\n{text}\n\n" + table(("drive", "conditions", *SCORES, "labels"), rows)
