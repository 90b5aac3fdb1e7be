"""PandaSet sequences: six cameras, a 360-degree and a forward lidar, poses, tracked cuboids.

Frames. The poses in `lidar/poses.json` are those of the vehicle, not of a sensor: x right, y forward, z up, and the
road in its own lane lies about 0.3 m below the origin (measured; wheel-hub height), cameras 1.5 to 1.8 m above it.
The origin is taken to be the middle of the rear axle; the ego frame is that, turned by 90 degrees and lowered to the
road by a height measured on each sequence.

Motion. Points lie in the world frame and are compensated: what the PandarGT sees 60 ms before or 30 ms after the
Pandar64 lies within about 2 cm of it, where raw points would lie 12 to 24 cm off (measured on standing surfaces of 8
frames). A frame's stamp is the end of the Pandar64's turn; the PandarGT runs freely. Moving objects lie where they were
at their own time, and so do their cuboids.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import LatencyConfig
from perception.core.cameras import CameraModel
from perception.core.errors import DriveError, PayloadError
from perception.core.geometry import invert, rotation_log, se3_from_yaw, transform_points
from perception.core.labels import Labels
from perception.core.messages import AnyMessage, EgoState, LidarSweep, SweepMotion, Unreadable
from perception.core.rig import Modality, Sensor, SensorRig
from perception.sources.arrival import Pending
from perception.sources.folder_drive import FolderDrive
from perception.sources.image_files import read_image
from perception.sources.pandaset_cuboids import read_labels
from perception.sources.pandaset_files import (
    PANDAR64,
    PANDAR_GT,
    Intrinsics,
    Points,
    Track,
    read_points,
    read_track,
    sequence_frames,
)
from perception.sources.pandaset_geometry import rigid_mount, road_height
from perception.sources.payloads import (
    MAX_POINT_OFFSET_NS,
    choose_scene,
    image_size,
    load_camera_frame,
    point_offsets,
    read_json,
)

F64 = NDArray[np.float64]

CAMERAS = (
    "front_camera",
    "front_left_camera",
    "front_right_camera",
    "left_camera",
    "right_camera",
    "back_camera",
)
LIDARS = {"pandar64": PANDAR64, "pandar_gt": PANDAR_GT}

NOMINAL_HEIGHT_M = 0.32
"""Height of the origin of the poses above the road, where no sweep tells; measured on sequence 002."""


class PandaSetSource(FolderDrive):
    """One sequence.

    root: its folder, or one that holds sequence folders. scene: the name of one of those (`002`), default the first.
    Raises DriveError where poses, times or intrinsics are missing or contradict each other.
    """

    DATA_SET = "pandaset"

    def __init__(self, root: Path | str, *, scene: str | None = None, latency: LatencyConfig | None = None) -> None:
        self._folder, scene_notes = _sequence_folder(Path(root), scene)
        self._latency = latency or LatencyConfig()
        self._poses = read_track(self._folder / "lidar")
        self._frames = sequence_frames(self._folder)
        if not self._frames:
            raise DriveError(f"{self._folder}: no lidar/NN.pkl.gz and no camera/*/NN.jpg; no frame to replay")
        if self._frames[-1] >= len(self._poses.times_ns):
            raise DriveError(
                f"{self._folder}: frame {self._frames[-1]} has no entry in lidar/timestamps.json, "
                f"which has {len(self._poses.times_ns)}"
            )
        self._present = [name for name in CAMERAS if (self._folder / "camera" / name).is_dir()]
        self._tracks = {name: read_track(self._folder / "camera" / name) for name in self._present}
        self._height_m, height_note = self._measure_height()
        self._ego_SE3_pose = se3_from_yaw(-np.pi / 2, (0.0, 0.0, self._height_m))
        self._rig = self._build_rig()
        self._frame_of = {int(self._poses.times_ns[k]): k for k in self._frames}
        self._pending = tuple(self._all_pending())
        self._notes = (*scene_notes, *self._build_notes(height_note))

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        """Reference times that have a file of cuboids, rising."""
        return tuple(time for time, k in sorted(self._frame_of.items()) if self._cuboids(k).is_file())

    def labels(self, reference_ns: int) -> Labels | None:
        """Cuboids of the frame stamped `reference_ns`. Raises PayloadError where their file cannot be read.

        An object that both lidars saw has two cuboids; that of the Pandar64 is kept.
        """
        k = self._frame_of.get(reference_ns)
        if k is None or not self._cuboids(k).is_file():
            return None
        neighbours = [
            (self._cuboids(other), int(self._poses.times_ns[other]))
            for other in (k - 1, k + 1)
            if 0 <= other < len(self._poses.times_ns) and self._cuboids(other).is_file()
        ]
        return read_labels(self._cuboids(k), reference_ns, neighbours, invert(self._world_SE3_ego(reference_ns)))

    def _cuboids(self, k: int) -> Path:
        return self._folder / "annotations" / "cuboids" / f"{k:02d}.pkl.gz"

    def _world_SE3_ego(self, time_ns: int) -> F64:
        return self._poses.at(time_ns) @ invert(self._ego_SE3_pose)

    def _all_pending(self) -> Iterator[Pending]:
        lidar_ns, camera_ns, ego_ns = (
            round(ms * 1e6) for ms in (self._latency.lidar_ms, self._latency.camera_ms, self._latency.ego_ms)
        )
        first, last = max(self._frames[0] - 1, 0), min(self._frames[-1] + 1, len(self._poses.times_ns) - 1)
        for k in range(first, last + 1):
            time_ns = int(self._poses.times_ns[k])
            yield _at(time_ns + ego_ns, partial(self._ego_state, k, ego_ns))
        for k in self._frames:
            time_ns = int(self._poses.times_ns[k])
            if self._sweep_path(k).is_file():
                yield _at(time_ns + lidar_ns, partial(self._sweeps, k, lidar_ns), MAX_POINT_OFFSET_NS)
            for name, track in self._tracks.items():
                path = self._folder / "camera" / name / f"{k:02d}.jpg"
                if k < len(track.times_ns) and path.is_file():
                    arrival_ns = int(track.times_ns[k]) + camera_ns
                    load = partial(self._image, name, path, int(track.times_ns[k]), arrival_ns)
                    yield _at(arrival_ns, load)

    def _sweep_path(self, k: int) -> Path:
        return self._folder / "lidar" / f"{k:02d}.pkl.gz"

    def _ego_state(self, k: int, latency_ns: int) -> list[AnyMessage]:
        times, poses = self._poses.times_ns, self._poses.world_SE3_sensor
        before, after = max(k - 1, 0), min(k + 1, len(times) - 1)
        duration_s = (times[after] - times[before]) / 1e9
        pose = self._world_SE3_ego(int(times[k]))
        start, end = self._world_SE3_ego(int(times[before])), self._world_SE3_ego(int(times[after]))
        velocity = pose[:3, :3].T @ (end[:3, 3] - start[:3, 3]) / duration_s
        turned = rotation_log(poses[before, :3, :3].T @ poses[after, :3, :3])
        state = EgoState(
            capture_ns=int(times[k]),
            arrival_ns=int(times[k]) + latency_ns,
            world_SE3_ego=pose,
            velocity_mps=velocity[:2],
            yaw_rate_radps=float(turned[2] / duration_s),
        )
        return [state]

    def _image(self, name: str, path: Path, capture_ns: int, arrival_ns: int) -> list[AnyMessage]:
        return [load_camera_frame(self._rig[name], path, capture_ns, arrival_ns)]

    def _sweeps(self, k: int, latency_ns: int) -> list[AnyMessage]:
        capture_ns = int(self._poses.times_ns[k])
        try:
            points = read_points(self._sweep_path(k))
        except PayloadError as error:
            return [_unreadable(name, capture_ns, latency_ns, error) for name in LIDARS]
        sweeps: list[AnyMessage] = []
        for name, lidar in LIDARS.items():
            try:
                sweeps.append(self._sweep(k, name, points, points.lidar == lidar, latency_ns))
            except PayloadError as error:
                sweeps.append(_unreadable(name, capture_ns, latency_ns, error))
        return sweeps

    def _sweep(self, k: int, name: str, points: Points, is_own: NDArray[np.bool_], latency_ns: int) -> LidarSweep:
        capture_ns, path = int(self._poses.times_ns[k]), self._sweep_path(k)
        if not np.any(is_own):
            raise PayloadError(f"{path}: no points of {name}")
        offsets = point_offsets(path, (points.time_s[is_own] - capture_ns / 1e9) * 1e9)
        pose_SE3_world = invert(self._poses.world_SE3_sensor[k])
        return LidarSweep(
            sensor=name,
            capture_ns=capture_ns,
            arrival_ns=capture_ns + max(0, int(offsets.max())) + latency_ns,
            points_m=transform_points(pose_SE3_world, points.points_world_m[is_own]).astype(np.float32),
            intensity=points.intensity[is_own],
            motion=SweepMotion.COMPENSATED,
            point_offset_ns=offsets,
        )

    def _measure_height(self) -> tuple[float, str]:
        """Height of the poses' origin above the road: that of the first readable sweep, else the nominal one."""
        for k in self._frames[:3]:
            if not self._sweep_path(k).is_file():
                continue
            try:
                points = read_points(self._sweep_path(k))
            except PayloadError:
                continue  # replaying it reports the sweep as unreadable
            height = road_height(transform_points(invert(self._poses.world_SE3_sensor[k]), points.points_world_m))
            if height is not None:
                return height, f"the road lies {height:.2f} m below the poses' origin (measured on frame {k})"
        return (
            NOMINAL_HEIGHT_M,
            f"the road is taken to lie {NOMINAL_HEIGHT_M} m below the poses' origin (no sweep tells)",
        )

    def _build_rig(self) -> SensorRig:
        sensors = [
            Sensor(
                name=name,
                modality=Modality.LIDAR,
                ego_SE3_sensor=self._ego_SE3_pose,
                frequency_hz=self._poses.frequency_hz,
            )
            for name in LIDARS
        ]
        sensors += [self._camera(name, track) for name, track in self._tracks.items()]
        return SensorRig(sensors=tuple(sensors))

    def _camera(self, name: str, track: Track) -> Sensor:
        folder = self._folder / "camera" / name
        intrinsics = read_json(folder / "intrinsics.json", Intrinsics)
        k = min(len(track.times_ns), len(self._poses.times_ns))
        matrix = np.array([[intrinsics.fx, 0, intrinsics.cx], [0, intrinsics.fy, intrinsics.cy], [0, 0, 1.0]])
        try:
            width, height = self._image_size(folder)
            return Sensor(
                name=name,
                modality=Modality.CAMERA,
                ego_SE3_sensor=self._ego_SE3_pose @ rigid_mount(name, self._poses, track),
                frequency_hz=track.frequency_hz,
                offset_ns=round(float(np.median(track.times_ns[:k] - self._poses.times_ns[:k]))),
                camera=CameraModel(width_px=width, height_px=height, intrinsic=matrix),
            )
        except ValueError as error:
            raise DriveError(f"{folder}/intrinsics.json: {error}") from error

    def _image_size(self, folder: Path) -> tuple[int, int]:
        """Size of the first readable image: the format does not state it."""
        errors = []
        for k in self._frames:
            path = folder / f"{k:02d}.jpg"
            try:
                return image_size(path, read_image(path))
            except PayloadError as error:
                errors.append(str(error))
        raise DriveError(f"{folder}: no image can be read, so the image size is not known ({errors[0]})")

    def _build_notes(self, height_note: str) -> tuple[str, ...]:
        notes = [
            "ego frame: the poses' frame turned by 90 degrees; its origin is taken to be the rear axle; " + height_note,
            "lidar points are compensated; those of pandar_gt carry the frame's stamp, their own times differ",
            "arrival times are assumed: capture (or the last point) plus the configured latency",
        ]
        if missing := [name for name in CAMERAS if name not in self._present]:
            notes.append(f"cameras without a folder: {', '.join(missing)}")
        return tuple(notes)


def _at(earliest_ns: int, load: Callable[[], Sequence[AnyMessage]], spread_ns: int = 0) -> Pending:
    return Pending(earliest_ns=earliest_ns, latest_ns=earliest_ns + spread_ns, load=load)


def _is_sequence(folder: Path) -> bool:
    return (folder / "lidar" / "poses.json").is_file() or any(folder.glob("lidar/*.pkl.gz"))


def _sequence_folder(root: Path, scene: str | None) -> tuple[Path, tuple[str, ...]]:
    if _is_sequence(root) and scene in (None, root.name):
        return root, ()
    scenes = {child.name: child for child in root.iterdir() if _is_sequence(child)} if root.is_dir() else {}
    return choose_scene(root, scenes, scene, "PandaSet sequence (a folder with lidar/poses.json and lidar/NN.pkl.gz)")


def _unreadable(sensor: str, capture_ns: int, latency_ns: int, error: PayloadError) -> Unreadable:
    return Unreadable(sensor=sensor, capture_ns=capture_ns, arrival_ns=capture_ns + latency_ns, error=str(error))
