"""`perception bench faults`: every fault of the simulator against the detectors, and what each costs in accuracy."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from perception.config.load import load_service_config
from perception.core.faults import FaultKind
from perception.core.messages import AnyMessage
from perception.core.rig import Modality, SensorRig
from perception.evaluation.fault_matrix import FaultCase, HeldDrive, accuracy_row, detection_row, false_alarms

BEGINS_S: Final = 5.0
FOUND_IN: Final = {"fog": frozenset({FaultKind.ATTENUATED.value})}
DURATION_S: Final = 12.0
STRIDE: Final = 2

CAMERA, LIDAR, RADAR = Modality.CAMERA, Modality.LIDAR, Modality.RADAR

FAULTS: Final[tuple[tuple[str, Modality, dict[str, Any], tuple[FaultKind, ...]], ...]] = (
    ("camera silent", CAMERA, {"type": "drop"}, (FaultKind.SILENT,)),
    ("camera frozen", CAMERA, {"type": "freeze"}, (FaultKind.FROZEN,)),
    ("camera dark", CAMERA, {"type": "blackout"}, (FaultKind.DARK,)),
    ("camera saturated", CAMERA, {"type": "overexposure"}, (FaultKind.SATURATED,)),
    ("camera blurred", CAMERA, {"type": "blur"}, (FaultKind.BLURRED,)),
    (
        "camera blocked",
        CAMERA,
        {"type": "blockage", "region": [0.15, 0.15, 0.85, 0.95], "opacity": 0.9},
        (FaultKind.BLOCKED,),
    ),
    ("camera cut off", CAMERA, {"type": "truncate"}, (FaultKind.UNREADABLE,)),
    (
        "camera turned 3 deg",
        CAMERA,
        {"type": "miscalibration", "rotation_deg": [0, 0, 3], "start_s": 0},
        (FaultKind.MISCALIBRATED,),
    ),
    ("camera late", CAMERA, {"type": "delay", "delay_ms": 120}, (FaultKind.LATE,)),
    ("camera jitter", CAMERA, {"type": "delay", "delay_ms": 0, "jitter_ms": 60}, (FaultKind.JITTERY, FaultKind.LATE)),
    ("camera overtaken", CAMERA, {"type": "reorder", "within_ms": 150}, (FaultKind.JITTERY, FaultKind.LATE)),
    ("camera clock off", CAMERA, {"type": "clock", "offset_ms": 400}, (FaultKind.CLOCK,)),
    ("lidar silent", LIDAR, {"type": "drop"}, (FaultKind.SILENT,)),
    ("lidar frozen", LIDAR, {"type": "freeze"}, (FaultKind.FROZEN,)),
    ("lidar empty", LIDAR, {"type": "blackout"}, (FaultKind.DARK,)),
    ("lidar sector blocked", LIDAR, {"type": "blockage", "sector_deg": [30, 80]}, (FaultKind.BLOCKED,)),
    ("lidar points collapse", LIDAR, {"type": "thin", "keep_share": 0.3}, (FaultKind.COLLAPSED,)),
    ("lidar unreadable", LIDAR, {"type": "truncate"}, (FaultKind.UNREADABLE,)),
    ("radar silent", RADAR, {"type": "drop"}, (FaultKind.SILENT,)),
    ("radar without returns", RADAR, {"type": "blackout"}, (FaultKind.SILENT,)),
    ("radar stuck", RADAR, {"type": "freeze"}, (FaultKind.STUCK,)),
)

DRIVES: Final = (
    ("clear", "town_grid", 0.0),
    ("night", "motorway", 0.0),
    ("rain", "old_town", 0.0),
    ("fog", "ring_town", 0.0),
    ("dusk", "town_irregular", 1.0),
    ("cloudy", "arterial", 1.0),
    ("night", "old_town", 1.0),
    ("fog", "motorway", 1.0),
)
"""Weather, map and how far the rig is varied. The first one is also scored."""


@dataclass(frozen=True, slots=True)
class SimulatedFault:
    """Strikes one sensor of a drive with a fault of the simulator."""

    fault: dict[str, Any]
    seed: int

    def __call__(self, messages: Iterable[AnyMessage], rig: SensorRig, sensor: str) -> Iterator[AnyMessage]:
        from sim.faults import FaultInjector, FaultPlan

        plan = FaultPlan.model_validate({"faults": [{"start_s": BEGINS_S, **self.fault, "sensors": [sensor]}]})
        return FaultInjector(plan, rig, start_ns=0, seed=self.seed).apply(messages)


def fault_cases(seed: int) -> list[FaultCase]:
    """Every fault of the simulator that a sensor's data or times can show."""
    return [
        FaultCase(
            name=name,
            modality=modality,
            begins_s=float(fault.get("start_s", BEGINS_S)),
            expected=frozenset(kind.value for kind in kinds),
            inject=SimulatedFault(fault, seed),
        )
        for name, modality, fault, kinds in FAULTS
    ]


