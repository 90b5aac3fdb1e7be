"""A format of one's own, to copy from: images, points as NumPy files and poses, each file named by its time.

    DRIVE/rig.yaml                 the sensors, where they sit and what the cameras see
    DRIVE/CAM_FRONT/1700000000050000000.jpg
    DRIVE/LIDAR_TOP/1700000000000000000.npy    (N, 4) float32: x, y, z in the lidar's frame, intensity 0 to 1
    DRIVE/poses.csv                time_ns,x,y,z,qw,qx,qy,qz: the ego in a world of your choice

File names are nanoseconds of capture. The ego frame: x ahead, y left, z up, on the road under the rear axle.
"""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from perception.core.cameras import CameraModel
from perception.core.errors import DriveError, PayloadError
from perception.core.geometry import se3_from_quaternion
from perception.core.labels import Labels
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, SweepMotion, Unreadable
from perception.core.rig import Modality, Sensor, SensorRig
from perception.sources.arrival import Pending
from perception.sources.folder_drive import FolderDrive
from perception.sources.image_files import read_image
from perception.sources.open import OpenOptions

SUFFIX = {Modality.CAMERA: "*.jpg", Modality.LIDAR: "*.npy"}


def detect(path: str) -> bool:
    """Quick, and never an error: every format is asked about every drive."""
    return Path(path, "rig.yaml").is_file() and Path(path, "poses.csv").is_file()


def open(path: str, options: OpenOptions) -> "PlainFolder":  # noqa: A001 - the name that the service looks for
    return PlainFolder(Path(path), options)


class PlainFolder(FolderDrive):
    """One drive. Raises DriveError where the rig or the poses are broken, or no sensor has a file."""

    DATA_SET = "plain"

    def __init__(self, folder: Path, options: OpenOptions) -> None:
        self._folder = folder
        self._rig = _read_rig(folder / "rig.yaml")
        self._notes = ("arrival times are assumed: capture plus the configured latency",)
        self._latency_ns = {
            Modality.CAMERA: round(options.latency.camera_ms * 1e6),
            Modality.LIDAR: round(options.latency.lidar_ms * 1e6),
        }
        self._ego_latency_ns = round(options.latency.ego_ms * 1e6)
        self._pending = tuple(self._find())

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        return ()

    def labels(self, reference_ns: int) -> Labels | None:
        return None

    def _find(self) -> Iterator[Pending]:
        """Everything there is, unread: payloads are loaded one by one when their time comes."""
        found = 0
        for sensor in self._rig.sensors:
            for path in sorted((self._folder / sensor.name).glob(SUFFIX[sensor.modality])):
                capture_ns, found = _stamp(path), found + 1
                arrival_ns = capture_ns + self._latency_ns[sensor.modality]
                load = partial(_load, sensor, path, capture_ns, arrival_ns)
                yield Pending(earliest_ns=arrival_ns, latest_ns=arrival_ns, load=load)
        if not found:
            raise DriveError(f"{self._folder}: no file for any of {', '.join(s.name for s in self._rig.sensors)}")
        for time_ns, pose in _read_poses(self._folder / "poses.csv"):
            arrival_ns = time_ns + self._ego_latency_ns
            state = EgoState(capture_ns=time_ns, arrival_ns=arrival_ns, world_SE3_ego=pose)
            yield Pending(earliest_ns=arrival_ns, latest_ns=arrival_ns, load=partial(list, [state]))


def _load(sensor: Sensor, path: Path, capture_ns: int, arrival_ns: int) -> list[AnyMessage]:
    """One message. What cannot be read is data, too: it is reported, and the sensor is missing in that frame."""
    name = sensor.name
    try:
        if sensor.modality is Modality.CAMERA:
            return [CameraFrame(sensor=name, capture_ns=capture_ns, arrival_ns=arrival_ns, data=read_image(path))]
        points = _read_points(path)
    except PayloadError as error:
        return [Unreadable(sensor=name, capture_ns=capture_ns, arrival_ns=arrival_ns, error=str(error))]
    sweep = LidarSweep(
        sensor=name, capture_ns=capture_ns, arrival_ns=arrival_ns, motion=SweepMotion.COMPENSATED,
        points_m=points[:, :3].copy(), intensity=points[:, 3].clip(0, 1),
    )  # fmt: skip
    return [sweep]


def _read_points(path: Path) -> NDArray[np.float32]:
    try:
        points = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PayloadError(f"{path}: {error}") from error
    if points.ndim != 2 or points.shape[1] != 4:
        raise PayloadError(f"{path}: points must be (N, 4), got {points.shape}")
    finite: NDArray[np.float32] = points[np.isfinite(points).all(axis=1)].astype(np.float32)
    return finite


def _read_rig(path: Path) -> SensorRig:
    try:
        sensors = yaml.safe_load(path.read_text())["sensors"]
        return SensorRig(sensors=tuple(_sensor(name, fields) for name, fields in sensors.items()))
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DriveError(
            f"{path}: {type(error).__name__}: {error}; see the example in docs/your-own-drive.md"
        ) from error


def _sensor(name: str, fields: dict[str, Any]) -> Sensor:
    camera = None
    modality = Modality(fields["kind"])
    if modality not in SUFFIX:
        raise ValueError(f"{name}: kind must be one of {', '.join(SUFFIX)}, got {modality}")
    if modality is Modality.CAMERA:
        (width, height), (fx, fy), (cx, cy) = fields["size_px"], fields["focal_px"], fields["center_px"]
        intrinsic = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
        camera = CameraModel(width_px=width, height_px=height, intrinsic=intrinsic)
    mount = se3_from_quaternion(fields["quaternion_wxyz"], fields["translation_m"])
    return Sensor(
        name=name, modality=modality, ego_SE3_sensor=mount, frequency_hz=float(fields["frequency_hz"]), camera=camera
    )


def _read_poses(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                translation = [float(row[name]) for name in ("x", "y", "z")]
                quaternion = [float(row[name]) for name in ("qw", "qx", "qy", "qz")]
                yield int(row["time_ns"]), se3_from_quaternion(quaternion, translation)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DriveError(f"{path}: {error}; columns are time_ns,x,y,z,qw,qx,qy,qz") from error


def _stamp(path: Path) -> int:
    if not path.stem.isdecimal():
        raise DriveError(f"{path}: the name must be a time in nanoseconds")
    return int(path.stem)
