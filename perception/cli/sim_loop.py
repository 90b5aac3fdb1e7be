"""`perception sim`: the simulator loop."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

import click

from perception.cli.service_run import RunOptions, exit_code, run_options, run_service
from perception.cli.sim_routes import RouteOptions, score_routes
from perception.core.errors import UsageError
from perception.pipeline.replay import ReplayOptions
from sim.scenario import load_scenario
from sim.score import table
from sim.source import SteerableSimulator, open_simulator


@click.command("sim")
@click.option("--scenario", default="tiny", show_default=True, help="A shipped scenario's name, or a YAML file.")
@click.option(
    "--map", "maps", multiple=True, help="A shipped map, a SUMO network (.net.xml) or OpenDRIVE file (.xodr)."
)
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
@click.option("--log", type=click.Path(path_type=Path), metavar="FILE.wlog", help="Write the states, to render again.")
@click.option("--video", type=click.Path(path_type=Path), metavar="FILE.mp4", help="Write cameras and bird's-eye view.")
@click.option(
    "--routes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Score the driver on N routes instead: on each map in turn (all that may be trained on, or each --map), "
    "with seeds from --seed on. Only `hints` needs the service.",
)
@click.option("--held-out", is_flag=True, help="With --routes: maps and seeds reserved for evaluation.")
@run_options
@click.pass_context
def sim(
    ctx: click.Context,
    *,
    scenario: str,
    maps: tuple[str, ...],
    rig: str | None,
    seed: int | None,
    duration: float | None,
    loop: str | None,
    driver: str | None,
    settings: tuple[str, ...],
    log: Path | None,
    video: Path | None,
    routes: int | None,
    held_out: bool,
    run: RunOptions,
) -> None:
    """Drive a simulated world with the service perceiving it; in a closed loop the ego acts on the results."""
    if routes is None and (held_out or len(maps) > 1):
        raise UsageError("--held-out and several --map go with --routes")
    named = {
        "map": maps[0] if maps else None,
        "rig": rig,
        "seed": seed,
        "duration_s": duration,
        "loop": loop,
        "driver": driver,
    }
    chosen = [f"{field}={json.dumps(value)}" for field, value in named.items() if value is not None]
    played = load_scenario(scenario, [*settings, *chosen])
    if routes is not None:
        if loop == "open" or log or video or run.record or run.pictures or run.wait_for_consumer:
            raise UsageError("--routes scores closed loops: no --open-loop, and nothing is recorded or waited for")
        suite = RouteOptions(count=routes, maps=maps, first_seed=seed, duration_s=duration, is_held_out=held_out)
        score_routes(played, suite, run)
        return
    with contextlib.closing(open_simulator(played, log=log)) as source:
        summary = run_service(source, run, options=ReplayOptions(), video=video)
        if isinstance(source, SteerableSimulator):
            score = source.score()
            click.echo(json.dumps({"score": asdict(score)}) if run.as_json else table([score]))
    ctx.exit(exit_code(summary))
