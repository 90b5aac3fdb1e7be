"""KITTI raw drives (synced and rectified) as a stream: four cameras, 64-beam lidar, inertial poses, tracklets.

The ego frame is that of the object benchmark (`kitti.py`): velodyne 1.73 m above the ground, 0.76 m ahead of the rear
axle. A sweep is stamped when the lidar looks ahead and triggers the cameras; it arrives after its end. Points are raw
and have no times of their own. The world is east, north, up, with its origin at the first pose.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from perception.config.schema import LatencyConfig
from perception.core.errors import DriveError, PayloadError
from perception.core.geometry import invert
from perception.core.labels import Labels
from perception.core.messages import EGO_SENSOR, AnyMessage, EgoState, Unreadable
from perception.core.rig import Modality, Sensor, SensorRig
from perception.sources.arrival import Pending
from perception.sources.folder_drive import FolderDrive
from perception.sources.kitti import EGO_SE3_VELODYNE
from perception.sources.kitti_files import load_sweep
from perception.sources.kitti_raw_files import (
    F64,
    OxtsRow,
    read_cameras,
    read_oxts,
    read_timestamps,
    read_transform,
    world_SE3_imu,
)
from perception.sources.kitti_raw_tracklets import Tracklet, read_tracklets, tracklet_labels
from perception.sources.payloads import choose_scene, load_camera_frame, numbered_files

LIDAR = "velodyne_points"
CAMERAS = ("image_00", "image_01", "image_02", "image_03")
TRACKLETS = "tracklet_labels.xml"
NOMINAL_HZ = 10.0

_IMAGE, _SWEEP, _OXTS = r"(\d{10})\.(?:png|jpg)", r"(\d{10})\.bin", r"(\d{10})\.txt"


class KittiRawSource(FolderDrive):
    """One drive.

    root: its folder (`..._sync`), that of its day, or one that holds days. scene: the name of a drive, default the
    first. Raises DriveError where calibration or time stamps are missing or broken.
    """

    DATA_SET = "kitti_raw"

    def __init__(self, root: Path | str, *, scene: str | None = None, latency: LatencyConfig | None = None) -> None:
        self._folder, scene_notes = _drive_folder(Path(root), scene)
        self._latency = latency or LatencyConfig()
        self._sweeps = self._stamped(LIDAR, _SWEEP)
        self._images = {name: found for name in CAMERAS if (found := self._stamped(name, _IMAGE))}
        self._oxts = self._stamped("oxts", _OXTS)
        if not self._sweeps and not self._images:
            raise DriveError(f"{self._folder}: no {LIDAR}/data/*.bin and no image_0N/data/*.png; is it a synced drive?")
        self._calibration = _calibration_folder(self._folder)
        self._ego_SE3_imu: F64 | None = None
        if self._oxts:
            self._ego_SE3_imu = EGO_SE3_VELODYNE @ read_transform(self._calibration / "calib_imu_to_velo.txt")
        self._first = self._first_oxts()
        self._rig = self._build_rig()
        self._frame_of = {time_ns: frame for frame, (time_ns, _) in self._sweeps.items()}
        self._tracklets: list[Tracklet] | None = None
        self._pending = tuple(self._all_pending())
        self._notes = (*scene_notes, *self._build_notes())

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        """Times of all sweeps where the drive has tracklets, rising."""
        return tuple(sorted(self._frame_of)) if (self._folder / TRACKLETS).is_file() else ()

    def labels(self, reference_ns: int) -> Labels | None:
        """Objects in the sweep stamped `reference_ns`. Raises PayloadError where the tracklets are broken."""
        frame = self._frame_of.get(reference_ns)
        if frame is None or not (self._folder / TRACKLETS).is_file():
            return None
        if self._tracklets is None:
            self._tracklets = read_tracklets(self._folder / TRACKLETS)
        around = [(k, self._sweeps[k][0], self._pose(k)) for k in (frame - 1, frame, frame + 1) if k in self._sweeps]
        return tracklet_labels(self._tracklets, frame, reference_ns, around, EGO_SE3_VELODYNE)

    def _stamped(self, part: str, pattern: str) -> dict[int, tuple[int, Path]]:
        """Time and file by frame of one sensor; frames are missing in some drives, their stamps are not."""
        files = numbered_files(self._folder / part / "data", pattern)
        if not files:
            return {}
        times = read_timestamps(self._folder / part / "timestamps.txt")
        if max(files) >= len(times):
            raise DriveError(
                f"{self._folder / part}/timestamps.txt: {len(times)} times, but there is a file of frame {max(files)}"
            )
        for before, after in pairwise(files):
            if times[after] <= times[before]:
                raise DriveError(
                    f"{self._folder / part}/timestamps.txt: time does not rise from frame {before} to {after}"
                )
        return {frame: (times[frame], path) for frame, path in files.items()}

    def _first_oxts(self) -> OxtsRow | None:
        """The first readable measurement, the origin of the world."""
        for _, path in self._oxts.values():
            try:
                return read_oxts(path)
            except PayloadError:
                continue  # replaying it reports the file as unreadable
        return None

    def _pose(self, frame: int) -> F64 | None:
        """world_SE3_ego of a frame, None where it is not known."""
        if frame not in self._oxts or self._first is None or self._ego_SE3_imu is None:
            return None
        try:
            row = read_oxts(self._oxts[frame][1])
        except PayloadError:
            return None  # replaying it reports the file as unreadable
        return world_SE3_imu(row, self._first) @ invert(self._ego_SE3_imu)

    def _all_pending(self) -> Iterator[Pending]:
        lidar_ns, camera_ns, ego_ns = (
            round(ms * 1e6) for ms in (self._latency.lidar_ms, self._latency.camera_ms, self._latency.ego_ms)
        )
        for time_ns, path in self._oxts.values():
            yield _at(time_ns + ego_ns, partial(self._ego_state, path, time_ns, time_ns + ego_ns))
        ends = self._sweep_ends()
        for frame, (time_ns, path) in self._sweeps.items():
            arrival_ns = max(time_ns, ends.get(frame, time_ns)) + lidar_ns
            yield _at(arrival_ns, partial(load_sweep, LIDAR, path, time_ns, arrival_ns))
        for name, frames in self._images.items():
            for time_ns, path in frames.values():
                load = partial(self._load_image, name, path, time_ns, time_ns + camera_ns)
                yield _at(time_ns + camera_ns, load)

    def _sweep_ends(self) -> dict[int, int]:
        path = self._folder / LIDAR / "timestamps_end.txt"
        return dict(enumerate(read_timestamps(path))) if path.is_file() else {}

    def _load_image(self, name: str, path: Path, capture_ns: int, arrival_ns: int) -> list[AnyMessage]:
        return [load_camera_frame(self._rig[name], path, capture_ns, arrival_ns)]

    def _ego_state(self, path: Path, capture_ns: int, arrival_ns: int) -> list[AnyMessage]:
        if self._first is None or self._ego_SE3_imu is None:
            error = f"{path}: no measurement of this drive can be read"
            return [Unreadable(sensor=EGO_SENSOR, capture_ns=capture_ns, arrival_ns=arrival_ns, error=error)]
        try:
            row = read_oxts(path)
        except PayloadError as cause:
            return [Unreadable(sensor=EGO_SENSOR, capture_ns=capture_ns, arrival_ns=arrival_ns, error=str(cause))]
        rotation = self._ego_SE3_imu[:3, :3]
        turn = rotation @ row.turn_radps
        # The unit does not sit at the ego's origin, so a turn moves it sideways.
        velocity = rotation @ row.velocity_mps + np.cross(turn, -self._ego_SE3_imu[:3, 3])
        state = EgoState(
            capture_ns=capture_ns,
            arrival_ns=arrival_ns,
            world_SE3_ego=world_SE3_imu(row, self._first) @ invert(self._ego_SE3_imu),
            velocity_mps=velocity[:2],
            yaw_rate_radps=float(turn[2]),
        )
        return [state]

    def _build_rig(self) -> SensorRig:
        sensors = []
        if self._sweeps:
            hz = _rate_hz(self._sweeps)
            sensors.append(
                Sensor(name=LIDAR, modality=Modality.LIDAR, ego_SE3_sensor=EGO_SE3_VELODYNE, frequency_hz=hz)
            )
        cameras = read_cameras(self._calibration) if self._images else {}
        for name, frames in self._images.items():
            if name not in cameras:
                raise DriveError(f"{self._calibration}/calib_cam_to_cam.txt: P_rect_{name[-2:]} is missing")
            sensors.append(
                Sensor(
                    name=name,
                    modality=Modality.CAMERA,
                    ego_SE3_sensor=EGO_SE3_VELODYNE @ cameras[name].velodyne_SE3_camera,
                    frequency_hz=_rate_hz(frames),
                    camera=cameras[name].model,
                )
            )
        return SensorRig(sensors=tuple(sensors))

    def _build_notes(self) -> list[str]:
        notes = [
            "the ego frame follows the drawing of the vehicle: lidar 1.73 m high, 0.76 m ahead of the rear axle",
            "points have no times of their own: their motion within a sweep cannot be taken out",
            "arrival times are assumed: capture (or the end of the sweep) plus the configured latency",
        ]
        if not self._oxts:
            notes.append("no oxts/data: the ego motion must be estimated")
        elif self._first is None:
            notes.append("no file in oxts/data can be read: the ego motion must be estimated")
        return notes


def _is_drive(folder: Path) -> bool:
    return (folder / LIDAR / "data").is_dir() or (folder / "oxts" / "data").is_dir()


def _drive_folder(root: Path, scene: str | None) -> tuple[Path, tuple[str, ...]]:
    if _is_drive(root) and scene in (None, root.name):
        return root, ()
    scenes = {child.name: child for pattern in ("*", "*/*") for child in root.glob(pattern) if _is_drive(child)}
    return choose_scene(root, scenes, scene, f"KITTI raw drive (a folder with {LIDAR}/data, image_02 and oxts)")


def _calibration_folder(drive: Path) -> Path:
    """Where the calibration is: beside the drive, as the archives unpack it, or in it."""
    for folder in (drive, drive.parent):
        if (folder / "calib_velo_to_cam.txt").is_file() or (folder / "calib_imu_to_velo.txt").is_file():
            return folder
    raise DriveError(
        f"{drive.parent}: no calib_velo_to_cam.txt, calib_cam_to_cam.txt and calib_imu_to_velo.txt here; unpack the "
        f"calibration archive of the day {drive.parent.name} beside the drive"
    )


def _rate_hz(frames: dict[int, tuple[int, Path]]) -> float:
    times = [time_ns for time_ns, _ in frames.values()]
    return 1e9 / median(after - before for before, after in pairwise(times)) if len(times) > 1 else NOMINAL_HZ


def _at(arrival_ns: int, load: Callable[[], Sequence[AnyMessage]]) -> Pending:
    return Pending(earliest_ns=arrival_ns, latest_ns=arrival_ns, load=load)
