"""What a replay shows while it runs: a progress bar on a terminal, plain lines in a pipe, JSON for programs."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from perception.config.schema import ServiceConfig
from perception.core.ports import Engine, Source
from perception.core.results import PerceptionResult
from perception.pipeline.replay import RunSummary

PLAIN_INTERVAL_S = 5.0


class ReplayDisplay:
    """Collects figures and shows them; notes go to standard error, so that JSON on standard output stays clean."""

    def __init__(self, source: Source, progress: Progress | None, *, as_json: bool, quiet: bool) -> None:
        self._source = source
        self._progress = progress
        self._as_json = as_json
        self._quiet = quiet
        self._span = source.span_ns
        total = (self._span[1] - self._span[0]) / 1e9 if self._span else None
        self._frames = self._lost = 0
        self._latencies_ms: list[float] = []
        self._faults: Counter[str] = Counter()
        self._began = self._last_line = time.monotonic()
        self._task = progress.add_task("replay", total=total, line="starting") if progress else None

    def started(self, engine: Engine, config: ServiceConfig) -> None:
        """The engine runs: say what the user should know before results come."""
        rig = self._source.rig
        self.note(f"{self._source.drive_id}: {len(rig.sensors)} sensors; results at {config.queue.url}")
        for note in self._source.notes:
            self.note(note)
        self.note(describe(engine))
        self._begin_lap()

    def note(self, text: str) -> None:
        if not self._quiet:
            click.echo(text, err=True)

    def result(self, result: PerceptionResult) -> None:
        """One more result; called from the publisher's thread."""
        self._frames += 1
        self._lost += sum(result.provenance.dropped.values())
        self._faults.update(f"{sensor.name} {fault.kind}" for sensor in result.sensors for fault in sensor.faults)
        self._latencies_ms.append(result.provenance.stage_latency_ns["since_last_message"] / 1e6)
        now = time.monotonic()
        if self._progress is not None and self._task is not None:
            done = (result.reference_ns - self._span[0]) / 1e9 if self._span else None
            self._progress.update(self._task, completed=max(0.0, done) if done else None, line=self._line())
        elif not self._quiet and now - self._last_line >= PLAIN_INTERVAL_S:
            self._last_line = now
            click.echo(self._line(), err=True)

    def lap(self, summary: RunSummary) -> None:
        """A lap is over."""
        if self._as_json:
            click.echo(json.dumps(self._account(summary)))
        elif not self._quiet:
            dropped = ", ".join(f"{cause} {count}" for cause, count in sorted(summary.dropped.items())) or "nothing"
            faults = ", ".join(f"{fault} in {count} results" for fault, count in sorted(self._faults.items()))
            click.echo(f"{summary.end.reason}: {self._line()}; unused messages: {dropped}")
            if faults:
                click.echo(f"sensor faults: {faults}")
            if summary.jumped_s or summary.slowed_s:
                click.echo(
                    f"the drive could not be read at this rate: {summary.jumped_s:.1f} s of it were jumped over, "
                    f"and it was slowed down by {summary.slowed_s:.1f} s"
                )
        self._begin_lap()

    def _begin_lap(self) -> None:
        self._frames = self._lost = 0
        self._latencies_ms = []
        self._faults = Counter()
        self._began = self._last_line = time.monotonic()

    def _line(self) -> str:
        elapsed = max(time.monotonic() - self._began, 1e-9)
        p50, p99 = _percentiles(self._latencies_ms)
        return (
            f"{self._frames} frames, {self._frames / elapsed:.1f} Hz, "
            f"latency p50 {p50:.0f} ms p99 {p99:.0f} ms, {self._lost} unused"
        )

    def _account(self, summary: RunSummary) -> dict[str, object]:
        elapsed = max(time.monotonic() - self._began, 1e-9)
        p50, p99 = _percentiles(self._latencies_ms)
        return {
            "drive_id": summary.end.drive_id,
            "run_id": summary.end.run_id,
            "reason": summary.end.reason,
            "frames": summary.end.count,
            "messages": summary.messages,
            "frames_per_s": round(self._frames / elapsed, 3),
            "latency_ms": {"p50": round(p50, 3), "p99": round(p99, 3)},
            "dropped": dict(sorted(summary.dropped.items())),
            "faults": dict(sorted(self._faults.items())),
            "account": {**asdict(summary.account), "is_exact": summary.account.is_exact},
            "jumped_s": round(summary.jumped_s, 3),
            "slowed_s": round(summary.slowed_s, 3),
        }


def describe(engine: Engine) -> str:
    """One line on the model and where it runs."""
    info = engine.model
    state = "trained" if info.trained else "untrained weights: detections mean nothing yet"
    return f"model {info.name} ({info.hash}), {state}; placement {engine.placement}"


@contextmanager
def open_display(source: Source, *, as_json: bool, quiet: bool) -> Iterator[ReplayDisplay]:
    """A display that suits where the output goes."""
    if quiet or as_json or not sys.stderr.isatty():
        yield ReplayDisplay(source, None, as_json=as_json, quiet=quiet)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield ReplayDisplay(source, progress, as_json=as_json, quiet=quiet)


def _percentiles(values: list[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 0.0
    p50, p99 = np.percentile(values, [50, 99])
    return float(p50), float(p99)
