"""`perception render`: a drive as a video or a contact sheet, without a viewer."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import click

from perception.cli.drive_part import DrivePart, drive_part_options
from perception.cli.progress import open_progress
from perception.core.errors import UsageError
from perception.viewer.picture import draw_scene
from perception.viewer.scenes import Scene
from perception.viewer.sheet import SHEET_SUFFIXES, ContactSheet
from perception.viewer.video import VIDEO_SUFFIX, VideoWriter

FALLBACK_HZ = 10.0
HIGHEST_HZ = 60.0


@click.command()
@click.argument("path", metavar="DRIVE")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="FILE.mp4 for a video, FILE.png or FILE.jpg for a contact sheet.",
)
@drive_part_options
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Frames a second [as the drive went].")
@click.option(
    "--height", type=click.IntRange(120, 4320), default=720, show_default=True, help="Of a picture, in pixels."
)
@click.option(
    "--range",
    "range_m",
    type=click.FloatRange(5, 500),
    default=50.0,
    show_default=True,
    help="Seen from above, in metres.",
)
@click.option(
    "--tiles", type=click.IntRange(1, 400), default=12, show_default=True, help="Pictures of a contact sheet."
)
@click.option("--columns", type=click.IntRange(1, 20), default=3, show_default=True, help="Of a contact sheet.")
@click.option("--tile-width", type=click.IntRange(80, 4000), default=640, show_default=True, help="In pixels.")
def render(
    *,
    path: str,
    out: Path,
    drive: DrivePart,
    fps: float | None,
    height: int,
    range_m: float,
    tiles: int,
    columns: int,
    tile_width: int,
) -> None:
    """Draw the drive at DRIVE: cameras with boxes, and lidar, radar, boxes and path hints from above.

    Labels are grey; with --results what was perceived is drawn in the colours of the classes.
    """
    if out.suffix not in (VIDEO_SUFFIX, *SHEET_SUFFIXES):
        raise UsageError(f"--out {out}: the file must end in {VIDEO_SUFFIX}, {' or '.join(SHEET_SUFFIXES)}")
    with contextlib.closing(drive.open(path)) as source, drive.scenes(source) as scenes:
        first, scenes = _begin(scenes)
        if not first:
            raise UsageError(f"{path}: nothing to draw in the chosen part of the drive")
        sink: VideoWriter | ContactSheet
        if out.suffix == VIDEO_SUFFIX:
            sink = VideoWriter(out, frames_per_s=fps or _pace(first), option="--out")
        else:
            sink = ContactSheet(out, tiles=tiles, columns=columns, tile_width_px=tile_width, option="--out")
        with contextlib.closing(sink), open_progress(source, drive.part) as advance:
            for scene in scenes:
                sink.add(draw_scene(scene, height_px=height, range_m=range_m))
                advance(scene.reference_ns)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB", err=True)


def _begin(scenes: Iterator[Scene]) -> tuple[list[Scene], Iterator[Scene]]:
    """The first two scenes, and all of them."""
    first = list(itertools.islice(scenes, 2))
    return first, itertools.chain(first, scenes)


def _pace(first: list[Scene]) -> float:
    """Frames a second at which a video goes as fast as the world did."""
    step_ns = first[-1].reference_ns - first[0].reference_ns
    return min(1e9 / step_ns, HIGHEST_HZ) if step_ns > 0 else FALLBACK_HZ
