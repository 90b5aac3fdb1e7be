"""What is in a drive: sensors, rates, gaps, labels; found by reading all of it once."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from perception.core.messages import CameraFrame, EgoState, LidarSweep, RadarScan, RouteCommand, Unreadable
from perception.core.ports import Source

GAP_PERIODS = 2.5
"""A pause longer than so many median periods is a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorSummary:
    """One sensor's messages. elements: mean points or bytes a message. longest_gap_s: None without a gap."""

    name: str
    modality: str
    count: int
    unreadable: int
    frequency_hz: float
    jitter_ms: float
    gaps: int
    longest_gap_s: float | None
    elements: float
    position_m: tuple[float, float, float] | None
    optics: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveSummary:
    """A whole drive. label_counts: boxes by category over all labelled times."""

    drive_id: str
    duration_s: float
    sensors: tuple[SensorSummary, ...]
    poses: int
    route_commands: int
    labelled_times: int
    label_counts: dict[str, int]
    calibration_hash: str
    notes: tuple[str, ...]
    errors: tuple[str, ...]


def summarize(source: Source) -> DriveSummary:
    """Read every message of `source` once and count. Raises DriveError where the drive breaks off."""
    captures: dict[str, list[int]] = {sensor.name: [] for sensor in source.rig.sensors}
    elements: Counter[str] = Counter()
    unreadable: Counter[str] = Counter()
    errors: list[str] = []
    kinds: Counter[str] = Counter()
    arrivals: list[int] = []
    for message in source.messages():
        arrivals.append(message.arrival_ns)
        kinds[type(message).__name__] += 1
        if isinstance(message, Unreadable):
            unreadable[message.sensor] += 1
            errors.append(f"{message.sensor} at {message.capture_ns}: {message.error}")
        elif isinstance(message, CameraFrame | LidarSweep | RadarScan):
            captures[message.sensor].append(message.capture_ns)
            elements[message.sensor] += len(message.data) if isinstance(message, CameraFrame) else len(message.points_m)
    labels = [found for time_ns in source.label_times_ns if (found := source.labels(time_ns)) is not None]
    return DriveSummary(
        drive_id=source.drive_id,
        duration_s=(max(arrivals) - min(arrivals)) / 1e9 if arrivals else 0.0,
        sensors=tuple(
            _summarize_sensor(source, name, times, elements[name], unreadable[name]) for name, times in captures.items()
        ),
        poses=kinds[EgoState.__name__],
        route_commands=kinds[RouteCommand.__name__],
        labelled_times=len(labels),
        label_counts=dict(sorted(Counter(category for found in labels for category in found.category).items())),
        calibration_hash=source.rig.calibration_hash(),
        notes=source.notes,
        errors=tuple(errors),
    )


def _summarize_sensor(source: Source, name: str, times: list[int], elements: int, unreadable: int) -> SensorSummary:
    sensor = source.rig[name]
    steps = np.diff(np.sort(np.array(times, dtype=np.float64) - min(times, default=0)))
    median = float(np.median(steps)) if len(steps) else 0.0
    gaps = steps[steps > GAP_PERIODS * median] if len(steps) else steps
    camera = sensor.camera
    x, y, z = sensor.ego_SE3_sensor[:3, 3].tolist()
    return SensorSummary(
        name=name,
        modality=sensor.modality.value,
        count=len(times),
        unreadable=unreadable,
        frequency_hz=1e9 / median if median else 0.0,
        jitter_ms=float(np.std(steps)) / 1e6 if len(steps) else 0.0,
        gaps=len(gaps),
        longest_gap_s=float(gaps.max()) / 1e9 if len(gaps) else None,
        elements=elements / max(len(times), 1),
        position_m=(x, y, z),
        optics=f"{camera.width_px}x{camera.height_px} {camera.projection}" if camera else None,
    )
