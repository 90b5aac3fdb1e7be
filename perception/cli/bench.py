"""`perception bench`: measures the parts on this machine."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import click

from perception.cli.bench_faults import bench_faults
from perception.cli.bench_health import bench_health
from perception.cli.bench_live import live, overload, soak, streaming, vehicles
from perception.cli.bench_recordings import bench_recordings_command


@click.group()
def bench() -> None:
    """Measure the service on this machine."""


for command in (bench_faults, bench_health, live, overload, soak, vehicles, streaming, bench_recordings_command):
    bench.add_command(command)


@bench.command("model")
@click.option("--model", default="tiny", show_default=True, help="A model's name.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch [default: all cores].")
@click.option("--frames", type=click.IntRange(min=1), default=50, show_default=True)
@click.option(
    "--backend",
    "backends",
    type=click.Choice(["torch", "compile", "onnxruntime", "openvino"]),
    multiple=True,
    help="What runs it; several are measured side by side, in turn, as ratios to the first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def bench_model_command(
    *, model: str, threads: int | None, frames: int, backends: tuple[str, ...], as_json: bool
) -> None:
    """The network alone: six decoded images, a sweep and radar returns in, detections and path hints out."""
    if backends:
        from perception.models.bench_backends import bench_backends

        _show(bench_backends(model, backends, threads or os.cpu_count() or 1, frames), as_json)
        return
    from perception.models.bench import bench_model
    from perception.models.presets import preset

    _show(bench_model(preset(model), threads or os.cpu_count() or 1, frames), as_json)


@bench.command("gpu")
@click.option("--model", "models", multiple=True, help="A model's name; repeatable [default: tiny, small and base].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--frames", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--batch", "batches", type=click.IntRange(min=1), multiple=True, help="Repeatable [default: 1 to 32].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def bench_gpu_command(
    *, models: tuple[str, ...], device: str, frames: int, batches: tuple[int, ...], as_json: bool
) -> None:
    """Each size of the model on a GPU: stages, batches and memory, beside what the hardware allows.

    Without a GPU it runs on the CPU, and the GPU's columns say `not measured`.
    """
    from perception.models.bench_gpu import BATCHES, bench_gpu

    sizes = models or ("tiny", "small", "base")
    _show(bench_gpu(sizes, device=device, frames=frames, batches=batches or BATCHES), as_json)


@bench.command("pipeline")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch in each process [default: all cores].")
@click.option("--seconds", type=click.FloatRange(min=1), default=10.0, show_default=True, help="Length of the drive.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def bench_pipeline_command(*, threads: int | None, seconds: float, rounds: int, as_json: bool) -> None:
    """The service in each placement over a bare loop that reads, decodes and calls the model."""
    from perception.runtime.bench_drive import in_memory_drive
    from perception.runtime.bench_pipeline import bench_pipeline

    drive = in_memory_drive(duration_s=seconds)
    _show(bench_pipeline(drive, threads=threads or os.cpu_count() or 1, rounds=rounds), as_json)


@bench.command("sim")
@click.option("--scenario", default="dense", show_default=True, help="A scenario's name, or a .yaml file.")
@click.option("--sim-set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Change a field of the scenario.")
@click.option("--seconds", type=click.FloatRange(min=3), default=20.0, show_default=True, help="Simulated time.")
@click.option("--threads", type=click.IntRange(min=1), help="Sensors rendered side by side [default: all cores].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def bench_sim_command(
    *, scenario: str, overrides: tuple[str, ...], seconds: float, threads: int | None, as_json: bool
) -> None:
    """The simulator alone: how many frames a second, and what each sensor costs."""
    from sim.bench import bench_simulator
    from sim.scenario import load_scenario

    chosen = load_scenario(scenario, [*overrides, f"duration_s={seconds}"])
    _show(bench_simulator(chosen, threads=threads or os.cpu_count() or 1), as_json)


@bench.command("queue")
@click.option(
    "--queue", "urls", multiple=True, metavar="URL", help="A queue to measure; repeatable [default: one of each kind]."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=1.2, show_default=True, help="Length of a measurement."
)
@click.option(
    "--consumers",
    type=click.IntRange(min=1, max=64),
    multiple=True,
    default=(1, 4, 16),
    show_default=True,
    help="How many consumers the highest rate is measured with; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def bench_queue_command(*, urls: tuple[str, ...], seconds: float, consumers: tuple[int, ...], as_json: bool) -> None:
    """Each result queue over the bare library: latency at 10 and 100 Hz, and the highest rate with many consumers.

    Brokers are started where they are installed. Of several consumers one is stalled.
    """
    from perception.queues.bench import BenchPlan, bench_queues

    figures = bench_queues(urls, BenchPlan(seconds=seconds, consumers=consumers))
    queues = figures.pop("queues")
    _show(figures | queues if not as_json else figures | {"queues": queues}, as_json)


@bench.command("nuscenes")
@click.option("--rows", type=click.IntRange(min=100), default=2_600_000, show_default=True, help="Rows of sample_data.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to write the tables [default: a temporary folder]."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def bench_nuscenes_command(*, rows: int, folder: Path | None, as_json: bool) -> None:
    """Time and memory to open tables of trainval size."""
    from perception.sources.nuscenes_bench import bench_nuscenes_tables

    with tempfile.TemporaryDirectory() as temporary:
        _show(bench_nuscenes_tables(folder or Path(temporary), rows), as_json)


@bench.command("fleet")
@click.option("--part", type=click.Choice(["workers", "simulated"]), default="workers", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), multiple=True, help="Repeatable [default: 1 2 4, or 1 to 64].")
@click.option("--drives", type=click.IntRange(min=8), help="How many [default: 16, or 2000].")
@click.option("--seconds", type=click.FloatRange(min=0.01), help="Of data [2], or of a simulated drive's GPU time [1].")
@click.option("--engine", type=click.Choice(["own", "shared"]), default="own", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of torch, for each worker.")
@click.option(
    "--kind",
    type=click.Choice(["tasks", "actors"]),
    default="tasks",
    show_default=True,
    help="Simulated workers: a process each, or eight to a process.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def bench_fleet_command(
    *, part: str, workers: tuple[int, ...], drives: int | None, seconds: float | None, engine: str, threads: int,
    kind: str, as_json: bool,
) -> None:  # fmt: skip
    """A fleet of real drives on this machine over the bare loop, or of simulated ones on up to 64 workers."""
    from perception.runtime.fleet.bench import bench_simulated, bench_workers

    if part == "workers":
        figures = bench_workers(
            workers or (1, 2, 4),
            drives=drives or 16,
            seconds=seconds or 2.0,
            engine="shared" if engine == "shared" else "own",
            threads=threads,
        )
    else:
        figures = bench_simulated(
            workers or (1, 2, 4, 8, 16, 32, 64),
            drives=drives or 2000,
            drive_s=seconds or 1.0,
            kind="actors" if kind == "actors" else "tasks",
        )
    _show(figures, as_json)


def _show(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name}: {_readable(value)}")


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_readable(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "".join(f"\n    {line}" for line in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
