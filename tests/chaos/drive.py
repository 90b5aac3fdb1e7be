"""A computed drive with few sensors, as a recording: so that the kills, not the sensors, take the time."""

from dataclasses import replace
from pathlib import Path

from perception.core.rig import SensorRig
from perception.recorders.mcap import McapRecorder
from perception.sources.synthetic import SyntheticSource
from perception.sources.synthetic_rig import synthetic_rig

SENSORS = ("CAM_FRONT", "CAM_BACK", "LIDAR_TOP", "RADAR_FRONT")
RATE_HZ = 10.0


def few_sensors() -> SensorRig:
    """Two cameras, a lidar and a radar of the synthetic rig, at 10 Hz."""
    full = synthetic_rig()
    return SensorRig(sensors=tuple(replace(full[name], frequency_hz=RATE_HZ) for name in SENSORS))


def write_drive(path: Path, frames: int, seed: int) -> None:
    """Write a drive with so many reference times to `path` (.mcap)."""
    source = SyntheticSource(seed=seed, duration_s=frames / RATE_HZ, rig=few_sensors())
    recorder = McapRecorder(path, source.rig, source.drive_id)
    for message in source.messages():
        recorder.write(message)
    recorder.close()
