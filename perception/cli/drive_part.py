"""What `view` and `render` have in common: which part of which drive, with which results."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from perception.core.errors import QueueError, UsageError
from perception.core.ports import QueueItem, Source, Subscription
from perception.core.results import PerceptionResult
from perception.queues.open import subscribe
from perception.sources.open import open_drive
from perception.viewer.drive_scenes import Part, drive_scenes
from perception.viewer.scenes import Scene

FILE_TIMEOUT_S = 5.0
SECONDS = click.FloatRange(min=0, min_open=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrivePart:
    """The options that `drive_part_options` adds to a command."""

    format_name: str | None = None
    scene: str | None = None
    results: Path | None = None
    part: Part = Part()

    def open(self, path: str) -> Source:
        return open_drive(path, format=self.format_name, scene=self.scene)

    @contextlib.contextmanager
    def scenes(self, source: Source) -> Iterator[Iterator[Scene]]:
        """The chosen scenes of an open drive, with the results of `--results`. Raises what reading them raises."""
        if self.results is None:
            yield drive_scenes(source, self.part)
            return
        with contextlib.closing(open_results(self.results)) as subscription:
            results = (item for item in tolerant(subscription) if isinstance(item, PerceptionResult))
            yield drive_scenes(source, self.part, results)


def drive_part_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of commands that show a drive; the command gets them as `drive: DrivePart`."""

    @functools.wraps(command)
    def collected(
        *args: Any,
        format_name: str | None,
        scene: str | None,
        results: Path | None,
        stride: int,
        start: float,
        duration: float | None,
        **own: Any,
    ) -> Any:
        part = Part(stride=stride, start_s=start, duration_s=duration)
        return command(*args, drive=DrivePart(format_name=format_name, scene=scene, results=results, part=part), **own)

    results_file = click.Path(path_type=Path, exists=True, dir_okay=False)
    for option in reversed(
        (
            click.option(
                "--results", type=results_file, metavar="FILE.mcap", help="Show these results of the drive (of --queue "
                "mcap:FILE, or of --record FILE) at their reference times, instead of each sweep."
            ),
            click.option("--stride", type=click.IntRange(min=1), default=1, show_default=True, help="Each N-th scene."),
            click.option("--start", type=click.FloatRange(min=0), default=0.0, metavar="S", help="Skip S seconds."),
            click.option("--duration", type=SECONDS, metavar="S", help="Stop after S seconds of data."),
            click.option("--format", "format_name", help="The drive's format; found out from the path if not given."),
            click.option("--scene", help="Which scene of a data set with several (name or number)."),
        )
    ):  # fmt: skip
        collected = option(collected)
    return collected


def open_results(path: Path) -> Subscription:
    """The results in a file. Raises QueueError where it is no MCAP."""
    if path.suffix != ".mcap":
        raise UsageError(f"{path}: results are in .mcap files, as `perception replay --queue mcap:FILE` writes them")
    return subscribe(f"mcap:{path}", timeout_s=FILE_TIMEOUT_S)


def tolerant(subscription: Subscription) -> Iterator[QueueItem]:
    """The items of a file; one whose writer was killed ends where it ends, and the user is told."""
    try:
        yield from subscription
    except QueueError as error:
        click.echo(f"note: {error}", err=True)
