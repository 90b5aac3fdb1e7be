"""Bags of ROS 2 (sqlite3 and MCAP storage) and ROS 1 as a drive.

Capture times are the header stamps, arrival times those of the log. Which topic is which sensor is guessed, or said by
a `topics.yaml` (`rosbag_topics.py`). Where sensors sit comes from `/tf_static`, how cameras see from `CameraInfo`,
poses from odometry or `/tf`. There are no labels and no route in a bag.
"""

import contextlib
import heapq
from collections.abc import Iterator
from pathlib import Path

from perception.core.errors import DriveError, PayloadError, UsageError
from perception.core.labels import Labels
from perception.core.messages import EGO_SENSOR, AnyMessage, Unreadable
from perception.core.rig import SensorRig
from perception.sources.payloads import choose_scene
from perception.sources.rosbag_mcap import McapStorage, has_ros_profile
from perception.sources.rosbag_motion import ego_state, stamped_poses
from perception.sources.rosbag_plan import Planner, plan_sensors, sensor_topics
from perception.sources.rosbag_readers import read_message
from perception.sources.rosbag_ros1 import Ros1Storage
from perception.sources.rosbag_sqlite import SqliteStorage
from perception.sources.rosbag_storage import Record, SplitStorage, Storage
from perception.sources.rosbag_survey import compare_clocks, survey
from perception.sources.rosbag_topics import (
    FILE_NAME,
    NONE,
    TopicsConfig,
    find_info,
    guess_sensors,
    read_topics,
    unread,
)
from perception.sources.rosbag_types import COMPRESSED_IMAGE, IMAGE, ODOMETRY, SENSOR_TYPES, decode, stamp_ns

MAX_AHEAD_NS = 1_000_000_000
"""A message stamped further than this after it was logged has a broken stamp."""

_KINDS: dict[str, type[McapStorage | SqliteStorage | Ros1Storage]] = {
    ".mcap": McapStorage,
    ".db3": SqliteStorage,
    ".bag": Ros1Storage,
}
_SHOWN = 12


