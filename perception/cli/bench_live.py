"""`perception bench live | overload | soak | vehicles | streaming`: the service under live conditions."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from perception.cli.bench_tables import Show, show_live, show_loads, show_soak, show_streaming, show_vehicles
from perception.cli.main import EXIT_DONE, EXIT_FAILED

if TYPE_CHECKING:
    from perception.runtime.bench_live import LivePlan, Stand

DRIVE = "sim:tiny,duration_s=10"
QUICK_DRIVE = "sim:tiny,duration_s=2,traffic.max_vehicles=5,traffic.max_pedestrians=5"
CLIPS = (
    "sim:tiny,map=old_town,seed=1000000,duration_s=6,weather.kind=clear",
    "sim:tiny,map=ring_town,seed=1000003,duration_s=6,weather.kind=rain",
    "sim:tiny,map=old_town,seed=1000006,duration_s=6,weather.kind=night",
)
"""Held out: nothing was trained on them."""
QUICK_CLIPS = ("sim:tiny,map=old_town,seed=1000000,duration_s=1",)
Placement = Literal["auto", "local", "colocated", "split"]


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every live benchmark; the command gets them as `plan`, `quick` and `show`."""

    @functools.wraps(command)
    def collected(
        *,
        threads: int,
        placement: Placement,
        model: str,
        quick: bool,
        as_json: bool,
        save: Path | None,
        **own: Any,
    ) -> Any:
        from perception.runtime.bench_live import LivePlan

        plan = LivePlan(threads=threads, placement=placement, model=model)
        if quick:
            plan = LivePlan(
                threads=threads, placement=placement, model=model, seconds=4.0, compared_s=3.0, rounds=1, trial_s=3.0
            )
        return command(plan=plan, quick=quick, show=Show(as_json, save), **own)

    with_options = collected
    for option in (
        click.option("--save", type=click.Path(path_type=Path), metavar="FILE", help="Write the figures as JSON, too."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        click.option("--quick", is_flag=True, help="Seconds instead of minutes: shows that it works, not how fast."),
        click.option("--model", default="tiny", show_default=True, help="A model's name."),
        click.option(
            "--placement", type=click.Choice(["auto", "local", "colocated", "split"]), default="auto", show_default=True
        ),
        click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads of torch [default: all cores]."),
    ):
        with_options = option(with_options)
    return with_options


_drive = click.option("--drive", metavar="PATH", help=f"A drive to repeat without end [default: {DRIVE}].")


@click.command("live")
@click.option("--minutes", type=click.FloatRange(min=0.05), default=10.0, show_default=True, help="Of the long run.")
@click.option("--hz", type=click.FloatRange(min=0.5), default=10.0, show_default=True, help="Frames a second to reach.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Of the comparison.")
@_drive
@_common
def live(
    *, plan: "LivePlan", drive: str | None, quick: bool, show: Show, minutes: float, hz: float, rounds: int
) -> None:
    """Latency from the last message's arrival to a consumer in another process, by stage.

    At the wanted rate, or the highest that this machine sustains; beside a bare loop, a dora-rs dataflow, and the
    service with its encoding put off until a bundle is complete.
    """
    from dataclasses import replace

    from perception.runtime.bench_live import bench_live
    from perception.sources.open import open_drive

    plan = replace(plan, hz=hz)
    if not quick:
        plan = replace(plan, seconds=minutes * 60, rounds=rounds)
    show(bench_live(open_drive(_drive_of(drive, quick)), plan, _tell), show_live)


@click.command("overload")
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="At each load.")
@click.option(
    "--factor", "factors", type=click.FloatRange(min=0.1, max=16), multiple=True, default=(0.5, 1.0, 2.0, 4.0),
    show_default=True, help="Times what the service can do; repeatable.",
)  # fmt: skip
@_drive
@_common
def overload(
    *, plan: "LivePlan", drive: str | None, quick: bool, show: Show, seconds: float, factors: tuple[float, ...]
) -> None:
    """Latency and drops where more arrives than the service can do, and whether every frame is accounted for."""
    from perception.runtime.bench_live_load import bench_overload

    with _stand(_drive_of(drive, quick), plan) as stand:
        figures = bench_overload(stand, factors=factors, seconds=plan.seconds if quick else seconds)
    show(figures, show_loads)


@click.command("soak")
@click.option("--minutes", type=click.FloatRange(min=0.05), default=30.0, show_default=True)
@click.option("--factor", type=click.FloatRange(min=0.1, max=16), default=2.0, show_default=True)
@_drive
@_common
def soak(*, plan: "LivePlan", drive: str | None, quick: bool, show: Show, minutes: float, factor: float) -> int:
    """A long overload: exit code 1 where memory grows by 1 % after the warm-up, or a frame is not accounted for."""
    from perception.runtime.bench_live_load import bench_soak

    with _stand(_drive_of(drive, quick), plan) as stand:
        figures = bench_soak(stand, factor=factor, seconds=plan.seconds if quick else minutes * 60)
    show(figures, show_soak)
    return EXIT_DONE if figures["passed"] or quick else EXIT_FAILED


@click.command("vehicles")
@click.option("--seconds", type=click.FloatRange(min=1), default=30.0, show_default=True, help="With each number.")
@click.option(
    "--vehicles", "counts", type=click.IntRange(min=1, max=64), multiple=True, default=(1, 2, 4, 8), show_default=True,
    help="How many share the service; repeatable.",
)  # fmt: skip
@_drive
@_common
def vehicles(
    *, plan: "LivePlan", drive: str | None, quick: bool, show: Show, seconds: float, counts: tuple[int, ...]
) -> None:
    """Frames a second of several vehicles in one service, and how evenly they get them."""
    from perception.runtime.bench_live_load import bench_vehicles

    with _stand(_drive_of(drive, quick), plan) as stand:
        figures = bench_vehicles(stand, counts=counts, seconds=plan.seconds if quick else seconds)
    show(figures, show_vehicles)


@click.command("streaming")
@click.option("--clip", "clips", multiple=True, metavar="PATH", help="A labelled drive; repeatable [default: held-out]")
@click.option("--frame-ms", type=click.FloatRange(min=1, max=1000), default=80.0, show_default=True,
    help="What a frame takes while the service keeps up.",
)  # fmt: skip
@_common
def streaming(*, plan: "LivePlan", quick: bool, show: Show, clips: tuple[str, ...], frame_ms: float) -> None:
    """Accuracy at the time at which a consumer needs it: with and without prediction, and under twice the load.

    Fewer cameras are what the service leaves out first when it is too slow. The same figures on any machine, but for
    what share of the work the cameras are.
    """
    from perception.runtime.bench_live_streaming import bench_streaming
    from perception.runtime.engines import open_engine
    from perception.sources.open import open_drive

    chosen = clips or (QUICK_CLIPS if quick else CLIPS)
    with open_engine(plan.config) as engine:
        opened = [open_drive(clip) for clip in chosen]
        figures = bench_streaming(
            opened, engine, plan.config, frame_ms=frame_ms, rungs=(2,) if quick else (4, 2, 0), tell=_tell
        )
    show(figures, show_streaming)


@contextlib.contextmanager
def _stand(drive: str, plan: "LivePlan") -> "Iterator[Stand]":
    from perception.runtime.bench_live import open_stand
    from perception.sources.open import open_drive

    with open_stand(open_drive(drive), plan, _tell) as stand:
        yield stand


def _drive_of(drive: str | None, quick: bool) -> str:
    return drive or (QUICK_DRIVE if quick else DRIVE)


def _tell(text: str) -> None:
    click.echo(text, err=True)
