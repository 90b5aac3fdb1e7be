"""Argoverse 2 sensor logs: up to nine cameras, one sweep of two stacked 32-beam lidars, city poses, tracked boxes.

Frames. The vehicle frame of the format is x forward, y left, z up with its origin at the middle of the rear axle, at
axle height; the ego frame is that, lowered to the road by a fixed height. Points are given in the vehicle frame,
compensated to the stamp of their sweep, which is its begin: `offset_ns` counts from there, 3 to 106 ms.
`laser_number` runs over both lidars (0 to 31 and 32 to 63) and is taken as the ring. With a map, route commands come
of the lanes that the poses follow.
"""

from collections.abc import Iterator
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import LatencyConfig
from perception.core.errors import DriveError, PayloadError
from perception.core.geometry import invert, rotation_log, se3
from perception.core.labels import Labels
from perception.core.messages import AnyMessage, EgoState, LidarSweep, RouteCommand, SweepMotion, Unreadable
from perception.core.rig import Modality, Sensor, SensorRig
from perception.sources.arrival import Pending
from perception.sources.av2_files import F64, read_cameras, read_mounts, read_poses, read_sweep
from perception.sources.av2_labels import Boxes, label_times
from perception.sources.av2_map import LaneMap, map_file, read_map
from perception.sources.av2_route import Route, recorded_route
from perception.sources.folder_drive import FolderDrive
from perception.sources.payloads import (
    MAX_POINT_OFFSET_NS,
    choose_scene,
    load_camera_frame,
    numbered_files,
    point_offsets,
)

LIDAR = "lidar"
POSES = "city_SE3_egovehicle.feather"
BOXES = "annotations.feather"
AXLE_M = 0.32
"""Height of the rear axle above the road: poses over the ground raster of the map, median of log 7fab2350."""
EGO_SE3_VEHICLE: F64 = se3(translation=(0.0, 0.0, AXLE_M))

_LIDAR_HZ, _CAMERA_HZ = 10.0, 20.0
_SPEED_WINDOW_NS = 50_000_000
"""Poses come every 5 to 10 ms; the velocity is taken over twice this, so that it is not their noise."""
_MARGIN_NS = 200_000_000
_ROUTE_NS = 100_000_000
_SWEEP, _IMAGE = r"(\d{1,19})\.feather", r"(\d{1,19})\.jpg"


def open_log(
    root: Path | str, *, scene: str | None = None, latency: LatencyConfig | None = None
) -> "Argoverse2Source | MappedArgoverse2Source":
    """The log at `root` (see `Argoverse2Source`), with the truth of its map where it has one."""
    folder, _ = _log_folder(Path(root), scene)
    path = map_file(folder)
    if path is None:
        return Argoverse2Source(root, scene=scene, latency=latency)
    return MappedArgoverse2Source(root, scene=scene, latency=latency, lane_map=read_map(path))


