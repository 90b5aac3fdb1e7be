"""Small nuScenes roots for tests, recorded from the synthetic drive."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perception.core.messages import AnyMessage
from perception.core.rig import SensorRig
from perception.recorders.nuscenes import NuScenesRecorder
from perception.sources.synthetic import SyntheticSource
from perception.sources.synthetic_rig import synthetic_rig

VERSION = "v1.0-recorded"


def small_rig() -> SensorRig:
    """One sensor of each modality."""
    full = synthetic_rig()
    return SensorRig(sensors=tuple(full[name] for name in ("CAM_FRONT", "LIDAR_TOP", "RADAR_FRONT")))


def record(source: SyntheticSource, folder: Path, keep: Callable[[AnyMessage], bool] = lambda message: True) -> Path:
    """Record the messages that `keep` wants, and the labels of every sweep among them."""
    recorder = NuScenesRecorder(folder, source.rig, source.drive_id)
    for message in filter(keep, source.messages()):
        recorder.write(message)
        if message.sensor == "LIDAR_TOP" and (labels := source.labels(message.capture_ns)) is not None:
            recorder.write(labels)
    recorder.close()
    return folder


def table(root: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((root / VERSION / f"{name}.json").read_text())
    return rows


def rewrite(root: Path, name: str, rows: object) -> None:
    (root / VERSION / f"{name}.json").write_text(json.dumps(rows))


def sensor_files(root: Path, channel: str) -> list[Path]:
    """Files of a sensor, in order of capture."""
    names = [row["filename"] for row in sorted(table(root, "sample_data"), key=lambda row: row["timestamp"])]
    return [root / name for name in names if f"/{channel}/" in name]
