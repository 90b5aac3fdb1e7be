"""`perception eval`: how good a model is, on drives with labels."""

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from perception.cli.display import describe
from perception.cli.main import EXIT_DONE, EXIT_LOSSES
from perception.cli.options import output_options, service_config
from perception.cli.service_run import LOSSES
from perception.cli.sim_routes import service_drive
from perception.config.evaluation import ClosedLoopPlan, EvaluatedDrive, EvaluationPlan, load_plan
from perception.config.schema import ServiceConfig
from perception.core.errors import UsageError
from perception.evaluation.evaluate import Evaluator, Parts, Tell
from perception.evaluation.plots import draw_report
from perception.evaluation.report import provenance, to_markdown, write_report
from perception.queues.open import open_queue
from perception.runtime.engines import open_engine
from perception.sources.open import open_drive
from sim.routes import route_scenarios, run_route
from sim.scenario import DriverName
from sim.score import RouteScore, summary

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("eval")
@click.argument("drives", metavar="[DRIVES]...", nargs=-1)
@click.option(
    "--plan", "plan_name", metavar="NAME|FILE", default="held_out", show_default=True,
    help="What is scored without DRIVES, and how: a shipped plan (configs/evaluation) or a YAML file.",
)  # fmt: skip
@click.option("--format", "format_name", help="The drives' format; found out from the path if not given.")
@click.option("--scene", "scenes", multiple=True, help="Which scene of each of DRIVES; repeatable [the first].")
@click.option("--subsets/--no-subsets", default=True, help="Also with fewer sensors, all seven subsets [default].")
@click.option("--streaming/--no-streaming", default=True, help="Also as a consumer gets results, late [default].")
@click.option("--robustness", is_flag=True, help="Also with frames dropped, sensors stale or lost, mounts turned.")
@click.option("--closed-loop", is_flag=True, help="Also drive the plan's simulated routes by the path hints.")
@click.option("--all", "everything", is_flag=True, help="All of these.")
@click.option("--out", type=FOLDER, metavar="DIR", help="Write report.json, report.md and plots.")
@click.option("--model", help="A model's name, or its .safetensors file [default: tiny].")
@click.option("--placement", default="local", show_default=True, type=click.Choice(["local", "colocated", "split"]))
@click.option("--config", "config_name", metavar="NAME|FILE", help="Service settings: a shipped name or a YAML file.")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Change one service setting; repeatable.")
@output_options
@click.pass_context
def eval_command(
    ctx: click.Context,
    *,
    drives: tuple[str, ...],
    plan_name: str,
    format_name: str | None,
    scenes: tuple[str, ...],
    subsets: bool,
    streaming: bool,
    robustness: bool,
    closed_loop: bool,
    everything: bool,
    out: Path | None,
    model: str | None,
    placement: str,
    config_name: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Score a model on DRIVES that have labels; without any, on simulated worlds that nothing was trained on.

    Detection as in nuScenes, tracking, path hints, streaming accuracy, fewer sensors and disturbances; prints a report
    in Markdown, or in JSON. Ends with exit code 3 where messages were lost or labelled times got no result.
    """
    began, clock = datetime.now(UTC), time.monotonic()
    config = service_config(config_name, overrides, model=model, queue_url=None, placement=placement)
    if scenes and not drives:
        raise UsageError("--scene chooses from DRIVES, but none was given")
    plan = _plan(plan_name, drives)
    parts = Parts(subsets=subsets or everything, streaming=streaming or everything, robustness=robustness or everything)

    def tell(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    with open_engine(_all_detections(config, plan)) as engine:
        tell(describe(engine))
        evaluator = Evaluator(engine, config, plan, parts, tell)
        _evaluate_drives(evaluator, plan, format_name, scenes or (None,))
        report, info, placed = evaluator.scores(), engine.model, engine.placement
    if closed_loop or everything:
        report["closed_loop"] = _closed_loop_scores(config, plan.closed_loop, tell)
    report["provenance"] = provenance(info, placed, plan, began=began, seconds=time.monotonic() - clock)
    if out is not None:
        write_report(report, out)
        plots = draw_report(report, out)
        tell(f"{out}: report.json, report.md, {', '.join(path.name for path in plots)}")
    if as_json:
        click.echo(json.dumps(report, allow_nan=False))
    elif not quiet:
        click.echo(to_markdown(report))
    lost = evaluator.missing or any(evaluator.dropped[cause.value] for cause in LOSSES)
    ctx.exit(EXIT_LOSSES if lost else EXIT_DONE)


def _plan(name: str, drives: tuple[str, ...]) -> EvaluationPlan:
    """The plan, with the user's drives in place of its own where there are any."""
    plan = load_plan(name)
    if not drives:
        return plan
    chosen = tuple(EvaluatedDrive(path=path, is_disturbed=True) for path in drives)
    return plan.model_copy(update={"drives": chosen})


def _evaluate_drives(
    evaluator: Evaluator, plan: EvaluationPlan, format_name: str | None, scenes: Sequence[str | None]
) -> None:
    for drive in plan.drives:
        for scene in scenes:
            with contextlib.closing(open_drive(drive.path, format=format_name, scene=scene)) as source:
                evaluator.add(source, drive)


def _all_detections(config: ServiceConfig, plan: EvaluationPlan) -> ServiceConfig:
    """The service with the plan's score threshold, unless the user set one."""
    if config.model.score_threshold is not None:
        return config
    model = config.model.model_copy(update={"score_threshold": plan.score_threshold})
    return config.model_copy(update={"model": model})


def _closed_loop_scores(config: ServiceConfig, plan: ClosedLoopPlan, tell: Tell) -> dict[str, Any]:
    """The plan's routes, driven by the service's path hints and, for comparison, by drivers that see no sensors."""
    scores: dict[DriverName, list[RouteScore]] = {"hints": [], "oracle": [], "constant": []}
    with open_engine(config) as engine, contextlib.closing(open_queue("memory:routes", config.queue)) as queue:
        by_hints = service_drive(engine, queue, config)
        for scenario in route_scenarios(plan.maps, plan.seeds, plan.route_length_m):
            if plan.duration_s is not None:
                scenario = scenario.model_copy(update={"duration_s": plan.duration_s})
            scores["hints"].append(by_hints(scenario.model_copy(update={"driver": "hints"})))
            for driver in ("oracle", "constant"):
                scores[driver].append(run_route(scenario, driver))
            tell(f"route {scores['hints'][-1].name}: {scores['hints'][-1].completion:.0%} driven by path hints")
    return {
        "summary": {driver: summary(found) for driver, found in scores.items()},
        "routes": [asdict(score) for found in scores.values() for score in found],
    }
