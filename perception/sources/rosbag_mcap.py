"""MCAP files with messages of ROS, indexed or cut short."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mcap.records import Header

from perception.core.errors import PayloadError
from perception.sources.mcap_chunks import MAGIC, parse, record_at
from perception.sources.mcap_file import McapFile
from perception.sources.rosbag_blocks import span_of
from perception.sources.rosbag_storage import Record, Topic, normal_type

PROFILES = ("ros2", "ros1")

_ENCODINGS = {"cdr": False, "ros1": True}


def has_ros_profile(path: Path) -> bool:
    """Whether this is an MCAP file that a recorder of ROS wrote."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return False
            return parse(Header.read, record_at(file, len(MAGIC))[1]).profile in PROFILES
    except (OSError, PayloadError):
        return False


class McapStorage:
    """One file. Raises DriveError where it is no MCAP file or nothing of it can be read."""

    def __init__(self, path: Path) -> None:
        self._file = McapFile(path)
        self._topics = self._find_topics()

    @property
    def topics(self) -> Mapping[str, Topic]:
        return self._topics

    @property
    def span_ns(self) -> tuple[int, int] | None:
        return span_of(self._file.blocks)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._file.notes

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        wanted = {number: found.topic for number, found in self._file.channels.items() if found.topic in topics}
        return self._file.records(wanted)

    def _find_topics(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        for channel in self._file.channels.values():
            schema = self._file.schemas.get(channel.schema_id)
            if schema is None or channel.message_encoding not in _ENCODINGS:
                continue
            is_text = schema.encoding in ("ros1msg", "ros2msg")
            topics[channel.topic] = Topic(
                name=channel.topic,
                type_name=normal_type(schema.name),
                is_ros1=_ENCODINGS[channel.message_encoding],
                definition=schema.data.decode(errors="replace") if is_text else "",
            )
        return topics