class Argoverse2Source(FolderDrive):
    """One log, without its map.

    root: its folder, or one that holds logs (a split). scene: the name of one of those, default the first.
    Raises DriveError where poses or calibration are broken, or no sensor has a file.
    """

    DATA_SET = "av2"

    def __init__(self, root: Path | str, *, scene: str | None = None, latency: LatencyConfig | None = None) -> None:
        self._folder, scene_notes = _log_folder(Path(root), scene)
        self._latency = latency or LatencyConfig()
        self._poses = read_poses(self._folder / POSES)
        self._sweeps = numbered_files(self._folder / "sensors" / "lidar", _SWEEP)
        self._images = {
            folder.name: files
            for folder in sorted((self._folder / "sensors" / "cameras").glob("*"))
            if (files := numbered_files(folder, _IMAGE))
        }
        if not self._sweeps and not self._images:
            raise DriveError(f"{self._folder}: no sensors/lidar/*.feather and no sensors/cameras/*/*.jpg")
        self._rig = self._build_rig()
        self._labelled = label_times(self._folder / BOXES) if (self._folder / BOXES).is_file() else frozenset[int]()
        self._boxes: Boxes | None = None
        self._pending = tuple(self._all_pending())
        self._notes = (*scene_notes, *self._build_notes())

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        """Times of the sweeps that have boxes, rising."""
        return tuple(time_ns for time_ns in self._sweeps if time_ns in self._labelled)

    def labels(self, reference_ns: int) -> Labels | None:
        """Boxes of the sweep stamped `reference_ns`. Raises PayloadError where their table cannot be read."""
        if reference_ns not in self._labelled or reference_ns not in self._sweeps:
            return None
        if self._boxes is None:
            self._boxes = Boxes(self._folder / BOXES)
        return self._boxes.at(reference_ns, self._poses, EGO_SE3_VEHICLE)

    @property
    def _capture_span_ns(self) -> tuple[int, int]:
        """From a little before the first sweep or image to a little after the last."""
        captures = [*self._sweeps, *(time_ns for files in self._images.values() for time_ns in files)]
        return min(captures) - _MARGIN_NS, max(captures) + _MARGIN_NS

    def _all_pending(self) -> Iterator[Pending]:
        lidar_ns, camera_ns, ego_ns = (
            round(ms * 1e6) for ms in (self._latency.lidar_ms, self._latency.camera_ms, self._latency.ego_ms)
        )
        first_ns, last_ns = self._capture_span_ns
        times = self._poses.times_ns
        for time_ns in times[(times >= first_ns) & (times <= last_ns)].tolist():
            arrival_ns = time_ns + ego_ns
            yield Pending(
                earliest_ns=arrival_ns, latest_ns=arrival_ns, load=partial(self._ego_state, time_ns, arrival_ns)
            )
        for time_ns, path in self._sweeps.items():
            yield Pending(
                earliest_ns=time_ns + lidar_ns,
                latest_ns=time_ns + lidar_ns + MAX_POINT_OFFSET_NS,
                load=partial(_load_sweep, path, time_ns, lidar_ns),
            )
        for name, files in self._images.items():
            for time_ns, path in files.items():
                load = partial(self._load_image, name, path, time_ns, time_ns + camera_ns)
                yield Pending(earliest_ns=time_ns + camera_ns, latest_ns=time_ns + camera_ns, load=load)

    def _ego_state(self, time_ns: int, arrival_ns: int) -> list[AnyMessage]:
        vehicle_SE3_ego = invert(EGO_SE3_VEHICLE)
        before_ns = max(time_ns - _SPEED_WINDOW_NS, int(self._poses.times_ns[0]))
        after_ns = min(time_ns + _SPEED_WINDOW_NS, int(self._poses.times_ns[-1]))
        pose, start, end = (self._poses.at(at_ns) @ vehicle_SE3_ego for at_ns in (time_ns, before_ns, after_ns))
        duration_s = (after_ns - before_ns) / 1e9
        velocity = pose[:3, :3].T @ (end[:3, 3] - start[:3, 3]) / duration_s
        state = EgoState(
            capture_ns=time_ns,
            arrival_ns=arrival_ns,
            world_SE3_ego=pose,
            velocity_mps=velocity[:2],
            yaw_rate_radps=float(rotation_log(start[:3, :3].T @ end[:3, :3])[2] / duration_s),
        )
        return [state]

    def _load_image(self, name: str, path: Path, capture_ns: int, arrival_ns: int) -> list[AnyMessage]:
        return [load_camera_frame(self._rig[name], path, capture_ns, arrival_ns)]

    def _build_rig(self) -> SensorRig:
        sensors = []
        if self._sweeps:
            sensors.append(
                Sensor(
                    name=LIDAR,
                    modality=Modality.LIDAR,
                    ego_SE3_sensor=EGO_SE3_VEHICLE,
                    frequency_hz=_rate_hz(self._sweeps, _LIDAR_HZ),
                )
            )
        calibration = self._folder / "calibration"
        if self._images:
            mounts = read_mounts(calibration / "egovehicle_SE3_sensor.feather")
            cameras = read_cameras(calibration / "intrinsics.feather")
            if missing := [name for name in self._images if name not in mounts or name not in cameras]:
                raise DriveError(
                    f"{calibration}: no calibration of camera {missing[0]}; restore its rows in intrinsics.feather and "
                    "egovehicle_SE3_sensor.feather, or move its folder of images away"
                )
            sensors += [
                Sensor(
                    name=name,
                    modality=Modality.CAMERA,
                    ego_SE3_sensor=EGO_SE3_VEHICLE @ mounts[name],
                    frequency_hz=_rate_hz(files, _CAMERA_HZ),
                    camera=cameras[name],
                )
                for name, files in self._images.items()
            ]
        return SensorRig(sensors=tuple(sensors))

    def _map_note(self) -> str:
        return "no vector map in this log: no route commands, no speed limits"

    def _build_notes(self) -> list[str]:
        notes = [
            f"ego frame: the vehicle frame of the log, lowered by {AXLE_M} m from the rear axle to the road",
            "both lidars come as one sweep, compensated to its begin; point coordinates have 16 bits (3 cm at 50 m)",
            "arrival times are assumed: capture (or the last point) plus the configured latency",
            self._map_note(),
        ]
        if not self._images:
            notes.append("no camera images in this log")
        if self._labelled and len(self.label_times_ns) < len(self._labelled):
            notes.append(f"{len(self.label_times_ns)} of {len(self._labelled)} labelled times have a sweep")
        return notes


