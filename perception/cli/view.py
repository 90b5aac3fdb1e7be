"""`perception view`: a drive, results or a live queue in the viewer."""

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from perception.cli.drive_part import SECONDS, DrivePart, drive_part_options, open_results, tolerant
from perception.cli.progress import open_progress
from perception.config.load import load_service_config
from perception.config.schema import QueueConfig
from perception.core.errors import UsageError
from perception.core.rig import Modality
from perception.queues.mcap_layout import PRODUCER_RECORD
from perception.queues.open import subscribe
from perception.queues.sensor_channel import sensor_feed
from perception.sources.mcap_file import leading_metadata
from perception.viewer.picture import MIN_SCORE

if TYPE_CHECKING:
    from perception.viewer.rerun_scene import SceneStyle
    from perception.viewer.rerun_stage import Stage

QUEUE_URL = re.compile(r"(?!synthetic:)[a-z][a-z0-9+]+:")
DEFAULT_PORT = 9090


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """Where to and how."""

    frame: Literal["ego", "world"]
    color: Literal["height", "intensity"]
    max_points: int
    min_score: float
    save: Path | None
    web_port: int | None
    memory: str


@click.command()
@click.argument("target", metavar="DRIVE|RESULTS|QUEUE-URL")
@drive_part_options
@click.option(
    "--frame", type=click.Choice(["ego", "world"]), default="ego", show_default=True, help="What stands still."
)
@click.option(
    "--color", type=click.Choice(["height", "intensity"]), default="height", show_default=True, help="Of lidar points."
)
@click.option(
    "--max-points", type=click.IntRange(min=1), default=40_000, show_default=True, help="Lidar points of a scene."
)
@click.option(
    "--min-score", type=click.FloatRange(0, 1), default=MIN_SCORE, show_default=True, help="Hide weaker detections."
)
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.rrd",
    help="Write a recording; without --web, no viewer is opened.",
)
@click.option("--web", is_flag=True, help="Serve the viewer for a browser on this machine, until Ctrl-C.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="Of --web, on 127.0.0.1."
)
@click.option("--memory", default="1GiB", show_default=True, help="What the viewer keeps; the oldest goes first.")
@click.option("--timeout", type=SECONDS, metavar="S", help="Give up on a queue that is silent for S seconds.")
@click.option("--config", "config_name", metavar="NAME|FILE", help="Settings (of the queue): a name or a YAML file.")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Change one setting; repeatable.")
def view(
    *,
    target: str,
    drive: DrivePart,
    save: Path | None,
    web: bool,
    port: int,
    timeout: float | None,
    config_name: str | None,
    overrides: tuple[str, ...],
    **look: Any,
) -> None:
    """Show a drive, results, or what is on a queue right now, in Rerun's viewer.

    A DRIVE shows its sensors and labels, with --results also what was perceived; RESULTS is an .mcap file. A QUEUE-URL
    shows results as they come, and sensors where the producer was given --publish-sensors.
    """
    if importlib.util.find_spec("rerun") is None:
        raise UsageError("the viewer needs rerun-sdk; install it with: pip install 'perception[viewer]'")
    showing = Showing(save=save, web_port=port if web else None, **look)
    if QUEUE_URL.match(target) or is_results(target):
        if drive != DrivePart():
            raise UsageError(
                f"--results, --stride, --start, --duration, --format and --scene go with a drive, not {target}"
            )
        view_queue(target, showing, timeout, load_service_config(config_name, overrides).queue)
    else:
        view_drive(target, drive, showing)


def is_results(path: str) -> bool:
    """Whether this is a file of an `mcap:` queue. One of `--record` is a drive, results or not."""
    file = Path(path)
    return file.suffix == ".mcap" and file.is_file() and PRODUCER_RECORD in leading_metadata(file)


def view_drive(path: str, drive: DrivePart, showing: Showing) -> None:
    """Show a drive, with results if there are any, until the viewer is closed. Raises what reading them raises."""
    with contextlib.closing(drive.open(path)) as source, drive.scenes(source) as scenes:
        cameras = tuple(camera.name for camera in source.rig.of(Modality.CAMERA))
        with open_stage(showing, source.drive_id) as stage, open_progress(source, drive.part) as advance:
            stage.arrange(cameras, has_results=drive.results is not None)
            for scene in scenes:
                stage.log.scene(scene)
                advance(scene.reference_ns)


def view_queue(target: str, showing: Showing, timeout_s: float | None, config: QueueConfig) -> None:
    """Show results as they come, until the viewer is closed. Raises what the queue raises."""
    from perception.viewer.rerun_live import LiveView

    is_file = not QUEUE_URL.match(target)
    with contextlib.ExitStack() as stack:
        # First, as a producer may begin as soon as there is somebody for its results.
        feed = None if is_file else sensor_feed(target, config)
        if feed is not None:
            stack.enter_context(contextlib.closing(feed))
        results = open_results(Path(target)) if is_file else subscribe(target, timeout_s=timeout_s, config=config)
        stack.enter_context(contextlib.closing(results))
        stage = stack.enter_context(open_stage(showing, target))
        stage.arrange((), has_results=True)
        live = LiveView(stage.log, lambda cameras: stage.arrange(cameras, has_results=True))
        live.show(tolerant(results), feed)


@contextlib.contextmanager
def open_stage(showing: Showing, name: str) -> Iterator["Stage"]:
    """A viewer, a file, or both, to show something on; after the block it stays until the user has seen enough."""
    from perception.viewer.rerun_process import viewer_process
    from perception.viewer.rerun_recording import open_recording
    from perception.viewer.rerun_stage import Stage

    is_file_only = showing.save is not None and showing.web_port is None
    with contextlib.ExitStack() as stack:
        viewer = None
        if not is_file_only:
            viewer = stack.enter_context(viewer_process(web_port=showing.web_port, memory_limit=showing.memory))
            if viewer.page_url is not None:
                click.echo(f"open {viewer.page_url}", err=True)
        data_url = None if viewer is None else viewer.data_url
        with open_recording(save=showing.save, data_url=data_url) as recording:
            yield Stage(recording, name=name, frame=showing.frame, style=style(showing))
        if viewer is not None:
            click.echo("all is there; close the viewer, or end with Ctrl-C", err=True)
            with contextlib.suppress(KeyboardInterrupt):
                viewer.wait()


def style(showing: Showing) -> "SceneStyle":
    """How scenes are drawn."""
    from perception.viewer.rerun_scene import SceneStyle

    return SceneStyle(color=showing.color, max_points=showing.max_points, min_score=showing.min_score)
