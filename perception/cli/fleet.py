"""`perception fleet`: many drives on a Ray cluster."""

import json
from pathlib import Path
from typing import Any

import click

from perception.cli.main import EXIT_DONE, EXIT_FAILED, EXIT_LOSSES
from perception.cli.options import output_options, service_config
from perception.config.fleet import BaselineConfig, FleetConfig
from perception.core.errors import UsageError

FOLDER = click.Path(path_type=Path, file_okay=False)
FLEET, BASELINE = FleetConfig(), BaselineConfig()


@click.command()
@click.argument("drives", nargs=-1)
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="Where results go; every node must see it.")
@click.option("--address", help="Join this Ray cluster (ray://HOST:PORT, auto) instead of starting one here.")
@click.option("--workers", type=click.IntRange(min=1), help="Drives played at once [default: as many as fit].")
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=FLEET.threads,
    show_default=True,
    help="Threads, and cores reserved, for each worker or shared engine.",
)
@click.option(
    "--engine",
    type=click.Choice(["own", "shared"]),
    default=FLEET.engine,
    show_default=True,
    help="Whether each worker runs its own model, or several share one (on each GPU).",
)
@click.option("--engines", type=click.IntRange(min=1), help="Shared engines [default: one for each GPU, else one].")
@click.option(
    "--attempts",
    type=click.IntRange(1, 20),
    default=FLEET.attempts,
    show_default=True,
    help="How often a drive is begun before it counts as failed.",
)
@click.option("--cache", type=FOLDER, metavar="DIR", help="Where workers put what they fetch [default: temporary].")
@click.option(
    "--max-drive-gb",
    type=click.FloatRange(min=0, min_open=True),
    default=FLEET.max_drive_gb,
    show_default=True,
    help="Remote drives larger than this are refused.",
)
@click.option("--verify", is_flag=True, help="Check the checksums of results that are there, not only their sizes.")
@click.option("--baseline", type=FOLDER, metavar="DIR", help="Compare with the results of another fleet.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    default=BASELINE.tolerance,
    show_default=True,
    help="With --baseline: how far mAP, NDS or a class's AP may fall.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=BASELINE.seed,
    show_default=True,
    help="With --baseline: of the bootstrap over drives.",
)
@click.option("--model", help="A model's name, or its .safetensors file, which every node must see [default: tiny].")
@click.option("--config", "config_name", metavar="NAME|FILE", help="Settings: a shipped name or a YAML file.")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Change one setting; repeatable.")
@output_options
@click.pass_context
def fleet(
    ctx: click.Context,
    *,
    drives: tuple[str, ...],
    out: Path,
    address: str | None,
    workers: int | None,
    threads: int,
    engine: str,
    engines: int | None,
    attempts: int,
    cache: Path | None,
    max_drive_gb: float,
    verify: bool,
    baseline: Path | None,
    tolerance: float,
    seed: int,
    model: str | None,
    config_name: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Replay DRIVES on a Ray cluster: each gives its results as MCAP and Parquet, all together one summary.

    DRIVES are whatever `perception replay` opens, folders of such, patterns, manifests (.txt, .jsonl, .json, .yaml),
    here or at s3://, gs:// and http(s)://. `PATH#scene=NAME` chooses one drive of a data set. Called again, only what
    is not done yet is played. Without DRIVES the results in DIR are summed up (and compared) again.

    Exit codes: 0 done, 1 failed or worse than the baseline, 2 wrong use, 3 some drives failed.
    """
    from perception.runtime.fleet.run import FleetPlan, run_fleet
    from perception.runtime.fleet.summary import summarise, to_markdown, write_summary

    if not drives and not out.is_dir():
        raise UsageError(f"give DRIVES, or an --out with results; {out} has none")
    if baseline is not None and not baseline.is_dir():
        raise UsageError(f"--baseline {baseline}: no such folder")
    report: dict[str, Any] = {}
    if drives:
        plan = FleetPlan(
            drives=drives,
            out=out,
            service=service_config(config_name, overrides, model=model, queue_url=None, placement=None),
            fleet=FleetConfig.model_validate(
                {"workers": workers or 0, "threads": threads, "engine": engine, "engines": engines or 0,
                 "attempts": attempts, "max_drive_gb": max_drive_gb}
            ),
            address=address,
            cache=cache,
            verify=verify,
        )  # fmt: skip
        counts = run_fleet(plan, (lambda _: None) if quiet else _tell)
        report["run"] = {name: getattr(counts, name) for name in ("done", "failed", "skipped", "repeated")} | {
            "retries": counts.overhead.retries
        }
    report |= write_summary(out)
    if baseline is not None:
        report["baseline"] = _compare(baseline, out, BaselineConfig(tolerance=tolerance, seed=seed))
    if as_json:
        click.echo(json.dumps(report, allow_nan=False))
    elif not quiet:
        click.echo(to_markdown(summarise(out)))
        if baseline is not None:
            click.echo(_diff_text(report["baseline"]))
    ctx.exit(_exit_code(report))


def _exit_code(report: dict[str, Any]) -> int:
    if report.get("baseline", {}).get("is_worse"):
        return EXIT_FAILED
    return EXIT_LOSSES if report["drives"]["failed"] else EXIT_DONE


def _tell(account: dict[str, Any]) -> None:
    """A line for each drive, on standard error."""
    source = account["source"]
    if "error" in account:
        click.echo(f"{source}: failed after {account['attempts']} attempts: {account['error']}", err=True)
    else:
        click.echo(f"{source}: {account['frames']} frames in {account['seconds']:.1f} s", err=True)


def _compare(baseline: Path, out: Path, config: BaselineConfig) -> dict[str, Any]:
    """The comparison, also left in the folder as `baseline.json`."""
    from perception.runtime.fleet.baseline import compare_fleets

    found = compare_fleets(baseline, out, config).to_dict()
    (out / "baseline.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return found


def _diff_text(diff: dict[str, Any]) -> str:
    lines = [f"## Against the baseline, over {diff['drives']} drives\n"]
    lines += ["| | before | now | change | interval | p | |", "|---|---|---|---|---|---|---|"]
    for name, one in diff["changes"].items():
        interval = "" if one["low"] is None else f"{one['low']:+.4f} to {one['high']:+.4f}"
        chance = "" if one["p"] is None else f"{one['p']:.3g}"
        lines.append(
            f"| {name} | {one['before']:.4f} | {one['now']:.4f} | {one['change']:+.4f} | {interval} | {chance} | "
            f"{'worse' if one['is_worse'] else ''} |"
        )
    lines += [f"\nfailed now, done before: {source}" for source in diff["newly_failed"]]
    lines += [f"\ndiffers: {note}" for note in diff["notes"]]
    return "\n".join(lines)
