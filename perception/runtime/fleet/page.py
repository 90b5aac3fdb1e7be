"""The summary as one HTML page that needs nothing else: tables, and plots as SVG within it."""

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "td,th{border-bottom:1px solid #ddd;padding:.25rem .75rem;text-align:left;vertical-align:top}"
    "svg{max-width:100%;height:auto}"
)
_PLOTS: Final = {
    "p50": "median latency of a frame [ms]",
    "p99": "99th percentile of the latency [ms]",
    "mAP": "mAP of a drive",
    "speed": "seconds of data for each second of a worker",
}


def to_html(summary: Mapping[str, Any], tables: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """The page. tables: by title, the first row is the head; everything in them is escaped."""
    parts = [_table(title, rows) for title, rows in tables.items()]
    plots = _plots(summary["sample"])
    if plots:
        parts.insert(1, f"<h2>Drives</h2>{plots}")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Fleet replay</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>Fleet replay</h1>\n{body}\n</body></html>\n"
    )


def _table(title: str, rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    lines = ("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<h2>{html.escape(title)}</h2><table><tr>{head}</tr>{''.join(lines)}</table>"


def _plots(sample: Sequence[Mapping[str, float | None]]) -> str:
    """A histogram of each figure that drives have; empty where there is none."""
    from matplotlib.figure import Figure

    known = {name: [value for one in sample if (value := one[name]) is not None] for name in _PLOTS}
    shown = {name: values for name, values in known.items() if values}
    if not shown:
        return ""
    figure = Figure(figsize=(9, 2.4 * ((len(shown) + 1) // 2)), layout="constrained")
    for place, (name, values) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot((len(shown) + 1) // 2, 2, place)
        axes.hist(values, bins=min(40, max(5, len(values))), color="#4477aa")
        axes.set_xlabel(_PLOTS[name])
        axes.set_ylabel("drives")
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
