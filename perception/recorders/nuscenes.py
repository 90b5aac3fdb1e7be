"""Records a drive as a nuScenes root: sensor files as they come, the tables every few keyframes and at the end.

What the format cannot hold is left out: arrival times, route commands, results, messages that were unreadable, and
labels of what nuScenes has no category for.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import Projection
from perception.core.errors import DriveError
from perception.core.labels import Labels
from perception.core.messages import CameraFrame, EgoState, LidarSweep, RadarScan, SweepMotion
from perception.core.ports import Recorded
from perception.core.rig import SensorRig
from perception.recorders.nuscenes_counts import count_points
from perception.recorders.nuscenes_drive import (
    UNLABELLED_STEP_US,
    Keyframes,
    RecordedDrive,
    SensorFile,
    find_keyframes,
)
from perception.recorders.nuscenes_files import SpareSpace, encode_lidar, encode_radar, write_file
from perception.recorders.nuscenes_map import DrivableMask
from perception.recorders.nuscenes_tables import build_tables, map_token

SETTLE_US = 500_000
"""A keyframe is written to the tables once messages captured so much later have come: nothing nearer will."""
FLUSH_KEYFRAMES = 10
FLUSH_GROWTH = 4
"""Tables are also kept from being rewritten before they have grown by this fraction (a quarter): linear in total."""
SPARE_BYTES = 4_000_000
"""Disk space held for the last tables, so that a recording which filled the disk can still be closed and read; of this
size for the first keyframes, then with twice the size of the last tables on top."""
MAX_POSELESS_US = 1_000_000
SPLIT = "all"

Compensate = Callable[[LidarSweep], LidarSweep]


class NuScenesRecorder:
    """Writes one drive as the one scene of a new root.

    A keyframe is a capture of the reference sensor (first lidar, else camera, else radar) for which `Labels` came;
    where there are no such labels, every half second has one.
    Where the disk fills up, `write` raises, and `close` still writes tables for what was recorded until then.
    version: name of the folder of tables; the devkit's official splits ask for `-mini`, `-trainval` or `-test` at its
    end, the split "all" of `splits.json` works with any.
    compensate: turns a raw sweep into a compensated one, since the format has no time per point.
    drivable: where one may drive; without it the map is blank. Maps of nuScenes begin at the world's origin, so the
    recorded world is shifted for the mask's corner to lie there.
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
        drivable: DrivableMask | None = None,
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
        self._counted: set[int] = set()
        self._is_closed = False
        self._spare = SpareSpace(self._root / f"{version}.spare")
        self._spare.hold(SPARE_BYTES)
        mask = drivable or DrivableMask.blank()
        self._corner_m = np.append(mask.corner_m, 0.0)
        write_file(self._root / "maps" / f"{map_token(self._drive)}.png", mask.png())

    def write(self, item: Recorded) -> None:
        if isinstance(item, EgoState):
            if item.world_SE3_ego is not None:
                map_SE3_ego = item.world_SE3_ego.copy()
                map_SE3_ego[:3, 3] -= self._corner_m
                self._drive.track.add(item.capture_ns, map_SE3_ego)
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
        self._spare.release()
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
        if not is_final:
            self._spare.hold(SPARE_BYTES + 2 * sum(map(len, files.values())))

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
        for i, time_us in enumerate(keyframes.times_us.tolist()):
            labels = self._drive.labels.get(time_us)
            if labels is not None and time_us not in self._counted:
                self._drive.labels[time_us] = count_points(self._root, self._drive, keyframes, i, labels)
                self._counted.add(time_us)


def _check_rig(rig: SensorRig) -> None:
    for sensor in rig.sensors:
        if sensor.camera is not None and (sensor.camera.projection is not Projection.PINHOLE):
            raise DriveError(
                f"{sensor.name}: nuScenes stores pinhole cameras only, not {sensor.camera.projection}; "
                "record to a .mcap file instead"
            )
        if not all(letter.isalnum() or letter in "-_." for letter in sensor.name):
            raise DriveError(f"{sensor.name}: a sensor's name becomes a folder's; use letters, digits and -_.")
