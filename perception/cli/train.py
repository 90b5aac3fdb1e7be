"""`perception train`: a network from labelled drives."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from perception.cli.main import EXIT_DONE, EXIT_FAILED
from perception.cli.options import output_options
from perception.cli.signals import first_signal
from perception.config.load import load_settings
from perception.config.paths import find_config
from perception.config.training import TrainingConfig
from perception.core.errors import UsageError
from perception.models.checkpoint import SUFFIX
from perception.runtime.training_run import RunAccount, export_weights, run_gate, run_paths, run_training
from perception.training.gates import GATES, GateReport
from perception.training.log import TrainingDisplay, open_training_display
from perception.training.trainer import Ending

RUNS = Path("out/training")


@click.command("train")
@click.argument("config_name", metavar="CONFIG", required=False)
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Change one setting; repeatable.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Save and stop after so long.")
@click.option("--resume/--fresh", default=True, help="Go on where the run stopped [default], or throw it away first.")
@click.option("--gate", type=click.Choice(["overfit", "base", "gradients"]), help="Check that learning works at all.")
@click.option("--paths", is_flag=True, help="Train the path head alone, on the run's best weights or on `model`.")
@click.option("--size", type=click.Choice(["full", "small"]), default="full", show_default=True, help="Of the gate.")
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the weights, half as large.",
)
@click.option("--profile", is_flag=True, help="Print where the time of the steps went.")
@output_options
@click.pass_context
def train(
    ctx: click.Context,
    *,
    config_name: str | None,
    overrides: tuple[str, ...],
    minutes: float | None,
    resume: bool,
    gate: str | None,
    paths: bool,
    size: str,
    export: Path | None,
    profile: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a network as CONFIG says: a YAML file, or the name of a shipped one.

    A run is kept in out/training/NAME. Interrupted (Ctrl-C, kill, --minutes) it goes on when it is called again. A
    --gate brings a CONFIG of its own.
    """
    if export is not None and export.suffix != SUFFIX:
        raise UsageError(f"--export {export}: weights are safetensors; end the name in {SUFFIX}")
    if paths and (gate or profile or minutes):
        raise UsageError("--paths goes with none of --gate, --profile and --minutes")
    judged = GATES.get(f"{gate}-{size}", GATES.get(gate)) if gate else None
    name = config_name or (judged.config if judged else None)
    if name is None:
        raise UsageError("train needs a CONFIG: a YAML file or a shipped name such as tiny; docs/training.md shows how")
    config = load_settings(TrainingConfig, find_config("training", name), overrides)
    folder = RUNS / config.name
    if paths:
        _train_paths(config, folder, export, as_json=as_json, quiet=quiet)
        ctx.exit(EXIT_DONE)
    account: RunAccount | None = None
    report: GateReport | None = None
    with open_training_display(quiet=quiet or as_json) as display, _stops_when_asked(display) as should_stop:
        if judged is None or judged.trains:
            account = run_training(
                config,
                folder,
                display,
                until_s=minutes and minutes * 60,
                should_stop=should_stop,
                resume=resume,
                exact_times=profile,
            )
        if judged is not None and (account is None or account.ending is not Ending.PAUSED):
            report = run_gate(config, judged, folder)
    if export is not None and account is not None:
        export_weights(account.checkpoint, export)
    if as_json:
        click.echo(json.dumps(_as_json(account, report)))
    elif not quiet:
        _show(account, report, profile=profile)
    ctx.exit(EXIT_FAILED if report is not None and not report.is_passed else EXIT_DONE)


def _train_paths(config: TrainingConfig, folder: Path, export: Path | None, *, as_json: bool, quiet: bool) -> None:
    with open_training_display(quiet=quiet or as_json) as display, _stops_when_asked(display) as should_stop:
        account = run_paths(config, folder, display, should_stop=should_stop)
    if export is not None:
        export_weights(account.checkpoint, export)
    if as_json:
        click.echo(json.dumps(account.to_dict()))
    elif not quiet:
        click.echo(f"before: {account.before}")
        click.echo(f"after:  {account.after}")
        click.echo(f"weights: {account.checkpoint}; try them with")
        click.echo(f"  perception sim --routes 4 --driver hints --model {account.checkpoint}")


def _stops_when_asked(display: TrainingDisplay) -> AbstractContextManager[Callable[[], bool]]:
    """Neither a step nor the making of a drive's frames is cut in two."""
    return first_signal(lambda: display.note("stopping after what is under way; once more to stop at once"))


def _as_json(account: RunAccount | None, report: GateReport | None) -> dict[str, Any]:
    values = account.to_dict() if account else {}
    if report is not None:
        checks = [
            {"name": check.name, "value": check.value, "least": check.least, "passed": check.is_passed}
            for check in report.checks
        ]
        values |= {"passed": report.is_passed, "checks": checks, "scores": report.scores}
    return values


def _show(account: RunAccount | None, report: GateReport | None, *, profile: bool) -> None:
    if account is not None:
        done, best = account.progress, account.progress.best_nds
        click.echo(
            f"{account.ending}: {done.step} of {account.steps} steps, {done.samples} samples, {done.seconds:.0f} s"
        )
        if best is not None:
            click.echo(f"best NDS {best:.3f} after {done.best_step} steps")
        if account.ending is Ending.PAUSED:
            click.echo("call it again to go on")
        if profile:
            Console().print(_stage_table(account))
        click.echo(f"weights: {account.checkpoint}; try them with")
        click.echo(f"  perception replay DRIVE --model {account.checkpoint}")
    for check in report.checks if report else ():
        verdict = "passed" if check.is_passed else "FAILED"
        click.echo(f"{verdict}  {check.name}: {check.value:.3f} (at least {check.least:g})")


def _stage_table(account: RunAccount) -> Table:
    table = Table("stage", "seconds", "ms a sample", "samples/s", title="Where the time went")
    for name, row in account.stages.items():
        table.add_row(name, f"{row['seconds']:.2f}", f"{row['ms_per_sample']:.1f}", f"{row['samples_per_s']:.1f}")
    return table
