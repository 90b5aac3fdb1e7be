"""What it costs to watch the sensors for faults: CPU time a frame, part by part."""

from collections import Counter
from collections.abc import Sequence
from time import process_time_ns
from typing import Any, Final

from perception.config.schema import HealthConfig, SyncConfig
from perception.core.bundle import Stamp
from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan
from perception.core.rig import SensorRig
from perception.pipeline.health import SensorHealth
from perception.sync.ego_estimator import MOTION_SPAN_NS, EgoMotionEstimator
from perception.sync.synchronizer import Synchronizer

STATE: Final = "state"
"""What a bundle asks when it closes, beside what each message costs."""
SETTINGS: Final = {
    "times": HealthConfig(content=False),
    "content": HealthConfig(calibration=False),
    "all": HealthConfig(),
}


def health_cost(messages: Sequence[AnyMessage], rig: SensorRig, rounds: int) -> dict[str, Any]:
    """CPU milliseconds of this process a frame (a bundle that closes), by what is looked at; the least of `rounds`.

    With the default settings. Decoding for the checks is part of it, ego motion only where the checks ask for it.
    """
    least: dict[str, Counter[str]] = {}
    frames = 0
    for _ in range(rounds):
        for name, config in SETTINGS.items():
            spent_ns, frames = _watch(messages, rig, config)
            known = least.setdefault(name, spent_ns)
            least[name] = Counter({part: min(known[part], spent_ns[part]) for part in spent_ns})
    times, content, everything = (least[name] for name in SETTINGS)
    parts_ns = {
        "times and state of all sensors": times.total(),
        "images": content["CameraFrame"] - times["CameraFrame"],
        "sweeps": content["LidarSweep"] - times["LidarSweep"],
        "scans": content["RadarScan"] - times["RadarScan"],
        "calibration": everything["LidarSweep"] + everything["CameraFrame"]
        - content["LidarSweep"] - content["CameraFrame"],
        "all": everything.total(),
    }  # fmt: skip
    return {
        "frames": frames,
        "sensors": len(rig.sensors),
        "cpu_ms_per_frame": {name: round(ns / max(frames, 1) / 1e6, 3) for name, ns in parts_ns.items()},
    }


def _watch(messages: Sequence[AnyMessage], rig: SensorRig, config: HealthConfig) -> tuple[Counter[str], int]:
    """CPU nanoseconds by kind of message (and `STATE`), and the frames."""
    estimator, synchronizer = EgoMotionEstimator(rig), Synchronizer(rig, SyncConfig())
    health = SensorHealth(rig, config, lambda time_ns: estimator.motion_at(time_ns, MOTION_SPAN_NS))
    spent_ns = Counter[str]()
    frames = 0
    for index, message in enumerate(messages):
        estimator.observe(message)
        began_ns = process_time_ns()
        health.observe(message)
        spent_ns[type(message).__name__] += process_time_ns() - began_ns
        bundles = []
        if isinstance(message, CameraFrame | LidarSweep | RadarScan):
            stamp = Stamp(
                arrival_ns=message.arrival_ns, index=index, sensor=message.sensor, capture_ns=message.capture_ns
            )
            bundles = synchronizer.push(stamp)
        began_ns = process_time_ns()
        for bundle in bundles:
            health.masked(bundle)
            health.status(bundle)
        spent_ns[STATE] += process_time_ns() - began_ns
        frames += len(bundles)
    return spent_ns, frames
