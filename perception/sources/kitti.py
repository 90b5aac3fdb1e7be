"""The KITTI object benchmark: left colour camera, 64-beam lidar, labels in the camera frame.

The ego frame follows the vehicle's drawing (cvlibs.net/datasets/kitti/setup.php): the velodyne sits 1.73 m above the
ground and 0.76 m ahead of the rear axle, level and facing forward. Frames are single shots of different drives, with no
times: they are taken to be 0.1 s apart. Each has its own calibration; a rig has only one, that of the first frame.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import LatencyConfig
from perception.core.cameras import CameraModel
from perception.core.errors import DriveError, PayloadError
from perception.core.geometry import invert, rotation_log, rotation_to_quaternion, se3, transform_points
from perception.core.labels import UNKNOWN_COUNT, Labels
from perception.core.messages import AnyMessage, CameraFrame, Unreadable
from perception.core.rig import Modality, Sensor, SensorRig
from perception.core.taxonomy import ATTRIBUTE_INDEX, CLASS_INDEX, NO_ATTRIBUTE, NO_CLASS
from perception.sources.arrival import Pending
from perception.sources.folder_drive import FolderDrive
from perception.sources.image_files import read_image
from perception.sources.kitti_files import Calibration, LabelRow, load_sweep, read_calibration, read_label_rows
from perception.sources.payloads import choose_scene, image_size, load_camera_frame, numbered_files

F64 = NDArray[np.float64]

CAMERA, LIDAR = "image_2", "velodyne"
PERIOD_NS = 100_000_000
EGO_SE3_VELODYNE: F64 = se3(translation=(0.76, 0.0, 1.73))

CATEGORIES = {
    "Car": "car",
    "Van": "car",
    "Truck": "truck",
    "Pedestrian": "pedestrian",
    "Person_sitting": "pedestrian",
    "Cyclist": "bicycle",
}
"""Tram and Misc are outside the ten classes."""
_ATTRIBUTES = {"Person_sitting": "pedestrian.sitting_lying_down", "Cyclist": "cycle.with_rider"}
_IMAGE, _SWEEP = r"(\d{6})\.png", r"(\d{6})\.bin"
_SPLITS = ("training", "testing")


class KittiSource(FolderDrive):
    """One split of the object benchmark as a drive of nominal 10 Hz.

    root: the folder that holds `training` or `testing`, or one of those. scene: which of the two, default `training`.
    Raises DriveError where no frame has a calibration and an image that can be read.
    """

    DATA_SET = "kitti"

    def __init__(self, root: Path | str, *, scene: str | None = None, latency: LatencyConfig | None = None) -> None:
        self._folder, scene_notes = _split_folder(Path(root), scene)
        self._latency = latency or LatencyConfig()
        self._frames = _frame_numbers(self._folder)
        if not self._frames:
            raise DriveError(f"{self._folder}: no velodyne/NNNNNN.bin and no image_2/NNNNNN.png")
        self._calibrations: dict[int, Calibration | PayloadError] = {k: self._read_calibration(k) for k in self._frames}
        first, camera, mount = self._first_camera()
        self._rig = _build_rig(camera, mount, has_lidar=bool(numbered_files(self._folder / LIDAR, _SWEEP)))
        self._pending = tuple(self._all_pending())
        self._notes = (*scene_notes, *_notes(first, mount, self._calibrations))

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        """Times of the frames that have a label file, rising."""
        return tuple(i * PERIOD_NS for i, k in enumerate(self._frames) if self._path("label_2", k, "txt").is_file())

    def labels(self, reference_ns: int) -> Labels | None:
        """Objects of the frame at `reference_ns`, placed with its own calibration; velocities are nan.

        Raises PayloadError where the labels or the calibration of that frame are broken.
        """
        index, rest = divmod(reference_ns, PERIOD_NS)
        if rest or not 0 <= index < len(self._frames):
            return None
        k = self._frames[index]
        path = self._path("label_2", k, "txt")
        if not path.is_file():
            return None
        calibration = self._calibrations[k]
        if isinstance(calibration, PayloadError):
            raise calibration
        ego_SE3_rectified = EGO_SE3_VELODYNE @ invert(calibration.rectified_SE3_velodyne)
        return _labels(read_label_rows(path), reference_ns, f"{k:06d}", ego_SE3_rectified)

    def _path(self, folder: str, k: int, suffix: str) -> Path:
        return self._folder / folder / f"{k:06d}.{suffix}"

    def _read_calibration(self, k: int) -> Calibration | PayloadError:
        try:
            return read_calibration(self._path("calib", k, "txt"))
        except PayloadError as error:
            return error

    def _first_camera(self) -> tuple[int, CameraModel, F64]:
        """The first frame that can tell what the camera is: its number, the camera, ego_SE3_camera."""
        reason = "no image"
        for k in self._frames:
            calibration = self._calibrations[k]
            try:
                if isinstance(calibration, PayloadError):
                    raise calibration
                camera = _camera(calibration, self._path(CAMERA, k, "png"))
                return k, camera, _mount(calibration)
            except PayloadError as error:
                reason = str(error)
        raise DriveError(f"{self._folder}: no frame has a calibration and an image that can be read ({reason})")

    def _all_pending(self) -> Iterator[Pending]:
        lidar_ns, camera_ns = round(self._latency.lidar_ms * 1e6), round(self._latency.camera_ms * 1e6)
        for index, k in enumerate(self._frames):
            time_ns = index * PERIOD_NS
            if (path := self._path(LIDAR, k, "bin")).is_file():
                load = partial(load_sweep, LIDAR, path, time_ns, time_ns + lidar_ns)
                yield Pending(earliest_ns=time_ns + lidar_ns, latest_ns=time_ns + lidar_ns, load=load)
            if self._path(CAMERA, k, "png").is_file():
                load = partial(self._load_image, k, time_ns, time_ns + camera_ns)
                yield Pending(earliest_ns=time_ns + camera_ns, latest_ns=time_ns + camera_ns, load=load)

    def _load_image(self, k: int, capture_ns: int, arrival_ns: int) -> list[AnyMessage]:
        calibration, path = self._calibrations[k], self._path(CAMERA, k, "png")
        try:
            if isinstance(calibration, PayloadError):
                raise calibration
            own = _camera(calibration, path)
        except PayloadError as error:
            return [Unreadable(sensor=CAMERA, capture_ns=capture_ns, arrival_ns=arrival_ns, error=str(error))]
        sensor = self._rig[CAMERA]
        differs = sensor.camera is None or not _is_same(sensor.camera, own)
        frame = load_camera_frame(sensor, path, capture_ns, arrival_ns, own if differs else None)
        mount = _mount(calibration)
        if isinstance(frame, CameraFrame) and not np.allclose(mount, sensor.ego_SE3_sensor, atol=1e-9):
            return [replace(frame, ego_SE3_sensor=mount)]
        return [frame]


def _is_split(folder: Path) -> bool:
    return (folder / "calib").is_dir() and ((folder / CAMERA).is_dir() or (folder / LIDAR).is_dir())


def _split_folder(root: Path, scene: str | None) -> tuple[Path, tuple[str, ...]]:
    if _is_split(root) and scene in (None, root.name):
        return root, ()
    splits = {name: root / name for name in _SPLITS if _is_split(root / name)}
    chosen = "training" if scene is None and "training" in splits else scene
    return choose_scene(root, splits, chosen, "KITTI object split (training or testing with calib, image_2, velodyne)")


def _frame_numbers(folder: Path) -> list[int]:
    images, sweeps = numbered_files(folder / CAMERA, _IMAGE), numbered_files(folder / LIDAR, _SWEEP)
    return sorted({*images, *sweeps})


def _mount(calibration: Calibration) -> F64:
    return EGO_SE3_VELODYNE @ invert(calibration.camera_SE3_velodyne)


def _camera(calibration: Calibration, image: Path) -> CameraModel:
    """The camera of one frame. Raises PayloadError where its image tells no size: the calibration has none."""
    width, height = image_size(image, read_image(image))
    return CameraModel(width_px=width, height_px=height, intrinsic=calibration.intrinsic)


def _is_same(a: CameraModel, b: CameraModel) -> bool:
    return (a.width_px, a.height_px) == (b.width_px, b.height_px) and np.array_equal(a.intrinsic, b.intrinsic)


def _build_rig(camera: CameraModel, mount: F64, *, has_lidar: bool) -> SensorRig:
    hz = 1e9 / PERIOD_NS
    lidar = Sensor(name=LIDAR, modality=Modality.LIDAR, ego_SE3_sensor=EGO_SE3_VELODYNE, frequency_hz=hz)
    image = Sensor(name=CAMERA, modality=Modality.CAMERA, ego_SE3_sensor=mount, frequency_hz=hz, camera=camera)
    return SensorRig(sensors=(lidar, image) if has_lidar else (image,))


def _notes(first: int, mount: F64, calibrations: dict[int, Calibration | PayloadError]) -> list[str]:
    notes = [
        "frames have no times: they are taken to be 0.1 s apart, in the order of their numbers",
        "frames are single shots of different drives: no ego poses, no velocities, no tracks",
        "the ego frame follows the drawing of the vehicle: lidar 1.73 m above ground, 0.76 m ahead of the rear axle",
    ]
    mounts = np.array([_mount(c) for c in calibrations.values() if isinstance(c, Calibration)])
    turned = np.linalg.norm(rotation_log(mount[:3, :3].T @ mounts[:, :3, :3]), axis=1)
    shifted = np.linalg.norm(mounts[:, :3, 3] - mount[:3, 3], axis=1)
    if np.any(turned > 1e-4) or np.any(shifted > 1e-3):
        notes.append(
            f"the rig shows the camera's mount of frame {first:06d}; frames carry their own, which differ by up to "
            f"{np.degrees(turned.max()):.2f} degrees and {shifted.max():.3f} m"
        )
    if broken := [k for k, c in calibrations.items() if isinstance(c, PayloadError)]:
        notes.append(f"{len(broken)} frames have no readable calibration, the first is {broken[0]:06d}")
    return notes


def _labels(rows: list[LabelRow], reference_ns: int, frame: str, ego_SE3_rectified: F64) -> Labels:
    k = len(rows)
    centers = np.array([(x, y - row.height / 2, z) for row in rows for x, y, z in [row.bottom]]).reshape(k, 3)
    rotations = [ego_SE3_rectified[:3, :3] @ _rectified_R_box(row.rotation_y) for row in rows]
    return Labels(
        reference_ns=reference_ns,
        category=tuple(row.category for row in rows),
        class_index=np.array([_class_index(row.category) for row in rows], dtype=np.int64),
        center_m=transform_points(ego_SE3_rectified, centers),
        size_m=np.array([(row.length, row.width, row.height) for row in rows]).reshape(k, 3),
        quaternion_wxyz=np.array([rotation_to_quaternion(rotation) for rotation in rotations]).reshape(k, 4),
        velocity_mps=np.full((k, 2), np.nan),
        attribute_index=np.array([_attribute_index(row.category) for row in rows], dtype=np.int64),
        track_id=tuple(f"{frame}-{index}" for index in range(k)),
        num_lidar_points=np.full(k, UNKNOWN_COUNT, dtype=np.int64),
        num_radar_points=np.full(k, UNKNOWN_COUNT, dtype=np.int64),
    )


def _rectified_R_box(rotation_y: float) -> F64:
    """Axes of a box (x ahead, y left, z up) in the camera frame: heading 0 is along +x, turning about y (down)."""
    cos, sin = np.cos(rotation_y), np.sin(rotation_y)
    return np.array([[cos, sin, 0.0], [0.0, 0.0, -1.0], [-sin, cos, 0.0]])


def _class_index(category: str) -> int:
    return CLASS_INDEX[CATEGORIES[category]] if category in CATEGORIES else NO_CLASS


def _attribute_index(category: str) -> int:
    return ATTRIBUTE_INDEX[_ATTRIBUTES[category]] if category in _ATTRIBUTES else NO_ATTRIBUTE
