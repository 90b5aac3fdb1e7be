"""Bags of ROS 2 (sqlite3 and MCAP storage) and ROS 1 as a drive.

Capture times are the header stamps, arrival times those of the log. Which topic is which sensor is guessed, or said by
a `topics.yaml` (`rosbag_topics.py`). Where sensors sit comes from `/tf_static`, how cameras see from `CameraInfo`,
poses from odometry or `/tf`. There are no labels and no route in a bag.
"""

import heapq
from collections.abc import Iterator
from pathlib import Path

from perception.core.errors import DriveError
from perception.core.labels import Labels
from perception.core.messages import AnyMessage
from perception.core.rig import SensorRig
from perception.sources.payloads import choose_scene
from perception.sources.rosbag_interpreter import Interpreter, naming
from perception.sources.rosbag_mcap import McapStorage, has_ros_profile
from perception.sources.rosbag_ros1 import Ros1Storage
from perception.sources.rosbag_sqlite import SqliteStorage
from perception.sources.rosbag_storage import SplitStorage, Storage
from perception.sources.rosbag_topics import FILE_NAME, TopicsConfig, read_topics

_KINDS: dict[str, type[McapStorage | SqliteStorage | Ros1Storage]] = {
    ".mcap": McapStorage,
    ".db3": SqliteStorage,
    ".bag": Ros1Storage,
}


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
        with naming(self._bag, self._mapping):
            self._interpreter = Interpreter(storage, config)
        self._notes = (*scene_notes, *storage.notes, *config_notes, *self._interpreter.notes)

    @property
    def drive_id(self) -> str:
        return f"rosbag/{self._bag.stem if self._bag.is_file() else self._bag.name}"

    @property
    def rig(self) -> SensorRig:
        return self._interpreter.rig

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Log times of the first and the last message of the bag, on the clock of the stamps."""
        if self._storage.span_ns is None:
            return None
        first, last = self._storage.span_ns
        return self._interpreter.arrival_ns(first), self._interpreter.arrival_ns(last)

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        return ()

    def messages(self) -> Iterator[AnyMessage]:
        waiting: list[tuple[int, int, AnyMessage]] = []
        count = 0
        for record in self._storage.records(self._interpreter.topics):
            logged_ns = self._interpreter.arrival_ns(record.log_ns)
            for message in self._interpreter.read(record, logged_ns):
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
