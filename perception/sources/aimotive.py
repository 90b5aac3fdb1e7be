"""aiMotive multimodal sessions: cameras (pinhole, Mei fisheye), one lidar, Doppler radars, boxes with track ids.

What the numbers mean, where the format does not say (measured on a motorway session):
- The body frame is the ego frame: x forward, y left, z up; the road lies at -0.04 m under the front and -0.02 m behind,
  the bumper radars 3.8 m ahead and 1.1 m behind, as of a rear axle on the ground.
- Lidar points are given in the body frame and are raw: back in the lidar's frame they lie on its beams only if they are
  not moved by any share of the ego motion. `gps_time` is in nanoseconds on the clock of the stamps, -68..+32 ms.
- Radar elevation counts downwards (79 instead of 12 of 120 boxes are hit), azimuth to the left; `rcs` is in square
  metres (received power rises by 0.96 dB a dB of it); `speed` is raw.
- `Relative Velocity` is the rate of change of a box's position in the moving body frame, so not over ground.
- Stamps come with the boxes alone; cameras and radars have none of their own and take their frame's.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.config.schema import LatencyConfig
from perception.core.errors import DriveError, PayloadError
from perception.core.geometry import quaternion_to_rotation, rotation_to_quaternion
from perception.core.labels import UNKNOWN_COUNT, Labels
from perception.core.messages import AnyMessage, Unreadable
from perception.core.rig import Modality, Sensor, SensorRig
from perception.core.taxonomy import CLASS_INDEX, NO_ATTRIBUTE, NO_CLASS
from perception.sources.aimotive_files import read_scan, read_sensors, read_sweep
from perception.sources.arrival import Pending
from perception.sources.folder_drive import FolderDrive
from perception.sources.payloads import MAX_POINT_OFFSET_NS, choose_scene, load_camera_frame, numbered_files, read_json

NOMINAL_HZ = 15.0

CATEGORIES = {
    "CAR": "car",
    "Size_vehicle_m": "car",
    "VAN": "car",
    "PICKUP": "truck",
    "TRUCK": "truck",
    "TRUCK/BUS": "truck",
    "Size_vehicle_xl": "truck",
    "BUS": "bus",
    "MOTORCYCLE": "motorcycle",
    "BICYCLE": "bicycle",
    "BIKE": "bicycle",
    "PEDESTRIAN": "pedestrian",
}
"""The others (trains, riders, baby carriages, ...) are outside the ten classes. nuScenes counts vans as cars."""

_BOXES = Path("dynamic") / "box" / "3d_body"
_SWEEPS = Path("dynamic") / "raw-revolutions"
_CALIBRATION = Path("sensor") / "calibration"

_FIELDS = {
    "category": "ObjectType",
    "track": "ObjectId",
    "length": "BoundingBox3D Extent X",
    "width": "BoundingBox3D Extent Y",
    "height": "BoundingBox3D Extent Z",
    **{axis: f"BoundingBox3D Origin {axis.upper()}" for axis in "xyz"},
    **{f"q{axis}": f"BoundingBox3D Orientation Quat {axis.upper()}" for axis in "wxyz"},
}


class Box(msgspec.Struct, frozen=True, rename=_FIELDS):
    category: str
    track: int
    x: float
    y: float
    z: float
    length: float
    width: float
    height: float
    qw: float
    qx: float
    qy: float
    qz: float


class FrameStamp(msgspec.Struct, frozen=True):
    Timestamp: str


class FrameBoxes(msgspec.Struct, frozen=True):
    CapturedObjects: list[Box]


class AiMotiveSource(FolderDrive):
    """One session.

    root: its folder, or one that holds session folders. scene: the name of one of those, default the first.
    Raises DriveError where the calibration is broken or no frame has a time.
    """

    DATA_SET = "aimotive"

    def __init__(self, root: Path | str, *, scene: str | None = None, latency: LatencyConfig | None = None) -> None:
        self._folder, scene_notes = _session_folder(Path(root), scene)
        self._latency = latency or LatencyConfig()
        self._times_ns, self._is_timed = _frame_times(self._folder)
        periods = np.diff(sorted(self._times_ns.values()))
        frequency_hz = float(1e9 / np.median(periods)) if len(periods) else NOMINAL_HZ
        self._rig = SensorRig(sensors=_sensors_with_files(self._folder, frequency_hz))
        self._frame_of = {time_ns: frame for frame, time_ns in self._times_ns.items()}
        self._pending = tuple(self._all_pending())
        if not self._pending:
            raise DriveError(f"{self._folder}: no sensor file for any of the {len(self._times_ns)} frames")
        self._notes = (*scene_notes, *self._build_notes())

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        """Reference times that have a readable file of boxes, rising."""
        return tuple(sorted(self._times_ns[frame] for frame in self._is_timed))

    def labels(self, reference_ns: int) -> Labels | None:
        """Boxes of the frame stamped `reference_ns`; velocities are nan. Raises PayloadError where they are broken."""
        frame = self._frame_of.get(reference_ns)
        if frame not in self._is_timed:
            return None
        path = _box_path(self._folder, frame)
        return _labels(path, read_json(path, FrameBoxes, PayloadError).CapturedObjects, reference_ns)

    def _all_pending(self) -> Iterator[Pending]:
        delays = {
            Modality.CAMERA: round(self._latency.camera_ms * 1e6),
            Modality.LIDAR: round(self._latency.lidar_ms * 1e6),
            Modality.RADAR: round(self._latency.radar_ms * 1e6),
        }
        for frame, time_ns in self._times_ns.items():
            for sensor in self._rig.sensors:
                path = _sensor_path(self._folder, sensor, frame)
                if path.is_file():
                    arrival_ns = time_ns + delays[sensor.modality]
                    yield Pending(
                        earliest_ns=arrival_ns,
                        latest_ns=arrival_ns + (MAX_POINT_OFFSET_NS if sensor.modality is Modality.LIDAR else 0),
                        load=partial(_load, sensor, path, time_ns, arrival_ns),
                    )

    def _build_notes(self) -> list[str]:
        notes = [
            "no ego poses: the ego motion must be estimated",
            "cameras and radars have no times of their own: they take the time of their frame",
            "arrival times are assumed: capture (or the last lidar point) plus the configured latency",
            "labelled velocities are relative to the ego, so velocities over ground are not known",
        ]
        if untimed := len(self._times_ns) - len(self._is_timed):
            notes.append(f"{untimed} frames without readable boxes: their times are interpolated, they have no labels")
        return notes


def _is_session(folder: Path) -> bool:
    return (folder / _CALIBRATION).is_dir() or (folder / _SWEEPS).is_dir()


def _session_folder(root: Path, scene: str | None) -> tuple[Path, tuple[str, ...]]:
    if _is_session(root) and scene in (None, root.name):
        return root, ()
    scenes = {child.name: child for child in root.iterdir() if _is_session(child)} if root.is_dir() else {}
    return choose_scene(root, scenes, scene, "aiMotive session (a folder with sensor/calibration and dynamic/)")


def _box_path(folder: Path, frame: int) -> Path:
    return folder / _BOXES / f"frame_{frame:07d}.json"


def _sensor_path(folder: Path, sensor: Sensor, frame: int) -> Path:
    if sensor.modality is Modality.LIDAR:
        return folder / _SWEEPS / f"frame_{frame:07d}.laz"
    suffix = "jpg" if sensor.modality is Modality.CAMERA else "json"
    return folder / "sensor" / sensor.modality / sensor.name / f"{sensor.name}_{frame:07d}.{suffix}"


def _frame_times(folder: Path) -> tuple[dict[int, int], frozenset[int]]:
    """Times of all frames, rising, and which of them have boxes. A time that is missing lies on the line between."""
    stamps: dict[int, int] = {}
    errors = []
    for frame, path in numbered_files(folder / _BOXES, r"frame_(\d{7})\.json").items():
        try:
            stamps[frame] = _stamp(path)
        except PayloadError as error:
            errors.append(str(error))
    if not stamps:
        reason = errors[0] if errors else f"no frame_N.json in {folder / _BOXES}"
        raise DriveError(f"{folder}: no frame has a time: {reason}")
    known, times = np.array(list(stamps)), np.array(list(stamps.values()))
    if np.any(np.diff(times) <= 0):
        worst = int(np.argmin(np.diff(times)))
        raise DriveError(f"{folder / _BOXES}: time does not rise from frame {known[worst]} to {known[worst + 1]}")
    frames = sorted(set(stamps) | set(numbered_files(folder / _SWEEPS, r"frame_(\d{7})\.laz")))
    return {frame: stamps.get(frame, _on_line(frame, known, times)) for frame in frames}, frozenset(stamps)


def _stamp(path: Path) -> int:
    text = read_json(path, FrameStamp, PayloadError).Timestamp
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise PayloadError(f"{path}: Timestamp {text!r} is not a number of nanoseconds")
    return int(text)


def _on_line(frame: int, known: NDArray[np.int64], times_ns: NDArray[np.int64]) -> int:
    """The time of `frame` on the line through the two known frames nearest to it."""
    if len(known) < 2:
        return int(times_ns[0]) + round((frame - int(known[0])) * 1e9 / NOMINAL_HZ)
    i = int(np.clip(np.searchsorted(known, frame) - 1, 0, len(known) - 2))
    step_ns = (times_ns[i + 1] - times_ns[i]) / (known[i + 1] - known[i])
    return int(times_ns[i]) + round((frame - int(known[i])) * float(step_ns))


def _sensors_with_files(folder: Path, frequency_hz: float) -> tuple[Sensor, ...]:
    """The calibrated sensors of which there is data. Raises DriveError where several lidars share the one folder."""
    sensors = read_sensors(folder / _CALIBRATION, frequency_hz)
    with_files = tuple(s for s in sensors if _sensor_path(folder, s, 0).parent.is_dir())
    if not with_files:
        raise DriveError(f"{folder}: none of the {len(sensors)} calibrated sensors has a folder with data")
    if sum(sensor.modality is Modality.LIDAR for sensor in with_files) > 1:
        raise DriveError(f"{folder / _CALIBRATION}/calibration.json: more than one lidar; {_SWEEPS} holds one")
    return with_files


def _load(sensor: Sensor, path: Path, capture_ns: int, arrival_ns: int) -> list[AnyMessage]:
    try:
        if sensor.modality is Modality.LIDAR:
            return [read_sweep(path, sensor, capture_ns, arrival_ns - capture_ns)]
        if sensor.modality is Modality.RADAR:
            return [read_scan(path, sensor, capture_ns, arrival_ns)]
    except PayloadError as error:
        return [Unreadable(sensor=sensor.name, capture_ns=capture_ns, arrival_ns=arrival_ns, error=str(error))]
    return [load_camera_frame(sensor, path, capture_ns, arrival_ns)]


def _labels(path: Path, boxes: list[Box], reference_ns: int) -> Labels:
    k = len(boxes)
    sizes = np.array([(box.length, box.width, box.height) for box in boxes]).reshape(k, 3)
    quaternions = np.array([(box.qw, box.qx, box.qy, box.qz) for box in boxes]).reshape(k, 4)
    if np.any(sizes <= 0) or np.any(np.linalg.norm(quaternions, axis=1) < 0.5):
        raise PayloadError(f"{path}: a box has no positive extent or no orientation")
    rotations = quaternion_to_rotation(quaternions)
    return Labels(
        reference_ns=reference_ns,
        category=tuple(box.category for box in boxes),
        class_index=np.array([_class_index(box.category) for box in boxes], dtype=np.int64),
        center_m=np.array([(box.x, box.y, box.z) for box in boxes]).reshape(k, 3),
        size_m=sizes,
        quaternion_wxyz=np.array([rotation_to_quaternion(rotation) for rotation in rotations]).reshape(k, 4),
        velocity_mps=np.full((k, 2), np.nan),
        attribute_index=np.full(k, NO_ATTRIBUTE, dtype=np.int64),
        track_id=tuple(str(box.track) for box in boxes),
        num_lidar_points=np.full(k, UNKNOWN_COUNT, dtype=np.int64),
        num_radar_points=np.full(k, UNKNOWN_COUNT, dtype=np.int64),
    )


def _class_index(category: str) -> int:
    return CLASS_INDEX[CATEGORIES[category]] if category in CATEGORIES else NO_CLASS
