"""Writes an aiMotive session of a few frames: two cameras, a lidar, a radar, boxes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import laspy
import numpy as np
from numpy.typing import ArrayLike

from perception.core.geometry import invert, se3, se3_from_yaw
from tests.unit.small_pandaset import SIZE_PX, jpeg

START_NS = 4_833_189_570_000
PERIOD_NS = 66_666_000
LIDAR_MOUNT = se3_from_yaw(np.pi / 2, (1.2, 0.0, 1.7))
RADAR_MOUNT = se3_from_yaw(np.pi, (-1.0, 0.0, 0.5))
CAMERA_MOUNT = se3([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], (1.9, 0.1, 1.2))
POINTS_BODY_M = np.array([[10.0, 1.0, 0.0], [20.0, -2.0, 0.5], [-5.0, 3.0, 1.0]])
TARGET = {"azimuth": 0.1, "elevation": -0.05, "range": 50.0, "speed": 30.0, "rcs": 10.0, "power": 1.0, "noise": 1.0}


def stamp(frame: int) -> int:
    return START_NS + frame * PERIOD_NS


def write_session(folder: Path, frames: Sequence[int] = (7, 8, 9)) -> Path:
    calibration = {
        "F_LIDAR": _entry("lidar", LIDAR_MOUNT),
        "B_RADAR": _entry("radar", RADAR_MOUNT),
        "F_CAM": _entry("camera", CAMERA_MOUNT, _camera("opencv_pinhole")),
        "F_FISH": _entry("camera", CAMERA_MOUNT, {**_camera("mei"), "xi": 1.02}),
        "novatel": {"sensor_type": "gps_ins", "pos_meter": [0, 0, 0]},
    }
    (folder / "sensor/calibration").mkdir(parents=True)
    write_calibration(folder, calibration)
    for part in ("sensor/camera/F_CAM", "sensor/camera/F_FISH", "sensor/radar/B_RADAR"):
        (folder / part).mkdir(parents=True)
    for part in ("dynamic/raw-revolutions", "dynamic/box/3d_body"):
        (folder / part).mkdir(parents=True)
    for frame in frames:
        for camera in ("F_CAM", "F_FISH"):
            (folder / f"sensor/camera/{camera}/{camera}_{frame:07d}.jpg").write_bytes(jpeg(frame))
        (folder / f"sensor/radar/B_RADAR/B_RADAR_{frame:07d}.json").write_text(
            json.dumps({"id": "?", "targets": [TARGET]})
        )
        write_laz(folder / f"dynamic/raw-revolutions/frame_{frame:07d}.laz", POINTS_BODY_M, stamp(frame))
        write_boxes(folder, frame, str(stamp(frame)))
    return folder


def write_calibration(folder: Path, calibration: dict[str, Any]) -> None:
    (folder / "sensor/calibration/calibration.json").write_text(json.dumps(calibration))


def read_calibration(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "sensor/calibration/calibration.json").read_text())
    return loaded


def write_laz(path: Path, points_body_m: ArrayLike, stamp_ns: int) -> None:
    points = np.asarray(points_body_m, dtype=np.float64)
    header = laspy.LasHeader(point_format=1, version="1.2")
    header.scales = np.full(3, 0.001)
    las = laspy.LasData(header)
    las.x, las.y, las.z = points.T
    las.intensity = np.full(len(points), 51, dtype=np.uint16)
    las.gps_time = stamp_ns + np.linspace(-68e6, 32e6, len(points))
    las.write(str(path))


def write_boxes(folder: Path, frame: int, timestamp: object, **changes: object) -> None:
    box = {
        "ObjectType": "VAN",
        "ObjectId": 3,
        "ActorName": "VAN 03",
        **{f"BoundingBox3D Origin {axis}": value for axis, value in zip("XYZ", (10.0, 1.0, 0.5), strict=True)},
        **{f"BoundingBox3D Extent {axis}": value for axis, value in zip("XYZ", (5.0, 2.0, 1.8), strict=True)},
        **{f"BoundingBox3D Orientation Quat {axis}": value for axis, value in zip("WXYZ", (1, 0, 0, 0), strict=True)},
        **{f"Relative Velocity {axis}": 1.0 for axis in "XYZ"},
        **changes,
    }
    (folder / f"dynamic/box/3d_body/frame_{frame:07d}.json").write_text(
        json.dumps({"Timestamp": timestamp, "CapturedObjects": [box]})
    )


def _entry(kind: str, mount: ArrayLike, more: dict[str, Any] | None = None) -> dict[str, Any]:
    body_SE3_sensor = np.asarray(mount, dtype=np.float64)
    return {
        "sensor_type": kind,
        "RT_body_from_sensor": body_SE3_sensor.tolist(),
        "RT_sensor_from_body": invert(body_SE3_sensor).tolist(),
        **(more or {}),
    }


def _camera(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "image_resolution_px": list(SIZE_PX),
        "focal_length_px": [40.0, 41.0],
        "principal_point_px": [31.5, 23.5],
        "distortion_coeffs": [-0.1, 0.01, 0, 0, 0],
        "transform": "none",
    }
