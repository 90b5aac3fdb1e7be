"""One account of a whole fleet, made from its ledger a line at a time: figures as JSON, and as Markdown for people."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from perception.core.errors import UsageError
from perception.runtime.fleet.ledger import DONE, LEDGER_NAME, read_header, read_latest
from perception.runtime.fleet.page import to_html

JSON_NAME, MARKDOWN_NAME, HTML_NAME = "summary.json", "summary.md", "summary.html"
SAMPLE: Final = 10_000
"""Drives of which figures are kept for percentiles and plots; of more, a sample drawn with a fixed seed."""
LISTED: Final = 100
"""Failures and slow drives that are listed; all are in the ledger."""

Summary = dict[str, Any]


def summarise(folder: Path) -> Summary:
    """The summary of what the ledger in `folder` says. Raises UsageError where there is none."""
    ledger = folder / LEDGER_NAME
    tally = _Tally()
    for record in read_latest(ledger):
        tally.add(record)
    return {"format": 1, "settings": read_header(ledger)["settings"], **tally.figures()}


def write_summary(folder: Path) -> Summary:
    """`summary.json`, `summary.md` and `summary.html` in `folder`, each whole or as before. Raises UsageError."""
    summary = summarise(folder)
    texts = {
        JSON_NAME: json.dumps(summary, indent=2, allow_nan=False) + "\n",
        MARKDOWN_NAME: to_markdown(summary),
        HTML_NAME: to_html(summary, to_tables(summary)),
    }
    try:
        for name, text in texts.items():
            making = folder / f".{name}.making"
            making.write_text(text, encoding="utf-8")
            os.replace(making, folder / name)  # noqa: PTH105 - in one step, over the old one
    except OSError as error:
        raise UsageError(f"{folder}: the summary cannot be written ({error.strerror})") from None
    return {name: value for name, value in summary.items() if name != "sample"}


class _Tally:
    """Running sums; nothing of it grows with the drives."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._failures: list[Summary] = []
        self._scored: dict[str, list[float]] = {}  # by figure: sum, count
        self._labels: Counter[str] = Counter()
        self._sample: list[dict[str, float | None]] = []
        self._rng = np.random.default_rng(0)

    def add(self, record: Summary) -> None:
        if record["state"] != DONE:
            self._counts["failed"] += 1
            self._errors[str(record["error"])[:200]] += 1
            if len(self._errors) > LISTED:
                self._errors = Counter(dict(self._errors.most_common(LISTED // 2)))
            if len(self._failures) < LISTED:
                self._failures.append({name: record[name] for name in ("source", "error", "attempts")})
            return
        self._counts["done"] += 1
        self._counts["retried"] += record["attempts"] > 1
        for name in ("frames", "messages", "seconds"):
            self._sums[name] += record[name]
        self._sums["span_s"] += record["span_s"] or 0
        self._dropped.update(record["dropped"])
        if (metrics := record["metrics"]) is not None:
            self._counts["labelled"] += 1
            for name, value in figures_of(metrics).items():
                pair = self._scored.setdefault(name, [0.0, 0.0])
                pair[0] += value
                pair[1] += 1
            for label, one in metrics["per_class"].items():
                self._labels[label] += one["labels"]
        self._keep(record)

    def figures(self) -> Summary:
        means = {name: round(total / count, 6) for name, (total, count) in sorted(self._scored.items())}
        classes = {name.removeprefix("AP "): mean for name, mean in means.items() if name.startswith("AP ")}
        return {
            "drives": {name: self._counts[name] for name in ("done", "failed", "retried", "labelled")},
            "frames": self._sums["frames"],
            "messages": self._sums["messages"],
            "hours_of_data": round(self._sums["span_s"] / 3600, 4),
            "worker_hours": round(self._sums["seconds"] / 3600, 4),
            "dropped": dict(sorted(self._dropped.items())),
            "metrics": {
                "mAP": means.get("mAP"),
                "NDS": means.get("NDS"),
                "per_class": {
                    name: {"AP": mean, "drives": int(self._scored[f"AP {name}"][1]), "labels": self._labels[name]}
                    for name, mean in classes.items()
                },
            }
            if means
            else None,
            "latency_ms": {
                "p50": _percentiles(one["p50"] for one in self._sample),
                "p99": _percentiles(one["p99"] for one in self._sample),
            },
            "errors": dict(self._errors.most_common(LISTED)),
            "failures": self._failures,
            "sample": self._sample,
        }

    def _keep(self, record: Summary) -> None:
        """Reservoir sampling (Vitter 1985, algorithm R)."""
        row = {
            "p50": record["latency_ms"]["p50"],
            "p99": record["latency_ms"]["p99"],
            "mAP": (record["metrics"] or {}).get("mAP"),
            "speed": record["span_s"] / record["seconds"] if record["span_s"] and record["seconds"] else None,
        }
        if len(self._sample) < SAMPLE:
            self._sample.append(row)
        elif (place := int(self._rng.integers(self._counts["done"]))) < SAMPLE:
            self._sample[place] = row


def figures_of(metrics: Summary) -> dict[str, float]:
    """The figures of one drive that are averaged and compared: mAP, NDS, and `AP CLASS` of the classes it labels."""
    found = {"mAP": metrics["mAP"], "NDS": metrics["NDS"]}
    found |= {f"AP {name}": one["AP"] for name, one in metrics["per_class"].items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def to_tables(summary: Summary) -> dict[str, list[list[str]]]:
    """The summary as tables of text by title; the first row is the head."""
    drives = summary["drives"]
    tables = {
        "Drives": [
            ["done", "failed", "retried", "labelled", "frames", "hours of data", "worker hours"],
            [
                *(str(drives[name]) for name in ("done", "failed", "retried", "labelled")),
                str(summary["frames"]), f"{summary['hours_of_data']:.3f}", f"{summary['worker_hours']:.3f}",
            ],
        ],
        "Latency of a frame, by drive": [
            ["ms", "median drive", "99th percentile of the drives"],
            *([name, _text(spread["p50"]), _text(spread["p99"])] for name, spread in summary["latency_ms"].items()),
        ],
    }  # fmt: skip
    if (metrics := summary["metrics"]) is not None:
        tables["Detection, mean over the labelled drives"] = [
            ["", "AP", "drives", "labels"],
            ["mAP (classes with labels)", _text(metrics["mAP"]), str(drives["labelled"]), ""],
            ["NDS (classes with labels)", _text(metrics["NDS"]), str(drives["labelled"]), ""],
            *(
                [name, _text(one["AP"]), str(one["drives"]), str(one["labels"])]
                for name, one in metrics["per_class"].items()
            ),
        ]
    if summary["dropped"]:
        rows = [[cause, str(count)] for cause, count in summary["dropped"].items()]
        tables["Messages lost"] = [["cause", "messages"], *rows]
    if summary["failures"]:
        rows = [[one["source"], str(one["attempts"]), one["error"]] for one in summary["failures"]]
        tables[f"Failures (the first {LISTED}; all are in {LEDGER_NAME})"] = [["drive", "attempts", "error"], *rows]
    return tables


def to_markdown(summary: Summary) -> str:
    parts = ["# Fleet replay"]
    for title, rows in to_tables(summary).items():
        lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
        lines.insert(1, "|" + "---|" * len(rows[0]))
        parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _percentiles(values: Iterable[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if not known:
        return {"p50": None, "p99": None}
    p50, p99 = np.percentile(known, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