class RosbagSource:
    """One bag.

    path: a file (`.mcap`, `.db3`, `.bag`), or the folder of a ROS 2 bag, or a folder of ROS 1 bags, of which `scene`
    names one (default the first); `?topics=FILE` behind it names a mapping.
    Raises DriveError where the bag cannot be read or calibration is missing, UsageError where the mapping is wrong.
    """

    def __init__(self, path: Path | str, *, scene: str | None = None) -> None:
        bag, self._mapping = split_path(str(path))
        self._bag, storage, scene_notes = _open_storage(bag, scene)
        self._storage: Storage = storage
        config, config_notes = self._read_mapping()
        guessed = not config.sensors
        topics = storage.topics
        with _naming(self._bag, self._mapping):
            sensors = guess_sensors(topics) if guessed else sensor_topics(config, topics)
            wanted = {name for sensor in sensors.values() for name in (sensor.topic, sensor.info) if name is not None}
            if config.poses != NONE:
                wanted |= {name for name, topic in topics.items() if topic.type_name == ODOMETRY}
            found = survey(storage, wanted)
            planner = Planner(config, topics, found)
            plans = plan_sensors(planner, sensors, found.samples)
            self._motion = planner.motion()
        self._plans = {plan.topic.name: plan for plan in plans}
        self._clocks = compare_clocks({name: found.samples[name] for name in self._read_topics()})
        try:
            self._rig = SensorRig(sensors=tuple(plan.sensor for plan in plans))
        except ValueError as error:
            raise UsageError(f"{self._bag}: {error}; choose sensors with a topics.yaml") from error
        if guessed:
            config_notes += [
                f"guessed: {plan.sensor.name} is {plan.topic.name} ({plan.topic.type_name})" for plan in plans
            ]
        self._notes = (
            *scene_notes,
            *storage.notes,
            *config_notes,
            *planner.notes,
            *self._clocks.notes,
            *self._leftover_notes(),
        )

    @property
    def drive_id(self) -> str:
        return f"rosbag/{self._bag.stem if self._bag.is_file() else self._bag.name}"

    @property
    def rig(self) -> SensorRig:
        return self._rig

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Log times of the first and the last message of the bag, on the clock of the stamps."""
        if self._storage.span_ns is None:
            return None
        first, last = self._storage.span_ns
        return first - self._clocks.shift_ns, last - self._clocks.shift_ns

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        return ()

    def messages(self) -> Iterator[AnyMessage]:
        waiting: list[tuple[int, int, AnyMessage]] = []
        count = 0
        for record in self._storage.records(self._read_topics()):
            logged_ns = record.log_ns - self._clocks.shift_ns
            for message in self._read(record, logged_ns):
                heapq.heappush(waiting, (message.arrival_ns, count, message))
                count += 1
            # A message arrives when it was logged, or later if its stamp says so.
            while waiting and waiting[0][0] <= logged_ns:
                yield heapq.heappop(waiting)[2]
        while waiting:
            yield heapq.heappop(waiting)[2]

    def labels(self, reference_ns: int) -> Labels | None:
        """None: a bag has no ground truth."""
        return None

    def close(self) -> None:
        """Nothing is held open."""

    def _read_mapping(self) -> tuple[TopicsConfig, list[str]]:
        if self._mapping is None:
            found = (self._bag if self._bag.is_dir() else self._bag.parent) / FILE_NAME
            if not found.is_file():
                return TopicsConfig(), []
            self._mapping = found
        return read_topics(self._mapping), [f"topics are mapped by {self._mapping}"]

    def _read_topics(self) -> frozenset[str]:
        return frozenset(self._plans) | ({self._motion.topic} if self._motion is not None else set())

    def _read(self, record: Record, logged_ns: int) -> Iterator[AnyMessage]:
        topic = self._storage.topics[record.topic]
        plan = self._plans.get(record.topic)
        name = plan.sensor.name if plan is not None else EGO_SENSOR
        try:
            decoded = decode(topic, record)
            if plan is not None:
                capture_ns, arrival_ns, is_stamped = self._times(record.topic, decoded.header, logged_ns)
                yield read_message(plan, decoded, capture_ns, arrival_ns, is_stamped=is_stamped)
            elif self._motion is not None:
                for stamped in stamped_poses(self._motion, decoded):
                    capture_ns, arrival_ns, _ = self._times(record.topic, stamped.header, logged_ns)
                    yield ego_state(self._motion, stamped, capture_ns, arrival_ns)
        except PayloadError as error:
            yield Unreadable(sensor=name, capture_ns=logged_ns, arrival_ns=logged_ns, error=str(error))

    def _times(self, topic: str, header: object, logged_ns: int) -> tuple[int, int, bool]:
        """Capture, arrival, and whether the first is a stamp. Raises PayloadError where the stamp is in the future."""
        stamp = stamp_ns(header)
        if stamp == 0 or topic in self._clocks.unstamped:
            return logged_ns, logged_ns, False
        if stamp > logged_ns + MAX_AHEAD_NS:
            raise PayloadError(f"{topic}: stamped {(stamp - logged_ns) / 1e9:.3g} s after it was logged")
        return stamp, max(stamp, logged_ns), True

    def _leftover_notes(self) -> list[str]:
        topics = self._storage.topics
        used = {*self._read_topics(), *(name for name, topic in topics.items() if topic.type_name not in SENSOR_TYPES)}
        blind = [name for name in unread(topics, used) if topics[name].type_name in (COMPRESSED_IMAGE, IMAGE)]
        notes = [
            f"not read: {name} (no CameraInfo beside it; give `info` or `camera` in a topics.yaml)"
            for name in blind
            if find_info(name, topics) is None
        ]
        others = [name for name in unread(topics, used) if name not in blind or find_info(name, topics) is not None]
        if others:
            notes.append(f"not read: {', '.join(others[:_SHOWN])}{', ...' if len(others) > _SHOWN else ''}")
        return notes


@contextlib.contextmanager
def _naming(bag: Path, mapping: Path | None) -> Iterator[None]:
    """Errors name the file that is to be changed: the mapping where it does not fit, else the bag."""
    try:
        yield
    except (DriveError, UsageError) as error:
        path = mapping if isinstance(error, UsageError) and mapping is not None else bag
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error


def split_path(path: str) -> tuple[Path, Path | None]:
    """The bag and the mapping in `BAG?topics=FILE`."""
    bag, separator, mapping = path.partition("?topics=")
    return Path(bag), Path(mapping) if separator else None


def is_bag(path: str) -> bool:
    """Whether a path looks like a bag: a file by its suffix (MCAP by its profile), a folder by what is in it."""
    bag, _ = split_path(path)
    if bag.is_dir():
        return any(bag.glob("*.db3")) or any(bag.glob("*.bag")) or any(map(has_ros_profile, bag.glob("*.mcap")))
    return bag.is_file() and (bag.suffix in (".db3", ".bag") or (bag.suffix == ".mcap" and has_ros_profile(bag)))


def _open_storage(bag: Path, scene: str | None) -> tuple[Path, Storage, tuple[str, ...]]:
    """The bag that is meant, opened, and a note where there are others."""
    if bag.is_file():
        kind = _KINDS.get(bag.suffix)
        if kind is None:
            raise DriveError(f"{bag}: not a bag by its name; known are {', '.join(_KINDS)}")
        return bag, kind(bag), ()
    if not bag.is_dir():
        raise DriveError(f"{bag}: no such file or folder")
    for suffix in (".mcap", ".db3"):
        if parts := sorted(bag.glob(f"*{suffix}")):
            return bag, SplitStorage([_KINDS[suffix](part) for part in parts]), ()
    if packed := sorted(bag.glob("*.zst*")):
        raise DriveError(f"{packed[0]}: packed as a whole; unpack it with `zstd -d` (or `ros2 bag convert`) first")
    bags = {path.name: path for path in bag.glob("*.bag")}
    chosen, notes = choose_scene(bag, bags, scene, "bag (*.mcap, *.db3, *.bag)")
    return chosen, Ros1Storage(chosen), notes
