"""`perception sim`: the simulator loop."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

import click

from perception.cli.display import open_display
from perception.cli.options import output_options, service_config, service_options
from perception.cli.recording import open_recorder
from perception.cli.replay import PICTURE_EVERY, await_consumer, exit_code
from perception.core.ports import Recorder
from perception.pipeline.laps import replay_laps
from perception.pipeline.replay import ReplayOptions
from perception.queues.open import open_queue
from perception.runtime.engines import open_engine
from perception.viewer.sinks import PictureFolder, VideoFile
from sim.scenario import load_scenario
from sim.score import table
from sim.source import SteerableSimulator, open_simulator


@click.command("sim")
@click.option("--scenario", default="tiny", show_default=True, help="A shipped scenario's name, or a YAML file.")
@click.option("--map", "map_name", help="A shipped map, a SUMO network (.net.xml) or OpenDRIVE file (.xodr).")
@click.option("--rig", help="A shipped rig's name, or a YAML file.")
@click.option("--seed", type=click.IntRange(min=0), help="Another seed: other traffic, other scenery.")
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Simulated seconds.")
@click.option("--open-loop", "loop", flag_value="open", help="The traffic simulation drives the ego.")
@click.option("--closed-loop", "loop", flag_value="lockstep", help="The driver drives; the world awaits each result.")
@click.option("--async-loop", "loop", flag_value="async", help="As closed, but results take effect late.")
@click.option("--driver", type=click.Choice(["oracle", "hints", "constant"]), help="Who drives in a closed loop.")
@click.option(
    "--sim-set", "settings", multiple=True, metavar="a.b=c", help="Change a field of the scenario; repeatable."
)
@click.option("--record", type=click.Path(path_type=Path), metavar="DIR", help="Write the drive as a nuScenes root.")
@click.option("--log", type=click.Path(path_type=Path), metavar="FILE.wlog", help="Write the states, to render again.")
@click.option("--video", type=click.Path(path_type=Path), metavar="FILE.mp4", help="Write cameras and bird's-eye view.")
@click.option("--pictures", type=click.Path(path_type=Path), metavar="DIR", help="Draw every tenth result as a PNG.")
@click.option("--wait-for-consumer", is_flag=True, help="Start when somebody is attached to the queue.")
@service_options
@output_options
@click.pass_context
def sim(
    ctx: click.Context,
    *,
    scenario: str,
    map_name: str | None,
    rig: str | None,
    seed: int | None,
    duration: float | None,
    loop: str | None,
    driver: str | None,
    settings: tuple[str, ...],
    record: Path | None,
    log: Path | None,
    video: Path | None,
    pictures: Path | None,
    wait_for_consumer: bool,
    model: str | None,
    queue_url: str | None,
    placement: str | None,
    address: str | None,
    config_name: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Drive a simulated world with the service perceiving it; in a closed loop the ego acts on the results."""
    config = service_config(config_name, overrides, model=model, queue_url=queue_url, placement=placement)
    named = {"map": map_name, "rig": rig, "seed": seed, "duration_s": duration, "loop": loop, "driver": driver}
    chosen = [f"{field}={json.dumps(value)}" for field, value in named.items() if value is not None]
    played = load_scenario(scenario, [*settings, *chosen])
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(open_simulator(played, log=log)))
        display = stack.enter_context(open_display(source, as_json=as_json, quiet=quiet))
        recorders: list[Recorder] = [open_recorder(record, source)] if record else []
        if video:
            recorders.append(VideoFile(source, video, frames_per_s=_frame_rate(source.label_times_ns)))
        if pictures:
            recorders.append(PictureFolder(source, pictures, every=PICTURE_EVERY))
        for recorder in recorders:
            stack.enter_context(contextlib.closing(recorder))
        queue = stack.enter_context(contextlib.closing(open_queue(config.queue.url, config.queue)))
        engine = stack.enter_context(open_engine(config, address=address))
        display.started(engine, config)
        if wait_for_consumer:
            await_consumer(queue, display)
        options = ReplayOptions()
        (summary,) = replay_laps(
            source, engine, queue, config, options=options, recorders=recorders, on_result=display.result
        )
        display.lap(summary)
        if isinstance(source, SteerableSimulator):
            score = source.score()
            click.echo(json.dumps({"score": asdict(score)}) if as_json else table([score]))
    ctx.exit(exit_code(summary))


def _frame_rate(times_ns: tuple[int, ...]) -> float:
    """Reference times a second, so that a video plays at the pace of the world."""
    return (len(times_ns) - 1) * 1e9 / (times_ns[-1] - times_ns[0]) if len(times_ns) > 1 else 10.0
