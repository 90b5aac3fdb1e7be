"""Records a drive as a nuScenes root: sensor files as they come, the tables every few keyframes and at the end.

What the format cannot hold is left out: arrival times, route commands, results, and messages that were unreadable.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import Projection
from perception.core.errors import DriveError
from perception.core.geometry import invert, quaternion_to_rotation, transform_points
from perception.core.labels import UNKNOWN_COUNT, Labels, points_in_box
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, SweepMotion
from perception.core.results import PerceptionResult
from perception.core.rig import Modality, SensorRig
from perception.recorders.nuscenes_drive import (
    UNLABELLED_STEP_US,
    Keyframes,
    RecordedDrive,
    SensorFile,
    find_keyframes,
)
from perception.recorders.nuscenes_files import (
    encode_lidar,
    encode_radar,
    read_lidar_points,
    read_radar_points,
    write_file,
)
from perception.recorders.nuscenes_tables import build_tables, map_token

SETTLE_US = 500_000
"""A keyframe is written to the tables once messages captured so much later have come: nothing nearer will."""
FLUSH_KEYFRAMES = 10
FLUSH_GROWTH = 4
"""Tables are also kept from being rewritten before they have grown by this fraction (a quarter): linear in total."""
MAX_POSELESS_US = 1_000_000
SPLIT = "all"

Compensate = Callable[[LidarSweep], LidarSweep]


class NuScenesRecorder:
    """Writes one drive as the one scene of a new root.

    A keyframe is a capture of the reference sensor (first lidar, else camera, else radar) for which `Labels` came;
    where there are no such labels, every half second has one.
    version: name of the folder of tables; the devkit's official splits ask for `-mini`, `-trainval` or `-test` at its
    end, the split "all" of `splits.json` works with any.
    compensate: turns a raw sweep into a compensated one, since the format has no time per point.
    drivable_area: (H, W) uint8, 255 where drivable, at the 0.1 m a pixel of nuScenes; default a small blank.
    Captures are stored in whole microseconds; of two in the same one the first counts. Raises DriveError where the rig
    or a message does not fit the format, or the disk refuses.
    """

    def __init__(
        self,
        folder: Path | str,
        rig: SensorRig,
        drive_id: str,
        *,
        version: str = "v1.0-recorded",
        compensate: Compensate | None = None,
        drivable_area: NDArray[np.uint8] | None = None,
    ) -> None:
        self._root = Path(folder)
        self._tables = self._root / version
        if self._tables.exists():
            raise DriveError(f"{self._tables}: exists already; record to another folder")
        _check_rig(rig)
        self._drive = RecordedDrive(drive_id=drive_id, rig=rig)
        self._compensate = compensate
        self._newest_us = self._oldest_us = -1
        self._keyframes_written = 0
        self._is_closed = False
        mask = np.zeros((16, 16), dtype=np.uint8) if drivable_area is None else drivable_area
        write_file(self._root / "maps" / f"{map_token(self._drive)}.png", cv2.imencode(".png", mask)[1].tobytes())

    def write(self, item: AnyMessage | PerceptionResult | Labels) -> None:
        if isinstance(item, EgoState):
            if item.world_SE3_ego is not None:
                self._drive.track.add(item.capture_ns, item.world_SE3_ego)
        elif isinstance(item, Labels):
            self._drive.labels[item.reference_ns // 1000] = item
        elif isinstance(item, CameraFrame | LidarSweep | RadarScan):
            self._write_message(item)
            self._flush_if_due()

    def close(self) -> None:
        """Write the tables to the end of the drive; without a single message there is nothing to write."""
        if self._is_closed:
            return
        self._is_closed = True
        if any(self._drive.files.values()):
            self._flush(find_keyframes(self._drive, self._newest_us), is_final=True)

    def _write_message(self, message: CameraFrame | LidarSweep | RadarScan) -> None:
        name, capture_us = message.sensor, message.capture_ns // 1000
        if name not in self._drive.rig:
            raise DriveError(f"{name}: not a sensor of the rig that is being recorded")
        files = self._drive.files.setdefault(name, {})
        if capture_us in files:
            return
        data, suffix = self._encode(message)
        filename = f"sweeps/{name}/{self._drive.name}__{name}__{capture_us}.{suffix}"
        write_file(self._root / filename, data)
        fileformat = suffix.split(".")[0]
        files[capture_us] = SensorFile(
            self._drive.token("sample_data", name, capture_us), capture_us, filename, fileformat
        )
        self._newest_us = max(self._newest_us, capture_us)
        self._oldest_us = capture_us if self._oldest_us < 0 else min(self._oldest_us, capture_us)
        if not len(self._drive.track) and self._newest_us - self._oldest_us > MAX_POSELESS_US:
            self._drive.track.at(message.capture_ns)

    def _encode(self, message: CameraFrame | LidarSweep | RadarScan) -> tuple[bytes, str]:
        """The file's bytes and suffix."""
        if isinstance(message, CameraFrame):
            if message.calibration is not None or message.ego_SE3_sensor is not None:
                raise DriveError(f"{message.sensor}: nuScenes has no place for an image with its own calibration")
            return message.data, "png" if message.data.startswith(b"\x89PNG") else "jpg"
        if isinstance(message, LidarSweep):
            if message.motion is SweepMotion.RAW:
                if self._compensate is None:
                    raise DriveError(
                        f"{message.sensor}: a raw sweep cannot be stored as nuScenes, which has no time per point; "
                        "pass `compensate`, or record to a .mcap file"
                    )
                message = self._compensate(message)
            return encode_lidar(message), "pcd.bin"
        return encode_radar(message, self._over_ground(message)), "pcd"

    def _over_ground(self, scan: RadarScan) -> NDArray[np.floating]:
        """Range rates (N,) over ground: the sensor's own, else the measured ones less what the ego's motion adds."""
        if scan.compensated_mps is not None:
            return scan.compensated_mps
        mount = self._drive.rig[scan.sensor].ego_SE3_sensor
        velocity, turn = self._drive.track.twist_at(scan.capture_ns)
        mount_mps = mount[:3, :3].T @ (velocity + np.cross(turn, mount[:3, 3]))
        points = scan.points_m.astype(np.float64)
        rays = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-6)
        over_ground: NDArray[np.floating] = scan.radial_mps + rays @ mount_mps
        return over_ground

    def _flush_if_due(self) -> None:
        due = self._keyframes_written + max(FLUSH_KEYFRAMES, self._keyframes_written // FLUSH_GROWTH)
        expected = len(self._drive.labels) or (self._newest_us - self._oldest_us) // UNLABELLED_STEP_US
        if expected < due:
            return
        keyframes = find_keyframes(self._drive, self._newest_us - SETTLE_US)
        if len(keyframes.times_us) >= due:
            self._flush(keyframes, is_final=False)

    def _flush(self, keyframes: Keyframes, *, is_final: bool) -> None:
        self._move_keyframes(keyframes)
        self._count_points(keyframes)
        tables = build_tables(self._drive, keyframes, is_final=is_final)
        files = {f"{name}.json": msgspec.json.encode(rows) for name, rows in tables.items()}
        files["splits.json"] = msgspec.json.encode({SPLIT: [self._drive.name]})
        try:
            self._tables.mkdir(parents=True, exist_ok=True)
            # All are on disk before any replaces its predecessor: a full disk leaves the old tables whole.
            for name, data in files.items():
                (self._tables / f"{name}.tmp").write_bytes(data)
            for name in files:
                (self._tables / f"{name}.tmp").replace(self._tables / name)
        except OSError as error:
            for name in files:
                (self._tables / f"{name}.tmp").unlink(missing_ok=True)
            raise DriveError(f"{self._tables}: tables cannot be written ({error.strerror}); free some space") from error
        self._keyframes_written = len(keyframes.times_us)

    def _move_keyframes(self, keyframes: Keyframes) -> None:
        """Files of keyframes live in samples/. The tables that are on disk do not name them yet."""
        for name, members in keyframes.members.items():
            for capture_us in members.values():
                file = self._drive.files[name][capture_us]
                if file.filename.startswith("sweeps/"):
                    target = "samples/" + file.filename.removeprefix("sweeps/")
                    try:
                        (self._root / target).parent.mkdir(parents=True, exist_ok=True)
                        (self._root / file.filename).replace(self._root / target)
                    except OSError as error:
                        raise DriveError(f"{self._root / target}: cannot be written ({error.strerror})") from error
                    file.filename = target

    def _count_points(self, keyframes: Keyframes) -> None:
        """Fill in point counts that the labels leave open, from the keyframe's own files."""
        for i, time_us in enumerate(keyframes.times_us.tolist()):
            labels = self._drive.labels.get(time_us)
            if labels is None:
                continue
            counts = {Modality.LIDAR: labels.num_lidar_points, Modality.RADAR: labels.num_radar_points}
            if not any(np.any(count == UNKNOWN_COUNT) for count in counts.values()):
                continue
            for modality, known in counts.items():
                found = self._points_inside(labels, keyframes, i, modality)
                counts[modality] = np.where(known == UNKNOWN_COUNT, found, known)
            self._drive.labels[time_us] = replace(
                labels, num_lidar_points=counts[Modality.LIDAR], num_radar_points=counts[Modality.RADAR]
            )

    def _points_inside(self, labels: Labels, keyframes: Keyframes, i: int, modality: Modality) -> NDArray[np.int64]:
        """Points (K,) of all sensors of a modality inside each box of keyframe `i`, moved by the ego's motion."""
        count = np.zeros(len(labels), dtype=np.int64)
        ego_SE3_world = invert(self._drive.track.at(labels.reference_ns))
        rotations = quaternion_to_rotation(labels.quaternion_wxyz.reshape(-1, 4))
        for sensor in self._drive.rig.of(modality):
            capture_us = keyframes.members.get(sensor.name, {}).get(i)
            if capture_us is None:
                continue
            path = self._root / self._drive.files[sensor.name][capture_us].filename
            points = read_lidar_points(path) if modality is Modality.LIDAR else read_radar_points(path)
            moved = ego_SE3_world @ self._drive.track.at(capture_us * 1000) @ sensor.ego_SE3_sensor
            points = transform_points(moved, points)
            for k in range(len(labels)):
                is_inside = points_in_box(points, labels.center_m[k], labels.size_m[k], rotations[k])
                count[k] += np.count_nonzero(is_inside)
        return count


def _check_rig(rig: SensorRig) -> None:
    for sensor in rig.sensors:
        if sensor.camera is not None and (sensor.camera.projection is not Projection.PINHOLE):
            raise DriveError(
                f"{sensor.name}: nuScenes stores pinhole cameras only, not {sensor.camera.projection}; "
                "record to a .mcap file instead"
            )
        if not all(letter.isalnum() or letter in "-_." for letter in sensor.name):
            raise DriveError(f"{sensor.name}: a sensor's name becomes a folder's; use letters, digits and -_.")
