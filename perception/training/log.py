"""What a run leaves behind and shows: `metrics.jsonl`, TensorBoard, and a progress bar."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

METRICS = "metrics.jsonl"
PLAIN_EVERY = 20


class Listener(Protocol):
    """Is told of what happens in a run; `TrainingDisplay` is one."""

    def step(self, step: int, steps: int, figures: Mapping[str, Any]) -> None: ...
    def validation(self, step: int, figures: Mapping[str, Any]) -> None: ...


class TrainingLog:
    """Figures of every step and validation, by step. A resumed run takes back what it logged beyond its state."""

    def __init__(self, folder: Path, *, from_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        kept = [line for line in read_metrics(folder) if line["step"] < from_step or _is_validation_of(line, from_step)]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=from_step or None)

    def write(self, kind: str, step: int, figures: Mapping[str, Any]) -> None:
        """kind: `step` or `validation`. figures: numbers by name, nested or not."""
        self._file.write(f"{json.dumps(_finite({'kind': kind, 'step': step, **figures}), allow_nan=False)}\n")
        self._file.flush()
        for name, value in flatten(figures):
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines of a run's `metrics.jsonl`, None where a number was not finite; a line that a kill cut off is left out."""
    path = folder / METRICS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for numbers that JSON does not have."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in figures.items()}


def flatten(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by path; what is not a number (None: not known) is left out."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)


def _is_validation_of(line: Mapping[str, Any], step: int) -> bool:
    """A validation is named after the steps done, so that of `step` came before the step of that number."""
    return bool(line["kind"] == "validation" and line["step"] == step)


class TrainingDisplay:
    """Notes on standard error; a progress bar where that is a terminal, a line now and then where it is not."""

    def __init__(self, progress: Progress | None, *, quiet: bool) -> None:
        self._progress, self._quiet = progress, quiet
        self._task: TaskID | None = None

    def note(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self._quiet:
            click.echo(text, err=True)

    def started(self, step: int, steps: int) -> None:
        if self._progress is not None:
            self._task = self._progress.add_task("train", total=steps, completed=step, line="")

    def step(self, step: int, steps: int, figures: Mapping[str, Any]) -> None:
        """Step `step` (0 is the first) is done."""
        wanted = (("loss", ".3f"), ("rate", ".1e"), ("norm", ".1f"), ("samples_per_s", ".1f"))
        line = ", ".join(f"{name.replace('_per_', '/')} {_shown(figures[name], form)}" for name, form in wanted)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step + 1, total=steps, line=line)
        elif (step + 1) % PLAIN_EVERY == 0 or step == 0:
            self.note(f"step {step + 1} of {steps}: {line}")

    def validation(self, step: int, figures: Mapping[str, Any]) -> None:
        subsets = ", ".join(f"{name} {_shown(values['map'], '.3f')}" for name, values in figures["subsets"].items())
        self.note(f"validation after {step} steps: NDS {_shown(figures['nds'], '.3f')}; mAP by sensors: {subsets}")


def _shown(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


class LogFollower:
    """Tells a listener what other processes write into a run's log."""

    def __init__(self, folder: Path, listener: Listener, steps: int) -> None:
        self._folder, self._listener, self._steps = folder, listener, steps
        self._seen = len(read_metrics(folder))

    def poll(self) -> None:
        """Pass on the lines that are new."""
        lines = read_metrics(self._folder)
        # A run that goes on first takes back what it had logged beyond its state.
        for line in lines[min(self._seen, len(lines)) :]:
            kind, step = line.pop("kind"), line.pop("step")
            if kind == "step":
                self._listener.step(step, self._steps, line)
            else:
                self._listener.validation(step, line)
        self._seen = len(lines)


@contextmanager
def open_training_display(*, quiet: bool) -> Iterator[TrainingDisplay]:
    if quiet or not sys.stderr.isatty():
        yield TrainingDisplay(None, quiet=quiet)
        return
    columns = (
        TextColumn("{task.description} {task.completed}/{task.total}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[line]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield TrainingDisplay(progress, quiet=quiet)
