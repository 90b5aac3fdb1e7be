"""What the reader of bags needs of a container: its topics, its span, its messages in the order they were logged."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from perception.core.errors import DriveError


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic. type_name: `package/msg/Name`. is_ros1: serialized by ROS 1, else CDR.

    definition: text of the message definition, digest: MD5 (ROS 1) or REP 2016's hash (ROS 2), each empty where the
    container has none.
    """

    name: str
    type_name: str
    is_ros1: bool = False
    definition: str = ""
    digest: str = ""


class Record(NamedTuple):
    """One message as it was logged. error: why it cannot be read, else None."""

    topic: str
    log_ns: int
    data: bytes | memoryview = b""
    error: str | None = None


class Storage(Protocol):
    """A container that can be read. Files are opened when messages are asked for and closed with their iterator."""

    @property
    def topics(self) -> Mapping[str, Topic]: ...

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Log times of the first and the last message; None without any."""
        ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        """Messages of `topics` by log time. Raises DriveError where the container breaks off unexpectedly."""
        ...


class SplitStorage:
    """Several containers that were recorded one after the other."""

    def __init__(self, parts: Sequence[Storage]) -> None:
        self._parts = sorted((part for part in parts if part.span_ns is not None), key=_start_ns)
        self._topics: dict[str, Topic] = {}
        for part in parts:
            for name, topic in part.topics.items():
                known = self._topics.setdefault(name, topic)
                if known.type_name != topic.type_name:
                    raise DriveError(f"{name}: {known.type_name} in one part of the bag, {topic.type_name} in another")
        self._notes = tuple(note for part in parts for note in part.notes)

    @property
    def topics(self) -> Mapping[str, Topic]:
        return self._topics

    @property
    def span_ns(self) -> tuple[int, int] | None:
        spans = [part.span_ns for part in self._parts if part.span_ns is not None]
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        for part in self._parts:
            yield from part.records(topics)


def _start_ns(part: Storage) -> int:
    return part.span_ns[0] if part.span_ns is not None else 0


def normal_type(name: str) -> str:
    """`sensor_msgs/Image` of ROS 1 as `sensor_msgs/msg/Image`; other names as they are."""
    package, _, rest = name.partition("/")
    return f"{package}/msg/{rest}" if rest and "/" not in rest else name


def open_again(path: Path) -> BinaryIO:
    """Open a file that could be opened before. Raises DriveError where it is gone."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DriveError(f"{path}: cannot be read ({error.strerror})") from error


def told_start(head: bytes) -> str:
    """Why a file that begins with `head` is not what its name says, and the remedy."""
    return f"it begins with {head!r}; copy it again" if head else "it is empty; copy it again"
