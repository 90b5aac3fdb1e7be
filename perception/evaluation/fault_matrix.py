"""The fault matrix: is each fault of a sensor found, after how long, with which false alarms, and what does it cost?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from perception.config.schema import ServiceConfig
from perception.core.messages import EGO_SENSOR, AnyMessage
from perception.core.ports import Engine
from perception.core.rig import Modality, SensorRig
from perception.evaluation.run import DriveRun, frames_of, run_labelled
from perception.evaluation.scores import detection_scores
from perception.pipeline.health.monitor import SensorHealth
from perception.sources.memory import MemorySource
from perception.sync.ego_estimator import MOTION_SPAN_NS, EgoMotionEstimator

Inject = Callable[[Iterable[AnyMessage], SensorRig, str], Iterator[AnyMessage]]
"""Messages, their rig and the struck sensor to the messages with the fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultCase:
    """One row. modality: what is struck. begins_s: after the start of the drive. expected: findings that count;
    others are listed beside.
    """

    name: str
    modality: Modality
    begins_s: float
    expected: frozenset[str]
    inject: Inject


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldDrive:
    """A drive without faults, in memory. condition: its weather. expected: findings that are true of it (fog)."""

    name: str
    condition: str
    rig: SensorRig
    messages: tuple[AnyMessage, ...]
    expected: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Raised:
    """A finding at the moment when it was raised, on the arrival clock."""

    sensor: str
    kind: str
    time_ns: int


def findings(messages: Iterable[AnyMessage], rig: SensorRig, config: ServiceConfig) -> list[Raised]:
    """Every finding raised while `messages` pass, once each time that it is raised anew."""
    estimator = EgoMotionEstimator(rig)
    health = SensorHealth(rig, config.health, lambda time_ns: estimator.motion_at(time_ns, MOTION_SPAN_NS))
    standing: set[tuple[str, str]] = set()
    raised = []
    for message in messages:
        estimator.observe(message)
        health.observe(message)
        found = health.findings(message.arrival_ns)
        now = {(sensor, fault.kind) for sensor, faults in found.items() for fault in faults}
        raised += [Raised(sensor, kind, message.arrival_ns) for sensor, kind in sorted(now - standing)]
        standing = now
    return raised


def false_alarms(drives: Sequence[HeldDrive], config: ServiceConfig) -> list[dict[str, Any]]:
    """What is found in drives without faults, a row for each drive."""
    rows = []
    for drive in drives:
        raised = findings(drive.messages, drive.rig, config)
        duration_s = (drive.messages[-1].arrival_ns - drive.messages[0].arrival_ns) / 1e9
        rows.append(
            {
                "drive": drive.name,
                "condition": drive.condition,
                "sensor_seconds": round(duration_s * len(drive.rig.sensors), 1),
                "alarms": [f"{one.sensor}: {one.kind}" for one in raised if one.kind not in drive.expected],
            }
        )
    return rows


def detection_row(case: FaultCase, drives: Sequence[HeldDrive], config: ServiceConfig) -> dict[str, Any]:
    """Over all drives that have such a sensor: how often the fault was found, after how long, and what else was."""
    delays, others, tried = [], [], 0
    for drive in drives:
        sensors = drive.rig.of(case.modality)
        if not sensors:
            continue
        tried += 1
        struck = sensors[0].name
        begins_ns = drive.messages[0].arrival_ns + round(case.begins_s * 1e9)
        raised = findings(case.inject(_needed(drive, struck), drive.rig, struck), drive.rig, config)
        raised = [one for one in raised if one.sensor == struck]
        first = [one.time_ns for one in raised if one.kind in case.expected and one.time_ns >= begins_ns]
        if first:
            delays.append((first[0] - begins_ns) / 1e9)
        others += [one.kind for one in raised if one.kind not in case.expected | drive.expected]
    return {
        "fault": case.name,
        "modality": case.modality.value,
        "expected": sorted(case.expected),
        "drives": tried,
        "found": len(delays),
        "delay_s": {"median": round(median(delays), 2), "max": round(max(delays), 2)} if delays else None,
        "other_findings": sorted(set(others)),
    }


def accuracy_row(
    case: FaultCase, clean: DriveRun, rig: SensorRig, engine: Engine, config: ServiceConfig, stride: int
) -> dict[str, Any]:
    """mAP of present classes from the fault's beginning on: without it, with it, and with it where nothing is masked.

    clean: the drive's run without faults, its messages kept.
    """
    sensors = rig.of(case.modality)
    if not sensors:
        return {}
    messages = tuple(case.inject(clean.messages, rig, sensors[0].name))
    source = MemorySource(rig, messages, clean.truth.labels, drive_id=clean.drive_id)
    begins_ns = clean.messages[0].capture_ns + round(case.begins_s * 1e9)
    handled = run_labelled(source, engine, config, stride=stride)
    health = config.health.model_copy(update={"mask": ()})
    masked = sum(result.provenance.dropped.get("masked", 0) for result in handled.results)
    bare = handled
    if masked:
        bare = run_labelled(source, engine, config.model_copy(update={"health": health}), stride=stride)
    times = frozenset(handled.evaluated_ns)
    return {
        "clean": _score(clean, begins_ns, times),
        "unhandled": _score(bare, begins_ns, times),
        "handled": _score(handled, begins_ns, times),
        "masked_messages": masked,
    }


def _score(run: DriveRun, begins_ns: int, times: frozenset[int]) -> float | None:
    frames = [f for f in frames_of(run) if f.reference_ns >= begins_ns and f.reference_ns in times]
    score = detection_scores(frames)["mAP_present"]
    return None if score is None else round(float(score), 4)


def _needed(drive: HeldDrive, struck: str) -> list[AnyMessage]:
    """What the struck sensor's findings rest on: its own messages, the ego's, and the lidar's for a calibration."""
    lidars = drive.rig.of(Modality.LIDAR)
    wanted = {struck, EGO_SENSOR, *(lidar.name for lidar in lidars[:1])}
    return [message for message in drive.messages if message.sensor in wanted]
