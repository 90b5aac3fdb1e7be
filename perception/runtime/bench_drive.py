"""The drive that benchmarks run on: computed once, then held in memory."""

from dataclasses import replace

from perception.core.rig import SensorRig
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from perception.sources.synthetic_rig import synthetic_rig

FRAME_HZ = 10.0


def in_memory_drive(*, duration_s: float, seed: int = 0) -> MemorySource:
    """A computed drive of six cameras, a lidar and five radars, all at 10 Hz, so that every message is used once."""
    rig = SensorRig(sensors=tuple(replace(sensor, frequency_hz=FRAME_HZ) for sensor in synthetic_rig().sensors))
    source = SyntheticSource(seed=seed, duration_s=duration_s, rig=rig)
    return MemorySource(rig, list(source.messages()), drive_id=f"{source.drive_id}/memory")
