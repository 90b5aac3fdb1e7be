"""Figures of live benchmarks as tables."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

Figures = Mapping[str, Any]
SPREAD = ("p50", "p99", "max")
LEAST_CHANGE_MB = 1.0
"""Processes whose memory changed by less are not shown."""


@dataclass(frozen=True, slots=True)
class Show:
    """How figures are shown: as a table or as JSON, and written to a file as well."""

    as_json: bool
    save: Path | None

    def __call__(self, figures: Figures, as_table: Callable[[Figures], None]) -> None:
        if self.save is not None:
            self.save.parent.mkdir(parents=True, exist_ok=True)
            self.save.write_text(json.dumps(figures, indent=1) + "\n")
        if self.as_json:
            click.echo(json.dumps(figures))
        else:
            as_table(figures)


def show_live(figures: Figures) -> None:
    _about(figures)
    service = figures["service"]
    click.echo(f"\n{_rate(figures)}, for the long run (ms):")
    rows = [(name, *_spread(values)) for name, values in service["stages_ms"].items()]
    rows += [(name, *_spread(service[f"{name}_ms"])) for name in ("latency", "model", "overhead")]
    table(("stage", *SPREAD), rows)
    for name, quarters in service["growth"].items():
        first, last = quarters["first_quarter"], quarters["last_quarter"]
        click.echo(f"{name}: first quarter {' / '.join(_spread(first))}, last quarter {' / '.join(_spread(last))}")
    click.echo(f"memory by quarter, MiB: {', '.join(str(one) for one in service['memory_mb'].values()) or '-'}")
    _account(service["account"])
    compared = figures["compared"]
    click.echo(f"\nin turn, {compared['seconds']:g} s each, {compared['planned_frames']} frames planned (ms):")
    rows = []
    for name, way in compared["ways"].items():
        if "left_out" in way:
            click.echo(f"{name}: left out: {way['left_out']}")
            continue
        cells = [cell for kind in ("latency_ms", "model_ms", "overhead_ms") for cell in _spread(way[kind])[:2]]
        rows.append((name, *cells, " ".join(str(one) for one in way["frames"])))
    table(("", "latency p50", "p99", "model p50", "p99", "overhead p50", "p99", "frames"), rows)


def show_loads(figures: Figures) -> None:
    _about(figures)
    rows = []
    for factor, load in figures["loads"].items():
        account = load["account"]
        rows.append(
            (
                f"{factor} ({load['hz']:.1f} Hz)", account["frames_in"], account["results"],
                account["dropped"].get("overload", 0), "yes" if account["is_exact"] else "NO",
                *_spread(load["latency_ms"]), *_spread(load["growth"]["latency_ms"]["last_quarter"])[:1],
            )
        )  # fmt: skip
    table(("load", "in", "out", "dropped", "exact", *SPREAD, "p50, last quarter"), rows)
    for factor, load in figures["loads"].items():
        click.echo(f"{factor}: messages dropped by cause: {_named(load['account']['dropped'])}")


def show_soak(figures: Figures) -> None:
    _about(figures)
    click.echo(f"{figures['seconds'] / 60:.1f} min at {figures['factor']:g} times that")
    _account(figures["account"])
    click.echo(f"latency, ms: {_named(figures['latency_ms'])}")
    click.echo(f"memory after {figures['warm_up_s']:.0f} s: {_named(figures['memory'])}")
    for name, memory in figures["memory_by_process"].items():
        if memory and abs(memory["end_mb"] - memory["begin_mb"]) >= LEAST_CHANGE_MB:
            click.echo(f"  {name}: {_named(memory)}")
    click.echo("passed" if figures["passed"] else "FAILED")


def show_vehicles(figures: Figures) -> None:
    _about(figures)
    rows = [
        (
            way,
            count,
            *(fleet[name] for name in ("frames_per_s", "of_one", "jain", "least_over_most")),
            *_spread(fleet["latency_ms"])[:2],
            "yes" if fleet["is_exact"] else "NO",
        )
        for way, fleets in figures["fleets"].items()
        for count, fleet in fleets.items()
    ]
    table(("", "vehicles", "frames/s", "of one", "Jain", "least/most", "latency p50", "p99", "exact"), rows)


def show_streaming(figures: Figures) -> None:
    click.echo(f"{len(figures['clips'])} clips, {figures['frames']} frames; cameras are {figures['camera_share']:.0%}")
    offline = figures["offline"] | {"case": "offline", "cameras": "all", "frame_ms": "-", "left_out": 0}
    rows = []
    for one in (offline, *figures["cases"]):
        moved = {True: "yes", False: "no"}.get(one.get("is_moved"), "-")
        scores = (one["mAP_present"], one["NDS_present"])
        rows.append((one["case"], one["cameras"], moved, one["frame_ms"], one["left_out"], *scores))
    table(("", "cameras", "predicted", "frame ms", "left out", "mAP", "NDS"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell, the first one to the left."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        padded = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        click.echo("  ".join(padded).rstrip())


def _about(figures: Figures) -> None:
    click.echo(
        f"{figures['drive']}; {figures['placement']}, {figures['threads']} threads on {figures['cores']} cores, model "
        f"{figures['model']}; capacity {figures['capacity_hz']:g} frames/s"
    )


def _rate(figures: Figures) -> str:
    wanted, hz = figures["wanted_hz"], figures["hz"]
    return f"at {hz:g} Hz" if hz == wanted else f"at {hz:g} Hz, the highest rate sustained ({wanted:g} was wanted)"


def _account(account: Figures) -> None:
    exact = "exact" if account["is_exact"] else "NOT exact"
    click.echo(
        f"frames: {account['frames_in']} in, {account['results']} out, {account['received']} received; {exact}; "
        f"dropped: {_named(account['dropped'])}"
    )


def _named(values: Figures) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "nothing"


def _spread(values: Figures) -> list[str]:
    return [f"{values[name]:.1f}" if name in values else "-" for name in SPREAD]
