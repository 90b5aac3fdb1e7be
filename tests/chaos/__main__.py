"""`python -m tests.chaos --kills 200`: the long proof; prints a table as JSON and fails where something is lost."""

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from tests.chaos.attack import attack, undisturbed_lap
from tests.chaos.crew import TARGETS

REPLAY_SHARE = 0.8
LIVE_OPTIONS = ("--set", "runtime.resume_within_s=120")


@click.command()
@click.option("--kills", default=200, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--frames", default=60, show_default=True, help="Reference times of a lap.")
@click.option("--placement", "placements", multiple=True, default=("split", "colocated"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the whole account as JSON.")
def main(kills: int, seed: int, frames: int, placements: tuple[str, ...], out: Path | None) -> None:
    """Kill processes of a running service at random, in replay and live, and prove that nothing was lost or doubled."""
    reports: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        for placement in placements:
            share = kills // len(placements)
            replayed = round(share * REPLAY_SHARE)
            whole = undisturbed_lap(Path(folder) / f"{placement}-whole", placement=placement, frames=frames)
            for live, count in ((False, replayed), (True, share - replayed)):
                where = Path(folder) / f"{placement}-{live}"
                options = LIVE_OPTIONS if live else ()
                reports.append(
                    attack(
                        where, placement=placement, targets=TARGETS, kills=count, seed=seed, frames=frames, live=live,
                        undisturbed=whole, options=options,
                    )
                )  # fmt: skip
                click.echo(json.dumps(reports[-1]))
    if out is not None:
        out.write_text(json.dumps({"kills": kills, "seed": seed, "runs": reports}, indent=2) + "\n")
    faults = ("lost", "doubled", "changed", "disordered", "unaccounted")
    wrong = [
        f"{report['mode']} {report['placement']}: {name}" for report in reports for name in faults if report.get(name)
    ]
    if wrong:
        raise click.ClickException(", ".join(wrong))


if __name__ == "__main__":
    main()
