"""What a nuScenes recorder knows about a drive so far: which files it wrote, the ego's track, and the labels."""

import hashlib
from bisect import bisect_left, insort
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.geometry import interpolate_se3, invert, rotation_log, rotation_to_quaternion
from perception.core.labels import Labels
from perception.core.rig import Modality, Sensor, SensorRig

KEYFRAME_TOLERANCE_US = 100_000
"""A sensor's message further than this from a keyframe is not part of it."""
UNLABELLED_STEP_US = 500_000
"""Distance of keyframes where the drive has no labels: the 2 Hz of nuScenes."""

F64 = NDArray[np.float64]


class PoseTrack:
    """World poses of the ego by time, interpolated between."""

    def __init__(self) -> None:
        self._times_ns: list[int] = []
        self._poses: dict[int, F64] = {}

    def __len__(self) -> int:
        return len(self._times_ns)

    def add(self, time_ns: int, world_SE3_ego: F64) -> None:
        if time_ns not in self._poses:
            insort(self._times_ns, time_ns)
        self._poses[time_ns] = world_SE3_ego

    def reaches(self, time_ns: int) -> bool:
        """Whether a pose at or after `time_ns` is known."""
        return bool(self._times_ns) and self._times_ns[-1] >= time_ns

    def at(self, time_ns: int) -> F64:
        """world_SE3_ego (4, 4); beyond the ends the nearest segment goes on. Raises DriveError without any pose."""
        if not self._times_ns:
            raise DriveError("the drive has no ego poses, which nuScenes needs; record it to a .mcap file instead")
        if time_ns in self._poses or len(self._times_ns) == 1:
            return self._poses[time_ns if time_ns in self._poses else self._times_ns[0]]
        start, end = self._segment(time_ns)
        return interpolate_se3(self._poses[start], self._poses[end], (time_ns - start) / (end - start))

    def twist_at(self, time_ns: int) -> tuple[F64, F64]:
        """Velocity (3,) over ground and turn rate (3,), both in ego axes; zero where one pose alone is known."""
        if len(self._times_ns) < 2:
            return np.zeros(3), np.zeros(3)
        start, end = self._segment(time_ns)
        relative = invert(self._poses[start]) @ self._poses[end]
        span_s = (end - start) / 1e9
        return relative[:3, 3] / span_s, rotation_log(relative[:3, :3]) / span_s

    def _segment(self, time_ns: int) -> tuple[int, int]:
        index = min(max(bisect_left(self._times_ns, time_ns), 1), len(self._times_ns) - 1)
        return self._times_ns[index - 1], self._times_ns[index]


@dataclass(slots=True, eq=False)
class SensorFile:
    """One file that was written. filename: relative to the root. pose: quaternion and translation once settled."""

    token: str
    capture_us: int
    filename: str
    fileformat: str
    pose: tuple[list[float], list[float]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedDrive:
    """files: by sensor and capture time in us. labels: by capture time in us of the reference sensor."""

    drive_id: str
    rig: SensorRig
    track: PoseTrack = field(default_factory=PoseTrack)
    files: dict[str, dict[int, SensorFile]] = field(default_factory=dict)
    labels: dict[int, Labels] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the scene: the drive's, free of slashes."""
        name = self.drive_id.removeprefix("nuscenes/")
        return "".join(letter if letter.isalnum() or letter in "-_.+" else "-" for letter in name)

    @property
    def reference(self) -> Sensor:
        """The first lidar, else camera, else radar of which anything was recorded. Needs one message at least."""
        order = (Modality.LIDAR, Modality.CAMERA, Modality.RADAR)
        return next(sensor for modality in order for sensor in self.rig.of(modality) if self.files.get(sensor.name))

    def token(self, *parts: object) -> str:
        """32 hex digits that depend on the drive and the parts alone."""
        text = "/".join(map(str, (self.drive_id, *parts)))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def pose_of(self, file: SensorFile) -> tuple[list[float], list[float]]:
        """Quaternion and translation of the ego when `file` was captured, kept once it can change no more."""
        if file.pose is not None:
            return file.pose
        world_SE3_ego = self.track.at(file.capture_us * 1000)
        pose = rotation_to_quaternion(world_SE3_ego[:3, :3]).tolist(), world_SE3_ego[:3, 3].tolist()
        if self.track.reaches(file.capture_us * 1000):
            file.pose = pose
        return pose


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Keyframes:
    """times_us: (T,) rising. members: for each sensor, capture time in us of its message by number of the keyframe."""

    times_us: NDArray[np.int64]
    members: dict[str, dict[int, int]]


def find_keyframes(drive: RecordedDrive, until_us: int) -> Keyframes:
    """Keyframes up to `until_us`: captures of the reference sensor that are labelled (none is: every half second).

    Each sensor's nearest message belongs to a keyframe, to one only.
    """
    reference = np.array(sorted(drive.files[drive.reference.name]), dtype=np.int64)
    times = reference[np.isin(reference, list(drive.labels))]
    if not len(times):
        chosen: list[int] = []
        for time in reference.tolist():
            if not chosen or time - chosen[-1] >= UNLABELLED_STEP_US:
                chosen.append(time)
        times = np.array(chosen, dtype=np.int64)
    times = times[times <= until_us]
    members = {name: _nearest(np.array(sorted(files), dtype=np.int64), times) for name, files in drive.files.items()}
    return Keyframes(times_us=times, members=members)


def _nearest(captures_us: NDArray[np.int64], times_us: NDArray[np.int64]) -> dict[int, int]:
    """The capture nearest to each keyframe, by keyframe index; where two want the same, the nearer one gets it."""
    found: dict[int, int] = {}
    owner: dict[int, int] = {}
    if not len(captures_us):
        return found
    after = np.clip(np.searchsorted(captures_us, times_us), 0, len(captures_us) - 1)
    before = np.maximum(after - 1, 0)
    is_before = np.abs(captures_us[before] - times_us) <= np.abs(captures_us[after] - times_us)
    nearest = np.where(is_before, before, after)
    for i, capture in enumerate(captures_us[nearest].tolist()):
        distance = abs(capture - int(times_us[i]))
        rival = owner.get(capture)
        if distance > KEYFRAME_TOLERANCE_US or (rival is not None and abs(capture - int(times_us[rival])) <= distance):
            continue
        if rival is not None:
            del found[rival]
        found[i], owner[capture] = capture, i
    return found
