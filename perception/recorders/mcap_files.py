"""MCAP files that follow one another: each begins with the same records and opens alone."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Final

from mcap.writer import CompressionType, Writer

from perception.core.errors import DriveError

CHUNK_BYTES: Final = 4 * 2**20
"""What a killed recorder can lose, and a reader must unpack at once; of 10 GB the index is read in 0.1 s."""
CHUNK_NS: Final = 1_000_000_000
"""A chunk spans no more, so that who follows a file that is being written is no further behind."""
MAX_TIME_NS: Final = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """When a new file is begun: at this size, or when it spans this time; None for never."""

    max_bytes: int | None = None
    max_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelKey:
    """What makes a channel. metadata: pairs of name and value. schema: name, encoding, definition."""

    topic: str
    encoding: str
    schema: tuple[str, str, bytes]
    metadata: tuple[tuple[str, str], ...]


def part_path(path: Path, part: int) -> Path:
    """Where a part of a recording at `path` lies, counted from 0."""
    return path if part == 0 else path.with_name(f"{path.stem}_{part:04d}{path.suffix}")


class FileSeries:
    """Writes messages to `path`, then to `path` with `_0001`, `_0002` and so on before its suffix.

    begin: called for each file with the number of its part; gives its metadata record (name, content). The channels
    of a file are made as they are used. Raises DriveError where a file exists or the disk refuses.
    """

    def __init__(self, path: Path, rotation: Rotation, begin: Callable[[str, int], tuple[str, dict[str, str]]]) -> None:
        self._path = path
        self._rotation = rotation
        self._begin = begin
        self._recording = uuid.uuid4().hex
        self._files: list[Path] = []
        self._stream: BinaryIO | None = None
        self._writer: Writer | None = None
        self._channels: dict[ChannelKey, int] = {}
        self._schemas: dict[str, int] = {}
        self._first_ns: int | None = None
        self._flushed_ns = 0
        self._sequence = 0
        self._open()

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self._files)

    def is_due(self, log_ns: int) -> bool:
        """Whether the next message should go to a new file."""
        if self._stream is None or self._first_ns is None:
            return False
        size, span = self._rotation.max_bytes, self._rotation.max_ns
        is_large = size is not None and self._stream.tell() >= size
        return is_large or (span is not None and log_ns - self._first_ns >= span)

    def rotate(self) -> None:
        self.close()
        self._open()

    def write(self, key: ChannelKey, log_ns: int, publish_ns: int, data: bytes) -> None:
        """Append a message. Raises DriveError where that fails; the file then ends with its last whole chunk."""
        if not 0 <= log_ns < MAX_TIME_NS:
            raise DriveError(
                f"{self._files[-1]}: {key.topic}: the time {log_ns} ns does not fit MCAP, which counts from 0"
            )
        if self._writer is None:
            raise DriveError(f"{self._files[-1]}: the recording was closed")
        if self._first_ns is None:
            self._first_ns = self._flushed_ns = log_ns
        self._sequence += 1
        try:
            if log_ns - self._flushed_ns >= CHUNK_NS:
                self._writer.flush()  # type: ignore[no-untyped-call]
                self._flushed_ns = log_ns
            channel = self._channel(self._writer, key)
            self._writer.add_message(channel, log_ns, data, max(0, publish_ns), self._sequence & 0xFFFFFFFF)
        except OSError as error:
            self._abandon()
            raise DriveError(f"{self._files[-1]}: cannot be written ({error.strerror}); free some space") from error

    def close(self) -> None:
        """Write the index. Raises DriveError where the disk refuses; the data are there all the same."""
        if self._writer is None or self._stream is None:
            return
        writer, stream, self._writer = self._writer, self._stream, None
        try:
            with stream:
                writer.finish()  # type: ignore[no-untyped-call]
        except OSError as error:
            raise DriveError(f"{self._files[-1]}: its index cannot be written ({error.strerror})") from error

    def _open(self) -> None:
        part = len(self._files)
        path = part_path(self._path, part)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("xb")
            self._files.append(path)
            self._writer = Writer(self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
            self._writer.start(library=f"perception {version('perception')}")
            self._writer.add_metadata(*self._begin(self._recording, part))
            self._stream.flush()
        except FileExistsError as error:
            raise DriveError(f"{path}: it exists already; choose another name") from error
        except OSError as error:
            raise DriveError(f"{path}: cannot be written ({error.strerror})") from error
        self._channels, self._schemas, self._first_ns = {}, {}, None

    def _channel(self, writer: Writer, key: ChannelKey) -> int:
        if key not in self._channels:
            name = key.schema[0]
            if name not in self._schemas:
                self._schemas[name] = writer.register_schema(*key.schema)
            self._channels[key] = writer.register_channel(
                key.topic, key.encoding, self._schemas[name], dict(key.metadata)
            )
        return self._channels[key]

    def _abandon(self) -> None:
        """Let go of a file that takes no more, without its index."""
        stream, self._writer = self._stream, None
        if stream is not None:
            try:
                stream.close()
            except OSError:
                # What is buffered cannot be written either; the raw file is closed all the same.
                return
