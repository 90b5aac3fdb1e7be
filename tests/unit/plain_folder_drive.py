"""A drive in the format of docs/source_plugin, written from a computed one."""

import csv
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import cv2
import numpy as np
import yaml

from perception.config.schema import LatencyConfig
from perception.core.geometry import rotation_to_quaternion
from perception.core.messages import CameraFrame, EgoState, LidarSweep
from perception.core.ports import Source
from perception.core.rig import Modality, Sensor
from perception.sources.open import OpenOptions
from perception.sources.synthetic import SyntheticSource
from tests.conftest import PROJECT_ROOT


def write_plain_folder(folder: Path, *, seed: int = 3, duration_s: float = 0.5) -> Path:
    """The cameras, the lidar and the poses of a computed drive."""
    made = SyntheticSource(seed=seed, duration_s=duration_s)
    sensors = [sensor for sensor in made.rig.sensors if sensor.modality is not Modality.RADAR]
    for sensor in sensors:
        (folder / sensor.name).mkdir(parents=True)
    (folder / "rig.yaml").write_text(
        yaml.safe_dump({"sensors": {sensor.name: _describe(sensor) for sensor in sensors}})
    )
    with (folder / "poses.csv").open("w", newline="") as file:
        poses = csv.writer(file)
        poses.writerow(["time_ns", "x", "y", "z", "qw", "qx", "qy", "qz"])
        for message in made.messages():
            path = folder / message.sensor / str(message.capture_ns)
            if isinstance(message, CameraFrame):
                pixels = cv2.imdecode(np.frombuffer(message.data, dtype=np.uint8), cv2.IMREAD_COLOR)
                assert pixels is not None
                cv2.imwrite(f"{path}.jpg", pixels)
            elif isinstance(message, LidarSweep):
                np.save(f"{path}.npy", np.column_stack([message.points_m, message.intensity]))
            elif isinstance(message, EgoState) and message.world_SE3_ego is not None:
                pose = message.world_SE3_ego
                poses.writerow([message.capture_ns, *pose[:3, 3], *rotation_to_quaternion(pose[:3, :3])])
    return folder


def _describe(sensor: Sensor) -> dict[str, object]:
    fields: dict[str, object] = {
        "kind": str(sensor.modality),
        "frequency_hz": sensor.frequency_hz,
        "translation_m": sensor.ego_SE3_sensor[:3, 3].tolist(),
        "quaternion_wxyz": rotation_to_quaternion(sensor.ego_SE3_sensor[:3, :3]).tolist(),
    }
    if (camera := sensor.camera) is not None:
        k = camera.intrinsic.tolist()
        fields |= {
            "size_px": [camera.width_px, camera.height_px],
            "focal_px": [k[0][0], k[1][1]],
            "center_px": [k[0][2], k[1][2]],
        }
    return fields


def open_plain_folder(folder: Path) -> Source:
    """The drive as the plug-in of the docs reads it."""
    spec = spec_from_file_location("plain_folder", PROJECT_ROOT / "docs" / "source_plugin" / "plain_folder.py")
    assert spec is not None
    assert spec.loader is not None
    plugin = module_from_spec(spec)
    spec.loader.exec_module(plugin)
    source: Source = plugin.open(str(folder), OpenOptions(latency=LatencyConfig(), scene=None))
    return source
