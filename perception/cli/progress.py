"""How far a command has come through a drive, on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from perception.core.ports import Source
from perception.viewer.drive_scenes import Part

Advance = Callable[[int], None]
"""Takes the reference time of the scene that is done."""


@contextmanager
def open_progress(source: Source, part: Part) -> Iterator[Advance]:
    """A bar on a terminal; in a pipe nothing is shown."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("{task.fields[scenes]} scenes"), BarColumn(), TimeElapsedColumn())
    first_ns, total_s = 0, None
    if (span := source.span_ns) is not None:
        first_ns = span[0] + round(part.start_s * 1e9)
        total_s = min((span[1] - first_ns) / 1e9, part.duration_s or float("inf"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task, scenes = progress.add_task("", total=total_s, scenes=0), 0

        def advance(reference_ns: int) -> None:
            nonlocal scenes
            scenes += 1
            done = None if total_s is None else max(0.0, (reference_ns - first_ns) / 1e9)
            progress.update(task, completed=done, scenes=scenes)

        yield advance