class MappedArgoverse2Source(Argoverse2Source):
    """One log and its vector map: a `TruthSource`, with route commands."""

    def __init__(
        self, root: Path | str, *, lane_map: LaneMap, scene: str | None = None, latency: LatencyConfig | None = None
    ) -> None:
        self._lane_map = lane_map
        super().__init__(root, scene=scene, latency=latency)

    def drivable(self, reference_ns: int, half_m: float, cell_m: float) -> NDArray[np.bool_]:
        """(H, W) the drivable areas of the map around the ego, see `TruthSource`."""
        return self._lane_map.drivable(self._city_SE3_ego(reference_ns), half_m, cell_m)

    def future_path(self, reference_ns: int, times_s: F64) -> F64:
        """(W, 2) by the poses of the whole log. Raises ValueError where it has none so early or so late."""
        asked_ns = [reference_ns, *(reference_ns + np.round(times_s * 1e9).astype(np.int64)).tolist()]
        first_ns, last_ns = self._poses.times_ns[[0, -1]].tolist()
        if min(asked_ns) < first_ns or max(asked_ns) > last_ns:
            raise ValueError(f"the poses of the log do not reach from {min(asked_ns)} to {max(asked_ns)} ns")
        ego_SE3_city = invert(self._city_SE3_ego(reference_ns))
        return np.array([(ego_SE3_city @ self._city_SE3_ego(time_ns))[:2, 3] for time_ns in asked_ns[1:]]).reshape(
            -1, 2
        )

    @cached_property
    def _route(self) -> Route:
        return recorded_route(self._lane_map, self._poses.times_ns, self._poses.city_SE3_vehicle)

    def _all_pending(self) -> Iterator[Pending]:
        yield from super()._all_pending()
        latency_ns = round(self._latency.ego_ms * 1e6)
        first_ns, last_ns = self._capture_span_ns
        first_ns, last_ns = max(first_ns, int(self._poses.times_ns[0])), min(last_ns, int(self._poses.times_ns[-1]))
        for time_ns in range(first_ns, last_ns + 1, _ROUTE_NS):
            arrival_ns = time_ns + latency_ns
            load = partial(self._route_command, time_ns, arrival_ns)
            yield Pending(earliest_ns=arrival_ns, latest_ns=arrival_ns, load=load)

    def _route_command(self, time_ns: int, arrival_ns: int) -> list[AnyMessage]:
        command, distance_m = self._route.at(time_ns)
        return [RouteCommand(capture_ns=time_ns, arrival_ns=arrival_ns, command=command, distance_m=distance_m)]

    def _city_SE3_ego(self, time_ns: int) -> F64:
        return self._poses.at(time_ns) @ invert(EGO_SE3_VEHICLE)

    def _map_note(self) -> str:
        return "route commands are derived from the lanes that the recorded poses follow; the map has no speed limits"


def _is_log(folder: Path) -> bool:
    return (folder / POSES).is_file()


def _log_folder(root: Path, scene: str | None) -> tuple[Path, tuple[str, ...]]:
    if _is_log(root) and scene in (None, root.name):
        return root, ()
    scenes = {child.name: child for child in root.iterdir() if _is_log(child)} if root.is_dir() else {}
    return choose_scene(root, scenes, scene, f"Argoverse 2 log (a folder with {POSES}, calibration and sensors)")


def _rate_hz(files: dict[int, Path], nominal_hz: float) -> float:
    times = list(files)
    return 1e9 / median(after - before for before, after in pairwise(times)) if len(times) > 1 else nominal_hz


def _load_sweep(path: Path, capture_ns: int, latency_ns: int) -> list[AnyMessage]:
    try:
        rows = read_sweep(path)
        offsets = point_offsets(path, rows.offset_ns)
    except PayloadError as error:
        arrival_ns = capture_ns + latency_ns
        return [Unreadable(sensor=LIDAR, capture_ns=capture_ns, arrival_ns=arrival_ns, error=str(error))]
    sweep = LidarSweep(
        sensor=LIDAR,
        capture_ns=capture_ns,
        arrival_ns=capture_ns + max(0, int(offsets.max())) + latency_ns,
        points_m=rows.points_m,
        intensity=rows.intensity,
        motion=SweepMotion.COMPENSATED,
        point_offset_ns=offsets,
        ring=rows.ring,
    )
    return [sweep]