@click.command("faults")
@click.option("--quick", is_flag=True, help="One drive, no accuracy: is everything found?")
@click.option(
    "--seed", type=click.IntRange(min=0), default=500, show_default=True, help="Of the drives and the faults."
)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--drive", "recorded", multiple=True, metavar="PATH", help="Recorded drives to count false alarms in; repeatable."
)
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables to this file too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def bench_faults(
    *, quick: bool, seed: int, threads: int, recorded: tuple[str, ...], markdown: Path | None, as_json: bool
) -> None:
    """The fault matrix: each simulated fault, is it found, after how long, with which false alarms, at what cost.

    The same seed gives the same figures.
    """
    report = fault_report(quick=quick, seed=seed, threads=threads, recorded=recorded)
    if markdown is not None:
        markdown.write_text(as_markdown(report), encoding="utf-8")
    click.echo(json.dumps(report) if as_json else as_markdown(report), nl=as_json)


def fault_report(*, quick: bool, seed: int, threads: int, recorded: tuple[str, ...] = ()) -> dict[str, Any]:
    """Everything as JSON has it. Raises what rendering a scenario and opening a recorded drive raise."""
    config = load_service_config(None, ())
    cases = fault_cases(seed)
    scored, drives = _drives(seed, threads, is_quick=quick)
    rows = [detection_row(case, drives, config) for case in cases]
    if not quick:
        for case, row in zip(cases, rows, strict=True):
            row["mAP_present"] = accuracy_row(case, scored.run, drives[0].rig, scored.engine, config, STRIDE)
    return {
        "seed": seed,
        "faults": rows,
        "false_alarms": false_alarms(drives, config),
        "recorded": false_alarms([_recorded(path) for path in recorded], config),
    }


@dataclass(frozen=True, slots=True)
class _Scored:
    run: Any
    engine: Any


def _drives(seed: int, threads: int, *, is_quick: bool) -> tuple[_Scored, list[HeldDrive]]:
    """The drives in memory, and the first one's run through the model."""
    from perception.config.schema import ModelChoice
    from perception.evaluation.run import run_labelled
    from perception.pipeline.local_engine import LocalEngine
    from perception.pipeline.stages import open_model
    from sim.scenario import load_scenario
    from sim.source import open_simulator

    scored, drives = _Scored(None, None), []
    for index, (weather, road, variation) in enumerate(DRIVES[:1] if is_quick else DRIVES):
        settings = [f"seed={seed + index}", f"weather.kind={weather}", f"map={road}", f"rig_variation={variation}"]
        source = open_simulator(load_scenario("tiny", [*settings, f"duration_s={DURATION_S}"]), threads=threads)
        try:
            if index == 0 and not is_quick:
                config = load_service_config(None, ("model.score_threshold=0",))
                engine = LocalEngine(open_model(ModelChoice(score_threshold=0.0)), threads=threads)
                run = run_labelled(source, engine, config, stride=STRIDE, is_kept=True)
                scored, messages = _Scored(run, engine), run.messages
            else:
                messages = tuple(source.messages())
        finally:
            source.close()
        drives.append(
            HeldDrive(
                name=source.drive_id,
                condition=weather,
                rig=source.rig,
                messages=messages,
                expected=FOUND_IN.get(weather, frozenset()),
            )
        )
    return scored, drives


def _recorded(path: str) -> HeldDrive:
    from perception.sources.open import open_drive

    source = open_drive(path)
    try:
        messages = tuple(source.messages())
    finally:
        source.close()
    return HeldDrive(name=source.drive_id, condition="recorded", rig=source.rig, messages=messages)


def as_markdown(report: dict[str, Any]) -> str:
    """The tables for people."""
    lines = [
        "| fault | found | delay median / max s | mAP clean / with it / handled | also reported |",
        "|---|---|---|---|---|",
    ]
    for row in report["faults"]:
        delay = row["delay_s"]
        lines.append(
            f"| {row['fault']} | {row['found']} of {row['drives']} | {delay['median']} / {delay['max']} "
            if delay
            else f"| {row['fault']} | 0 of {row['drives']} | - "
        )
        lines[-1] += f"| {_costs(row.get('mAP_present'))} | {', '.join(row['other_findings']) or '-'} |"
    lines += ["", "| drive without faults | conditions | sensor-seconds | false alarms |", "|---|---|---|---|"]
    for row in [*report["false_alarms"], *report["recorded"]]:
        alarms = ", ".join(row["alarms"]) or "none"
        lines.append(f"| {row['drive']} | {row['condition']} | {row['sensor_seconds']} | {alarms} |")
    return "\n".join(lines) + "\n"


def _costs(scores: dict[str, Any] | None) -> str:
    if not scores:
        return "-"
    return " / ".join("-" if (v := scores[name]) is None else f"{v:.3f}" for name in ("clean", "unhandled", "handled"))
